//! The log and state machine against openraft's own suite, and against being killed.

use super::log::LogStore;
use super::machine::Machine;
use super::seal::Seal;
use super::snapshot::SnapshotFile;
use super::types::{Entry, LogId, Proposal, TypeConfig, Vote};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, RaftSnapshotBuilder, StorageError};
use skep_cluster::Command;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(dir.path());
        Ok((dir, log, machine))
    }
}

fn open(dir: &Path) -> (LogStore, Machine) {
    let seal = Seal::of(&skep_identity::Vault::new(dir.join("data.key"))).unwrap();
    let log = LogStore::open(&dir.join("log"), seal.clone()).unwrap();
    let (machine, _) = Machine::open(SnapshotFile::new(dir, seal)).unwrap();
    (log, machine)
}

fn log_id(term: u64, index: u64) -> LogId {
    use openraft::vote::RaftLeaderId;
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(term, 1);
    LogId::new(leader.to_committed(), index)
}

/// An entry whose command takes `bytes` on disk.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Command { id: "x".repeat(bytes), ..Command::default() };
    Entry { log_id: log_id(term, index), payload: openraft::EntryPayload::Normal(Proposal(Arc::new(command))) }
}

#[test]
fn the_store_passes_openrafts_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let vote = Vote::new_committed(3, 1);
    let sizes = [10, 3_000, 200_000, 1_500_000, 50];
    {
        let (mut log, _) = open(dir.path());
        log.save_vote(&vote).await.unwrap();
        for (index, bytes) in (1..).zip(sizes) {
            log.blocking_append([entry(3, index, bytes)]).await.unwrap();
        }
        log.save_committed(Some(log_id(3, 4))).await.unwrap();
    }
    let (mut log, _) = open(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 4)));
    let entries = log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.len(), sizes.len());
    for (read, (index, bytes)) in entries.iter().zip((1..).zip(sizes)) {
        assert_eq!(read, &entry(3, index, bytes));
    }
    // A message to a follower is limited, but carries at least one entry.
    assert_eq!(log.limited_get_log_entries(4, 6).await.unwrap().len(), 1);
    assert_eq!(log.limited_get_log_entries(1, 6).await.unwrap().len(), 4);
    assert!(std::fs::read_dir(dir.path().join("log/blobs")).unwrap().next().is_none());
}

#[tokio::test]
async fn truncated_and_purged_entries_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut log, _) = open(dir.path());
        log.blocking_append((0..100).map(|index| entry(1, index, 5_000))).await.unwrap();
        log.truncate_after(Some(log_id(1, 79))).await.unwrap();
        log.blocking_append([entry(2, 80, 10)]).await.unwrap();
        log.purge(log_id(1, 49)).await.unwrap();
        log.save_vote(&Vote::new(2, 1)).await.unwrap();
    }
    let (mut log, _) = open(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 49)), Some(log_id(2, 80))));
    let indices: Vec<u64> = log.try_get_log_entries(0..).await.unwrap().iter().map(|e| e.log_id.index).collect();
    assert_eq!(indices, (50..=80).collect::<Vec<_>>());
    assert_eq!(log.try_get_log_entries(80..81).await.unwrap(), [entry(2, 80, 10)]);
}

#[tokio::test]
async fn nothing_readable_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut log, _) = open(dir.path());
        log.blocking_append([entry(1, 0, 100)]).await.unwrap();
    }
    let bytes = std::fs::read(dir.path().join("log/db")).unwrap();
    assert!(!bytes.windows(20).any(|window| window == b"xxxxxxxxxxxxxxxxxxxx"));
}

#[tokio::test]
async fn a_snapshot_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_log, mut machine) = open(dir.path());
        let entries = [Ok((openraft::Entry { log_id: log_id(1, 7), payload: openraft::EntryPayload::Blank }, None))];
        machine.apply(tokio_stream::iter(entries)).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    }
    let (_log, mut machine) = open(dir.path());
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(1, 7)));
    assert!(machine.get_current_snapshot().await.unwrap().is_some());
}
