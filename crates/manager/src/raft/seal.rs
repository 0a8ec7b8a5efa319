//! Encryption at rest: whoever copies the state folder without the data key learns nothing.
//!
//! Every record is sealed on its own with a random 24-byte nonce, and bound to the place
//! it was written to, so that records cannot be swapped.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const KEY_MODE: u32 = 0o600;

/// Seals and opens records with this manager's data key.
#[derive(Clone)]
pub(crate) struct Seal {
    cipher: XChaCha20Poly1305,
}

impl Seal {
    /// Reads the key, or makes one. A key file of another length is an error, never replaced:
    /// everything written so far would be lost.
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        let key = match fs::read(path) {
            Ok(key) => key,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create_key(path)?,
            Err(e) => return Err(e),
        };
        let cipher = XChaCha20Poly1305::new_from_slice(&key)
            .map_err(|_| io::Error::other(format!("{}: not a {KEY_BYTES} byte key", path.display())))?;
        Ok(Self { cipher })
    }

    /// Nonce and ciphertext of `plain`, readable only with the same `place`.
    pub(crate) fn seal(&self, place: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: place };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| io::Error::other("cannot encrypt a record"))?;
        let mut record = Vec::with_capacity(NONCE_BYTES + sealed.len());
        record.extend_from_slice(&nonce);
        record.extend_from_slice(&sealed);
        Ok(record)
    }

    /// What was sealed at `place`.
    pub(crate) fn open(&self, place: &[u8], record: &[u8]) -> io::Result<Vec<u8>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "record is damaged or of another data key");
        let (nonce, sealed) = record.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let payload = Payload { msg: sealed, aad: place };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| damaged())
    }
}

fn create_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0u8; KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    write_atomic(path, &key)?;
    Ok(key)
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
        let seal = Seal::open_or_create(&dir.path().join("a.key")).unwrap();
        let record = seal.seal(b"1", b"hello").unwrap();
        assert!(!record.windows(5).any(|window| window == b"hello"));
        let again = Seal::open_or_create(&dir.path().join("a.key")).unwrap();
        assert_eq!(again.open(b"1", &record).unwrap(), b"hello");
        assert!(again.open(b"2", &record).is_err());
        let other = Seal::open_or_create(&dir.path().join("b.key")).unwrap();
        assert!(other.open(b"1", &record).is_err());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let seal = Seal::open_or_create(&path).unwrap();
        for record in [&b""[..], b"short", &[0u8; 100]] {
            assert!(seal.open(b"1", record).is_err());
        }
        fs::write(&path, b"too short").unwrap();
        assert!(Seal::open_or_create(&path).is_err());
    }
}
