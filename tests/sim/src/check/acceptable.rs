//! Every write of a plan is acceptable on the snapshot it was made from, and a second
//! look finds nothing left to do.

use super::{Check, Verdict};
use skep_cluster::store::Store;
use skep_cluster::{Command, Write};
use skep_model::Timestamp;

pub(super) struct Acceptable;

impl Check for Acceptable {
    fn name(&self) -> &'static str {
        "acceptable plans"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], now: Timestamp) -> Verdict {
        let mut store = snapshot.clone();
        let command = Command { id: String::new(), at: now, writes: writes.to_vec(), independent: true };
        let applied = store.apply(store.index() + 1, &command).map_err(|rejection| rejection.to_string())?;
        match applied.dropped.first() {
            None => Ok(()),
            Some(key) => Err(format!("the store refuses {key:?} of a plan made from it")),
        }
    }
}
