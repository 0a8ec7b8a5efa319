//! Keys from what people can remember.

use crate::unlock_key::KEY_BYTES;
use ring::pbkdf2;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// Rounds of PBKDF2-HMAC-SHA256 (OWASP's floor of 2023).
const ROUNDS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(rounds) => rounds,
    None => panic!("not zero"),
};

/// The key that a passphrase stands for; takes a good part of a second.
pub fn key_of_passphrase(passphrase: &str, salt: &[u8; 16]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0u8; KEY_BYTES]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, passphrase.as_bytes(), key.as_mut());
    key
}
