//! Encryption at rest: whoever copies the state folder without the data key learns nothing.
//!
//! Every record is sealed on its own with a random 24-byte nonce, and bound to the place
//! it was written to, so that records cannot be swapped.

use skep_identity::{Vault, open_sealed, seal};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const KEY_MODE: u32 = 0o600;

/// Seals and opens records with this manager's data key.
#[derive(Clone)]
pub(crate) struct Seal {
    key: Arc<Zeroizing<[u8; 32]>>,
}

impl Seal {
    /// With the vault's data key, which is made if there is none. A damaged key file is an
    /// error, never replaced: everything written so far would be lost.
    pub(crate) fn of(vault: &Vault) -> Result<Self, skep_identity::IdentityError> {
        Ok(Self { key: Arc::new(vault.data_key_or_create()?) })
    }

    /// Nonce and ciphertext of `plain`, readable only with the same `place`.
    pub(crate) fn seal(&self, place: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
        seal(&self.key, place, plain).map_err(io::Error::other)
    }

    /// What was sealed at `place`.
    pub(crate) fn open(&self, place: &[u8], record: &[u8]) -> io::Result<Vec<u8>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "record is damaged or of another data key");
        open_sealed(&self.key, place, record).map_err(|_| damaged())
    }
}

/// Replaces a private file; durable when it returns.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(KEY_MODE).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_place_open_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let vault = |name: &str| Vault::new(dir.path().join(name));
        let seal = Seal::of(&vault("a.key")).unwrap();
        let record = seal.seal(b"1", b"hello").unwrap();
        assert!(!record.windows(5).any(|window| window == b"hello"));
        let again = Seal::of(&vault("a.key")).unwrap();
        assert_eq!(again.open(b"1", &record).unwrap(), b"hello");
        assert!(again.open(b"2", &record).is_err());
        let other = Seal::of(&vault("b.key")).unwrap();
        assert!(other.open(b"1", &record).is_err());
        for record in [&b""[..], b"short", &[0u8; 100]] {
            assert!(seal.open(b"1", record).is_err());
        }
    }
}
