//! What protects a manager's secrets at rest. Its data key lies in one file, plain or wrapped
//! by the swarm's unlock key; everything else that is secret (the Raft log, the node's private
//! key) is sealed with the data key. So a change of the unlock key replaces one file, and a
//! crash at any point leaves all that is sealed readable with one of the two keys.

use crate::error::{IdentityError, Result};
use crate::unlock_key::{KEY_BYTES, UnlockKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 24;
const KEY_MODE: u32 = 0o600;
/// First bytes of a wrapped data key and of one that was wrapped before; the digit is the
/// format's version. The version of the lock follows, 8 bytes big-endian. A file of the bare
/// key is of a manager that never was locked.
const WRAPPED: &[u8; 8] = b"SKEPLCK1";
const PLAIN: &[u8; 8] = b"SKEPPLN1";
const SEALED_BEGIN: &str = "-----BEGIN SKEP SEALED PRIVATE KEY-----";
const SEALED_END: &str = "-----END SKEP SEALED PRIVATE KEY-----";
/// Binds a sealed private key to its purpose.
const PRIVATE_KEY_PLACE: &[u8] = b"node private key";
const BASE64_LINE: usize = 64;

/// A 32-byte key that is wiped when dropped.
type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Handle to this manager's data key; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// The unlock key this process knows, if the file is wrapped.
    unlock_key: Mutex<Option<UnlockKey>>,
    /// Held while files that depend on the vault change.
    changing: Mutex<()>,
}

