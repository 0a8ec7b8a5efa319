//! What Raft says of itself on one manager, for those who look for faults.

use super::Replicator;
use super::types::LogId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

/// One manager's Raft at one moment. Indexes are 0 where there is nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftState {
    pub raft_id: u64,
    pub term: u64,
    /// It leads in that term, a majority willing or not.
    pub leads: bool,
    pub voters: usize,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
}

impl Replicator {
    pub(crate) fn raft_state(&self) -> RaftState {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |log_id: &Option<LogId>| log_id.as_ref().map_or(0, |id| id.index);
        RaftState {
            raft_id: self.raft_id(),
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            voters: metrics.membership_config.membership().voter_ids().count(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
        }
    }
}
