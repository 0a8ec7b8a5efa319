//! Unlock keys: `SWMKEY-1-<32 bytes in base64>`. Shown to the user once, and replicated
//! among managers, each of which wraps its own keys with it.

use crate::error::{IdentityError, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

const PREFIX: &str = "SWMKEY-1-";
/// Bytes of every key in this crate.
pub(crate) const KEY_BYTES: usize = 32;

/// A key that unlocks managers.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Zeroizing<[u8; KEY_BYTES]>);

impl UnlockKey {
    /// A fresh one.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn create() -> Result<Self> {
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        SystemRandom::new().fill(bytes.as_mut()).map_err(|_| IdentityError::Encrypt)?;
        Ok(Self(bytes))
    }

    /// One that was kept as bytes.
    ///
    /// # Errors
    /// When there are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| IdentityError::UnlockKey)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key as text. A secret: not to be logged.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", STANDARD_NO_PAD.encode(self.0.as_ref()))
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey { .. }")
    }
}

impl FromStr for UnlockKey {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(IdentityError::UnlockKey)?;
        let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| IdentityError::UnlockKey)?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form_and_debug_hides_it() {
        let key = UnlockKey::create().unwrap();
        let text = key.to_text();
        assert_eq!(text.len(), PREFIX.len() + 43);
        assert_eq!(text.parse::<UnlockKey>().unwrap(), key);
        assert_eq!(format!(" {text}\n").parse::<UnlockKey>().unwrap(), key);
        assert_eq!(format!("{key:?}"), "UnlockKey { .. }");
    }

    #[test]
    fn malformed_keys_are_refused() {
        for text in ["", "SWMKEY-1-", "SWMKEY-1-AAAA", "SWMKEY-2-AAAA", "SWMTKN-1-x", "SWMKEY-1-!!!!"] {
            assert_eq!(text.parse::<UnlockKey>().unwrap_err().to_string(), "invalid key string", "{text}");
        }
    }
}
