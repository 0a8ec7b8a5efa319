//! Which life of the swarm's Raft a manager belongs to. A swarm that was made anew from one
//! manager (`--force-new-cluster`) begins another one, so that managers of the old one, who may
//! still be a majority among themselves, are not heard any more.

use super::seal::write_atomic;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Status;

/// The first life of a swarm.
pub(crate) const FIRST: u64 = 1;
/// What a manager says that does not belong to one yet.
pub(crate) const NONE: u64 = 0;

/// This manager's epoch; cheap to clone.
#[derive(Clone)]
pub(crate) struct Epoch {
    path: PathBuf,
    value: Arc<Mutex<u64>>,
}

impl Epoch {
    /// Reads what the Raft folder `dir` says.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("epoch");
        let value = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => NONE,
            Err(e) => return Err(e),
        };
        Ok(Self { path, value: Arc::new(Mutex::new(value)) })
    }

    /// Durable when it returns.
    pub(crate) fn set(&self, value: u64) -> io::Result<()> {
        let mut present = self.value();
        write_atomic(&self.path, value.to_string().as_bytes())?;
        *present = value;
        Ok(())
    }

    pub(crate) fn get(&self) -> u64 {
        *self.value()
    }

    /// Whether a message of epoch `theirs` is for us. The first leader that a new manager hears
    /// of decides where it belongs.
    pub(crate) fn check(&self, theirs: u64, adopt: bool) -> Result<(), Status> {
        match self.get() {
            NONE if adopt && theirs != NONE => {
                self.set(theirs).map_err(|e| Status::internal(format!("cannot record the epoch: {e}")))
            }
            ours if ours == theirs => Ok(()),
            ours => {
                tracing::debug!(ours, theirs, "a message of another epoch is refused");
                Err(Status::failed_precondition("this swarm was made anew and does not know its former managers"))
            }
        }
    }

    fn value(&self) -> MutexGuard<'_, u64> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_manager_belongs_where_its_first_leader_does_and_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = Epoch::open(dir.path()).unwrap();
        assert!(epoch.check(7, false).is_err(), "a vote says nothing");
        assert!(epoch.check(NONE, true).is_ok(), "two that know nothing");
        epoch.check(7, true).unwrap();
        let epoch = Epoch::open(dir.path()).unwrap();
        assert_eq!(epoch.get(), 7);
        epoch.check(7, false).unwrap();
        assert!(epoch.check(8, true).is_err());
        assert!(epoch.check(NONE, true).is_err());
    }
}
