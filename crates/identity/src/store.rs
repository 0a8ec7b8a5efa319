//! A node's certificates on disk, replaced so that a crash at any point leaves a
//! certificate and a key that belong together.
//!
//! A new pair is first written whole under names ending in `.new`, then renamed over the
//! old one, key first. What a crash left of that is finished or dropped by `load`.

use crate::error::{IdentityError, Result};
use crate::peer::Peer;
use crate::tls::{certified_key, first_certificate};
use crate::vault::{self, Vault};
use skep_model::node::Role;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const ROOT_FILE: &str = "swarm-root-ca.crt";
const CERT_FILE: &str = "swarm-node.crt";
const KEY_FILE: &str = "swarm-node.key";
const NEW_CERT_FILE: &str = "swarm-node.crt.new";
const NEW_KEY_FILE: &str = "swarm-node.key.new";
const CERT_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// What the files hold.
#[derive(Clone)]
pub struct StoredIdentity {
    pub root_pem: String,
    /// Leaf first.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
}

/// The folder with a node's certificates. One process uses it at a time.
#[derive(Debug, Clone)]
pub struct CertStore {
    dir: PathBuf,
    vault: Option<Vault>,
}

impl CertStore {
    /// Of a node whose key is never locked.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), vault: None }
    }

    /// Of a node that may be a manager: while the vault is locked, a manager's key is written
    /// sealed with what the vault keeps.
    pub fn with_vault(dir: impl Into<PathBuf>, vault: Vault) -> Self {
        Self { dir: dir.into(), vault: Some(vault) }
    }

    /// What is stored, after finishing an interrupted `save`. `None`: this node has no identity.
    ///
    /// # Errors
    /// When files cannot be read, or certificate and key do not belong together.
    /// [`IdentityError::Locked`] when the key is sealed and the vault is not unlocked.
    pub fn load(&self) -> Result<Option<StoredIdentity>> {
        let _changing = self.vault.as_ref().map(Vault::hold);
        self.load_held()
    }

    fn load_held(&self) -> Result<Option<StoredIdentity>> {
        self.recover()?;
        let (Some(root_pem), Some(chain_pem), Some(key_pem)) =
            (self.read(ROOT_FILE)?, self.read(CERT_FILE)?, self.read(KEY_FILE)?)
        else {
            return Ok(None);
        };
        let key_pem = self.opened(key_pem)?;
        certified_key(&chain_pem, &key_pem)?;
        Ok(Some(StoredIdentity { root_pem, chain_pem, key_pem }))
    }

    /// Writes the key again as the vault is now: sealed or plain. To be called after the vault
    /// was locked or unlocked for good.
    ///
    /// # Errors
    /// As `load` and `save`.
    pub fn reseal(&self) -> Result<()> {
        let _changing = self.vault.as_ref().map(Vault::hold);
        let Some(identity) = self.load_held()? else { return Ok(()) };
        let present = self.read(KEY_FILE)?.is_some_and(|text| vault::is_sealed(&text));
        if present == self.is_to_be_sealed(&identity)? { Ok(()) } else { self.save_held(&identity) }
    }

    fn is_to_be_sealed(&self, identity: &StoredIdentity) -> Result<bool> {
        let Some(vault) = &self.vault else { return Ok(false) };
        let role = Peer::from_der(&first_certificate(&identity.chain_pem)?)?.role;
        Ok(role == Role::Manager && vault.is_locked()?)
    }

    fn opened(&self, key_pem: String) -> Result<Zeroizing<String>> {
        match &self.vault {
            Some(vault) if vault::is_sealed(&key_pem) => vault.open_key(&key_pem),
            None if vault::is_sealed(&key_pem) => Err(IdentityError::Locked),
            Some(_) | None => Ok(Zeroizing::new(key_pem)),
        }
    }

    fn closed(&self, identity: &StoredIdentity) -> Result<Zeroizing<String>> {
        match &self.vault {
            Some(vault) if self.is_to_be_sealed(identity)? => vault.seal_key(&identity.key_pem),
            Some(_) | None => Ok(identity.key_pem.clone()),
        }
    }

    /// Replaces all three files; durable when it returns.
    ///
    /// # Errors
    /// When the pair does not belong together or a file cannot be written.
    pub fn save(&self, identity: &StoredIdentity) -> Result<()> {
        let _changing = self.vault.as_ref().map(Vault::hold);
        self.save_held(identity)
    }

    fn save_held(&self, identity: &StoredIdentity) -> Result<()> {
        certified_key(&identity.chain_pem, &identity.key_pem)?;
        let key = self.closed(identity)?;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir).map_err(|e| self.error("", e))?;
        self.write_atomic(ROOT_FILE, identity.root_pem.as_bytes(), CERT_MODE)?;
        self.write_atomic(NEW_KEY_FILE, key.as_bytes(), KEY_MODE)?;
        self.write_atomic(NEW_CERT_FILE, identity.chain_pem.as_bytes(), CERT_MODE)?;
        self.rename(NEW_KEY_FILE, KEY_FILE)?;
        self.rename(NEW_CERT_FILE, CERT_FILE)
    }

    /// Removes the files: the node left its swarm.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn clear(&self) -> Result<()> {
        for name in [NEW_KEY_FILE, NEW_CERT_FILE, KEY_FILE, CERT_FILE, ROOT_FILE] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// The new certificate is the last file of a pair to be written: with it, the pair is whole.
    fn recover(&self) -> Result<()> {
        let new_key = self.read(NEW_KEY_FILE)?;
        let Some(new_cert) = self.read(NEW_CERT_FILE)? else {
            return self.remove(NEW_KEY_FILE);
        };
        let key = match &new_key {
            Some(key) => Some(key.clone()),
            None => self.read(KEY_FILE)?,
        };
        let key = key.map(|key| self.opened(key)).transpose()?;
        let whole = key.is_some_and(|key| certified_key(&new_cert, &key).is_ok());
        if !whole {
            self.remove(NEW_KEY_FILE)?;
            return self.remove(NEW_CERT_FILE);
        }
        if new_key.is_some() {
            self.rename(NEW_KEY_FILE, KEY_FILE)?;
        }
        self.rename(NEW_CERT_FILE, CERT_FILE)
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error(name, e)),
        }
    }

    fn write_atomic(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let temp = format!("{name}.tmp");
        let write = || -> io::Result<()> {
            let path = self.dir.join(&temp);
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| self.error(&temp, e))?;
        self.rename(&temp, name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to)).map_err(|e| self.error(to, e))?;
        sync_dir(&self.dir).map_err(|e| self.error("", e))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error(name, e)),
            _ => Ok(()),
        }
    }

    fn error(&self, name: &str, source: io::Error) -> IdentityError {
        IdentityError::File { path: self.dir.join(name), source }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateAuthority, CertificateRequest, NodeSubject};
    use skep_model::Timestamp;
    use skep_model::node::Role;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn identity(authority: &CertificateAuthority) -> StoredIdentity {
        let now = Timestamp(1_800_000_000_000_000_000);
        let subject = NodeSubject { node_id: "n".into(), role: Role::Worker, cluster_id: "c".into() };
        let request = CertificateRequest::create().unwrap();
        let chain_pem = authority.sign(request.pem(), &subject, now, Duration::from_secs(7200)).unwrap();
        let key_pem = Zeroizing::new(request.key_pem().to_owned());
        StoredIdentity { root_pem: authority.cert_pem().to_owned(), chain_pem, key_pem }
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(Timestamp(1_800_000_000_000_000_000)).unwrap()
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let store = CertStore::new(dir.path().join("certificates"));
        assert!(store.load().unwrap().is_none());
        let saved = identity(&authority());
        store.save(&saved).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.chain_pem, saved.chain_pem);
        let mode = fs::metadata(dir.path().join("certificates/swarm-node.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        store.clear().unwrap();
        assert!(store.load().unwrap().is_none());
    }

    #[test]
    fn a_crash_at_any_step_of_a_replacement_leaves_a_matching_pair() {
        let authority = authority();
        let (old, new) = (identity(&authority), identity(&authority));
        // The files as they are after each step, and whether the new pair must win.
        for (step, new_wins) in [(1, false), (2, true), (3, true), (4, true)] {
            let dir = tempfile::tempdir().unwrap();
            let store = CertStore::new(dir.path());
            store.save(&old).unwrap();
            let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
            put(if step >= 3 { KEY_FILE } else { NEW_KEY_FILE }, &new.key_pem);
            if step >= 2 {
                put(if step >= 4 { CERT_FILE } else { NEW_CERT_FILE }, &new.chain_pem);
            }
            let loaded = store.load().unwrap().unwrap();
            let expect = if new_wins { &new } else { &old };
            assert_eq!(loaded.chain_pem, expect.chain_pem, "step {step}");
            assert!(!dir.path().join(NEW_KEY_FILE).exists() && !dir.path().join(NEW_CERT_FILE).exists());
        }
    }

    #[test]
    fn a_pair_that_does_not_match_is_refused() {
        let authority = authority();
        let mut mixed = identity(&authority);
        mixed.key_pem = identity(&authority).key_pem;
        let dir = tempfile::tempdir().unwrap();
        assert!(CertStore::new(dir.path()).save(&mixed).is_err());
    }
}
