//! `--force-new-cluster`: one manager goes on alone with all it has, after the majority was
//! lost for good. Works on the files of a manager that does not run.

use super::epoch::Epoch;
use super::log::LogStore;
use super::machine::Machine;
use super::members::own_raft_id;
use super::seal::Seal;
use super::snapshot::SnapshotFile;
use super::types::{Member, Membership};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// Makes the manager whose Raft folder is `dir` the only member. May be repeated, also after
/// a crash at any point.
///
/// Every entry of its log counts, not only what it knows to be committed: the leader that is
/// lost may have acknowledged the last ones.
pub(super) async fn make_anew(dir: &Path, seal: Seal, own: Member) -> io::Result<()> {
    let raft_id = own_raft_id(dir, 0)?;
    // From here on nobody of the old swarm is listened to.
    Epoch::open(dir)?.set(rand::random::<u64>().max(super::epoch::FIRST + 1))?;
    let mut log = LogStore::open(&dir.join("log"), seal.clone())?;
    let mut closed = log.closed();
    let (mut machine, _) = Machine::open(SnapshotFile::new(dir, seal))?;
    let (applied, _) = machine.applied_state().await?;
    let rest = log.try_get_log_entries(applied.map_or(0, |id| id.index + 1)..).await?;
    machine.apply(tokio_stream::iter(rest.into_iter().map(|entry| Ok((entry, None))))).await?;
    let (applied, _) = machine.applied_state().await?;
    let Some(last) = applied else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this manager has no state to go on with"));
    };
    let voters = vec![BTreeSet::from([raft_id])];
    let membership = openraft::Membership::new(voters, BTreeMap::from([(raft_id, own)])).map_err(io::Error::other)?;
    let mut snapshot = machine.get_snapshot_builder().await;
    snapshot.set_membership(Membership::new(Some(last), membership));
    snapshot.build_snapshot().await?;
    log.purge(last).await?;
    drop(log);
    // An error says that the files are closed.
    let _ = closed.changed().await;
    Ok(())
}
