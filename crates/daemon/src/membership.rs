//! What this node remembers of its membership, in `<data root>/swarm/node.json`. Written
//! before a swarm is made or joined; without a certificate beside it, it says nothing.

use serde::{Deserialize, Serialize};
use skep_model::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FILE: &str = "node.json";

/// How this node takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// Where a manager here listens.
    pub(crate) listen_addr: SocketAddr,
    /// `host:port` told to others; empty on a worker that was not told one.
    #[serde(default)]
    pub(crate) advertise_addr: String,
    /// Host part of the data path's address.
    #[serde(default)]
    pub(crate) data_path_addr: String,
    /// Managers to look for first.
    #[serde(default)]
    pub(crate) managers: Vec<String>,
    /// Leaving was begun and must be finished.
    #[serde(default)]
    pub(crate) leaving: bool,
}

/// The swarm directory of a node.
#[derive(Debug, Clone)]
pub(crate) struct MembershipStore {
    directory: PathBuf,
}

impl MembershipStore {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// `None`: this node never was in a swarm.
    pub(crate) fn load(&self) -> Result<Option<Membership>> {
        let path = self.directory.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes);
                parsed.map(Some).map_err(|e| Error::internal(format!("{}: {e}", path.display())))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e).context(path.display())),
        }
    }

    /// Durable when it returns.
    pub(crate) fn save(&self, membership: &Membership) -> Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let temporary = self.directory.join("node.json.new");
        let text = serde_json::to_vec_pretty(membership).map_err(|e| Error::internal(e.to_string()))?;
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }

    /// Forgets the swarm with everything that belongs to it.
    pub(crate) fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::from(e).context(self.directory.display())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_is_remembered_until_cleared() {
        let directory = std::env::temp_dir().join(format!("skep-membership-{}", std::process::id()));
        let store = MembershipStore::new(directory.join("swarm"));
        assert_eq!(store.load().unwrap(), None);
        let membership = Membership {
            listen_addr: "0.0.0.0:2377".parse().unwrap(),
            advertise_addr: "10.0.0.1:2377".into(),
            data_path_addr: String::new(),
            managers: vec!["10.0.0.2:2377".into()],
            leaving: false,
        };
        store.save(&membership).unwrap();
        assert_eq!(store.load().unwrap(), Some(membership));
        store.clear().unwrap();
        store.clear().unwrap();
        assert_eq!(store.load().unwrap(), None);
        fs::remove_dir_all(directory).unwrap();
    }
}