impl Vault {
    /// The vault whose data key lies in the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let shared = Shared { path: path.into(), unlock_key: Mutex::default(), changing: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the file is wrapped, be the unlock key known here or not.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn is_locked(&self) -> Result<bool> {
        Ok(matches!(self.read()?, Some(KeyFile { content: Content::Wrapped(_), .. })))
    }

    /// Whether the data key cannot be read without being told an unlock key.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn needs_unlocking(&self) -> Result<bool> {
        match self.data_key() {
            Ok(_) => Ok(false),
            Err(IdentityError::Locked) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Tells the vault the unlock key.
    ///
    /// # Errors
    /// [`IdentityError::WrongUnlockKey`] when it is not the one the file is wrapped with.
    pub fn unlock(&self, key: &UnlockKey) -> Result<()> {
        if let Some(KeyFile { version, content: Content::Wrapped(sealed) }) = self.read()? {
            unwrap_key(version, &sealed, key)?;
            *self.known() = Some(key.clone());
        }
        Ok(())
    }

    /// The data key; `None` if there is none yet.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] when it is wrapped and the vault was not unlocked.
    pub fn data_key(&self) -> Result<Option<Key>> {
        self.read()?.map(|file| self.key_in(file)).transpose()
    }

    fn key_in(&self, file: KeyFile) -> Result<Key> {
        let sealed = match file.content {
            Content::Plain(key) => return Ok(key),
            Content::Wrapped(sealed) => sealed,
        };
        let known = self.known().clone();
        let key = known.as_ref().ok_or(IdentityError::Locked)?;
        // Another swarm's file, if this process has left the one it knew.
        unwrap_key(file.version, &sealed, key).map_err(|_| IdentityError::Locked)
    }

    /// The data key, made if there is none.
    ///
    /// # Errors
    /// As `data_key`, or when the file cannot be written.
    pub fn data_key_or_create(&self) -> Result<Key> {
        if let Some(key) = self.data_key()? {
            return Ok(key);
        }
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        fill_random(key.as_mut())?;
        self.write(key.as_ref())?;
        Ok(key)
    }

    /// Wraps the data key with `wanted`, or unwraps it for good. `version` counts the changes
    /// of the swarm's lock: one that is not newer than the file's is passed over, for a manager
    /// that was away hears of old changes first. Answers whether the file changed.
    ///
    /// # Errors
    /// When there is no data key, it is locked, or the file cannot be written.
    pub fn relock(&self, wanted: Option<&UnlockKey>, version: u64) -> Result<bool> {
        let _changing = self.hold();
        let file = self.read()?.ok_or(IdentityError::Locked)?;
        if file.version >= version {
            return Ok(false);
        }
        let key = self.key_in(file)?;
        let mut bytes = if wanted.is_some() { WRAPPED } else { PLAIN }.to_vec();
        bytes.extend_from_slice(&version.to_be_bytes());
        match wanted {
            Some(wanted) => bytes.extend_from_slice(&seal(wanted.as_bytes(), &place_of(version), key.as_ref())?),
            None => bytes.extend_from_slice(key.as_ref()),
        }
        self.write(&bytes)?;
        *self.known() = wanted.cloned();
        Ok(true)
    }

    /// Keeps others from changing what depends on the vault.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seal_key(&self, key_pem: &str) -> Result<Zeroizing<String>> {
        let data_key = self.data_key()?.ok_or(IdentityError::Locked)?;
        let sealed = STANDARD.encode(seal(&data_key, PRIVATE_KEY_PLACE, key_pem.as_bytes())?);
        let mut text = format!("{SEALED_BEGIN}\n");
        for line in sealed.as_bytes().chunks(BASE64_LINE) {
            text.extend(line.iter().copied().map(char::from));
            text.push('\n');
        }
        text.push_str(SEALED_END);
        text.push('\n');
        Ok(Zeroizing::new(text))
    }

    pub(crate) fn open_key(&self, text: &str) -> Result<Zeroizing<String>> {
        let data_key = self.data_key()?.ok_or(IdentityError::Locked)?;
        let body = text.trim().strip_prefix(SEALED_BEGIN).and_then(|rest| rest.strip_suffix(SEALED_END));
        let body: String = body.ok_or(IdentityError::Damaged)?.split_whitespace().collect();
        let sealed = STANDARD.decode(body).map_err(|_| IdentityError::Damaged)?;
        let plain = open_sealed(&data_key, PRIVATE_KEY_PLACE, &sealed)?;
        String::from_utf8(plain).map(Zeroizing::new).map_err(|_| IdentityError::Damaged)
    }

    fn known(&self) -> MutexGuard<'_, Option<UnlockKey>> {
        self.shared.unlock_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Option<KeyFile>> {
        match fs::read(&self.shared.path).map(Zeroizing::new) {
            Ok(bytes) => KeyFile::parse(&bytes).map(Some).ok_or_else(|| self.error(damaged())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Durable when it returns.
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let path = &self.shared.path;
        let write = || -> io::Result<()> {
            let temp = path.with_extension("tmp");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(KEY_MODE).open(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temp, path)?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        write().map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> IdentityError {
        IdentityError::File { path: self.shared.path.clone(), source }
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// Whether a key file's text must be opened with the data key.
pub(crate) fn is_sealed(text: &str) -> bool {
    text.trim_start().starts_with(SEALED_BEGIN)
}

/// What the vault's file says.
struct KeyFile {
    version: u64,
    content: Content,
}

enum Content {
    Plain(Key),
    Wrapped(Vec<u8>),
}

impl KeyFile {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let key = |bytes: &[u8]| Some(Content::Plain(Zeroizing::new(bytes.try_into().ok()?)));
        if bytes.len() == KEY_BYTES {
            return Some(Self { version: 0, content: key(bytes)? });
        }
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (version, content) = rest.split_first_chunk::<8>()?;
        let content = match magic {
            PLAIN => key(content)?,
            WRAPPED => Content::Wrapped(content.to_vec()),
            _ => return None,
        };
        Some(Self { version: u64::from_be_bytes(*version), content })
    }
}

fn place_of(version: u64) -> [u8; 16] {
    let mut place = [0; 16];
    place[..8].copy_from_slice(WRAPPED);
    place[8..].copy_from_slice(&version.to_be_bytes());
    place
}

fn unwrap_key(version: u64, sealed: &[u8], key: &UnlockKey) -> Result<Key> {
    let plain = open_sealed(key.as_bytes(), &place_of(version), sealed).map_err(|_| IdentityError::WrongUnlockKey)?;
    let plain: [u8; KEY_BYTES] = plain.as_slice().try_into().map_err(|_| IdentityError::Damaged)?;
    Ok(Zeroizing::new(plain))
}

/// Random nonce and ciphertext of `plain` (XChaCha20-Poly1305), readable only with the same
/// key and `place`.
///
/// # Errors
/// When the random source fails.
pub fn seal(key: &[u8; KEY_BYTES], place: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let mut nonce = [0u8; NONCE_BYTES];
    fill_random(&mut nonce)?;
    let cipher = XChaCha20Poly1305::new(key.into());
    let payload = Payload { msg: plain, aad: place };
    let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| IdentityError::Encrypt)?;
    Ok([&nonce[..], &sealed].concat())
}

/// What [`seal`] sealed with this key at this place.
///
/// # Errors
/// [`IdentityError::Damaged`] for anything else.
pub fn open_sealed(key: &[u8; KEY_BYTES], place: &[u8], record: &[u8]) -> Result<Vec<u8>> {
    let (nonce, sealed) = record.split_at_checked(NONCE_BYTES).ok_or(IdentityError::Damaged)?;
    let cipher = XChaCha20Poly1305::new(key.into());
    let payload = Payload { msg: sealed, aad: place };
    cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| IdentityError::Damaged)
}

fn fill_random(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| IdentityError::Encrypt)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a {KEY_BYTES} byte key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertStore, CertificateAuthority, CertificateRequest, NodeSubject, StoredIdentity};
    use skep_model::Timestamp;
    use skep_model::node::Role;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    /// The vault as another process would find it.
    fn vault(dir: &Path) -> Vault {
        Vault::new(dir.join("data.key"))
    }

    fn identity(role: Role) -> StoredIdentity {
        let authority = CertificateAuthority::create(NOW).unwrap();
        let subject = NodeSubject { node_id: "n".into(), role, cluster_id: "c".into() };
        let request = CertificateRequest::create().unwrap();
        let chain_pem = authority.sign(request.pem(), &subject, NOW, Duration::from_secs(7200)).unwrap();
        let key_pem = request.key_pem().to_owned().into();
        StoredIdentity { root_pem: authority.cert_pem().to_owned(), chain_pem, key_pem }
    }

    #[test]
    fn only_the_present_unlock_key_opens_a_locked_vault() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (UnlockKey::create().unwrap(), UnlockKey::create().unwrap());
        let running = vault(dir.path());
        assert!(running.data_key().unwrap().is_none());
        let data_key = running.data_key_or_create().unwrap();
        assert!(!vault(dir.path()).needs_unlocking().unwrap());

        assert!(running.relock(Some(&first), 1).unwrap());
        assert!(!running.relock(None, 1).unwrap(), "an old change of the lock");
        assert_eq!(running.data_key().unwrap().unwrap(), data_key);
        let file = fs::read(dir.path().join("data.key")).unwrap();
        assert!(!file.windows(8).any(|part| part == &data_key[..8]));
        let restarted = vault(dir.path());
        assert!(restarted.is_locked().unwrap() && restarted.needs_unlocking().unwrap());
        assert!(matches!(restarted.data_key_or_create(), Err(IdentityError::Locked)));
        assert!(matches!(restarted.unlock(&second), Err(IdentityError::WrongUnlockKey)));
        restarted.unlock(&first).unwrap();
        assert_eq!(restarted.data_key_or_create().unwrap(), data_key);

        restarted.relock(Some(&second), 2).unwrap();
        assert!(matches!(vault(dir.path()).unlock(&first), Err(IdentityError::WrongUnlockKey)));
        assert!(!restarted.relock(Some(&first), 1).unwrap());
        restarted.relock(None, 3).unwrap();
        assert_eq!(vault(dir.path()).data_key().unwrap().unwrap(), data_key);
    }

    #[test]
    fn a_locked_managers_private_key_is_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let running = vault(dir.path());
        running.data_key_or_create().unwrap();
        let store = CertStore::with_vault(dir.path(), running.clone());
        let identity = identity(Role::Manager);
        store.save(&identity).unwrap();
        let on_disk = || fs::read_to_string(dir.path().join("swarm-node.key")).unwrap();
        assert_eq!(on_disk(), *identity.key_pem);

        let key = UnlockKey::create().unwrap();
        running.relock(Some(&key), 1).unwrap();
        store.reseal().unwrap();
        assert!(is_sealed(&on_disk()));
        assert_eq!(store.load().unwrap().unwrap().key_pem, identity.key_pem);
        let restarted = vault(dir.path());
        let again = CertStore::with_vault(dir.path(), restarted.clone());
        assert!(matches!(again.load(), Err(IdentityError::Locked)));
        assert!(matches!(CertStore::new(dir.path()).load(), Err(IdentityError::Locked)));
        restarted.unlock(&key).unwrap();
        assert_eq!(again.load().unwrap().unwrap().key_pem, identity.key_pem);

        restarted.relock(None, 2).unwrap();
        // A crash here leaves a sealed key and a plain data key.
        assert_eq!(
            CertStore::with_vault(dir.path(), vault(dir.path())).load().unwrap().unwrap().key_pem,
            identity.key_pem
        );
        again.reseal().unwrap();
        assert_eq!(on_disk(), *identity.key_pem);
    }

    #[test]
    fn a_workers_key_stays_plain() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        vault.data_key_or_create().unwrap();
        vault.relock(Some(&UnlockKey::create().unwrap()), 1).unwrap();
        CertStore::with_vault(dir.path(), vault).save(&identity(Role::Worker)).unwrap();
        assert!(CertStore::new(dir.path()).load().unwrap().is_some());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = UnlockKey::create().unwrap();
        for bytes in [&b""[..], b"short", WRAPPED, &[WRAPPED.as_slice(), &[0; 80]].concat(), PLAIN, &[7; 33]] {
            fs::write(dir.path().join("data.key"), bytes).unwrap();
            let vault = vault(dir.path());
            assert!(vault.data_key().is_err(), "{bytes:?}");
            assert!(vault.relock(None, 1).is_err());
            assert!(vault.unlock(&key).is_err());
        }
        for record in [&b""[..], b"short", &[0u8; 100]] {
            assert!(open_sealed(key.as_bytes(), b"place", record).is_err());
        }
        let record = seal(key.as_bytes(), b"place", b"hello").unwrap();
        assert_eq!(open_sealed(key.as_bytes(), b"place", &record).unwrap(), b"hello");
        assert!(open_sealed(key.as_bytes(), b"elsewhere", &record).is_err());
    }
}
