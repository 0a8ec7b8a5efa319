//! Fresh ids from the system's random source.

use rand::RngCore;
use skep_cluster::ids::IdSource;

/// The manager's id source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RandomIds;

impl IdSource for RandomIds {
    fn next(&mut self) -> u128 {
        let mut bytes = [0u8; 16];
        rand::rng().fill_bytes(&mut bytes);
        u128::from_be_bytes(bytes)
    }
}
