//! Replication: opens the log, runs openraft, and is the only place that proposes.

mod dump;
mod flush;
mod log;
mod machine;
mod members;
mod network;
mod seal;
mod seed;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;

use crate::ids::RandomIds;
use crate::store_handle::StoreHandle;
use log::LogStore;
use machine::Machine;
use network::{Network, message};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{Config, ReadPolicy, ServerState, SnapshotPolicy};
use seal::Seal;
use service::Proposed;
use skep_cluster::command::{Command, Write};
use skep_cluster::ids::IdSource;
use skep_cluster::store::{Applied, Rejection};
use skep_identity::{Identity, Vault};
use skep_model::id::NodeId;
use skep_model::{Error, Timestamp};
use snapshot::SnapshotFile;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{Outcome, Proposal, RaftHandle};

pub use dump::DumpSummary;
pub(crate) use dump::dump;
pub(crate) use members::Members;
pub(crate) use network::RAFT_MESSAGE_BYTES_MAX;
pub(crate) use seal::write_atomic;
pub(crate) use service::RaftService;
pub(crate) use types::Member;

/// Election and heartbeat for managers in one data centre: a new leader within a second.
const HEARTBEAT_INTERVAL_MS: u64 = 75;
const ELECTION_TIMEOUT_MIN_MS: u64 = 250;
const ELECTION_TIMEOUT_MAX_MS: u64 = 450;
/// Time to send a whole snapshot.
const SNAPSHOT_TIMEOUT_MS: u64 = 60_000;
/// Log entries between snapshots, and how many stay for slow followers.
const SNAPSHOT_INTERVAL: u64 = 10_000;
const LOG_ENTRIES_KEPT: u64 = 500;
const PURGE_BATCH: u64 = 64;
/// Entries in one message; their bytes are limited by the log reader.
const APPEND_ENTRIES_MAX: u64 = 300;
/// Requests waiting inside openraft.
const API_QUEUE_MAX: u64 = 1024;
/// How long a write waits for a leader.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A write that found no leader looks again after this at the latest.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long the parts of a stopped Raft may hold on to the log.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest command in its encoded form.
const COMMAND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Clients match this text.
const NO_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too \
                         few managers are online. Make sure more than half of the managers are online.";

/// Why a command did not become a fact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("{NO_LEADER}")]
    NoLeader,
    #[error("the command of {0} bytes is too large")]
    TooLarge(usize),
    #[error("raft: {0}")]
    Stopped(String),
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        let text = error.to_string();
        match error {
            ProposeError::Rejected(Rejection::NotFound(_)) => Self::not_found(text),
            ProposeError::Rejected(_) => Self::invalid(format!("rpc error: code = Unknown desc = {text}")),
            ProposeError::NoLeader => Self::unavailable(text),
            ProposeError::TooLarge(_) => Self::invalid(text),
            ProposeError::Stopped(_) => Self::internal(text),
        }
    }
}

/// Handle to the replicated log and store; cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicator {
    raft: RaftHandle,
    store: StoreHandle,
    network: Network,
    log_closed: watch::Receiver<()>,
}

impl Replicator {
    /// Opens the folder `dir` (made if missing) and starts Raft, as member `new_raft_id` if the
    /// folder is new.
    pub(crate) async fn open(dir: &Path, vault: &Vault, new_raft_id: u64, identity: Identity) -> Result<Self, Error> {
        let failed = |e: std::io::Error| Error::internal(format!("cannot open the Raft log in {}: {e}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let seal = Seal::of(vault)?;
        let log = LogStore::open(&dir.join("log"), seal.clone()).map_err(failed)?;
        let log_closed = log.closed();
        let raft_id = members::own_raft_id(dir, new_raft_id).map_err(failed)?;
        let (machine, store) = Machine::open(SnapshotFile::new(dir, seal)).map_err(failed)?;
        let network = Network::new(identity);
        let config = Arc::new(config().validate().map_err(|e| Error::internal(e.to_string()))?);
        let raft = RaftHandle::new(raft_id, config, network.clone(), log, machine).await;
        let raft = raft.map_err(|e| Error::internal(format!("cannot start Raft: {e}")))?;
        Ok(Self { raft, store, network, log_closed })
    }

    /// Makes this the first and only member.
    pub(crate) async fn initialize(&self, node_id: NodeId, address: String) -> Result<(), Error> {
        let members = BTreeMap::from([(self.raft_id(), Member { node_id, address })]);
        self.raft.initialize(members).await.map_err(|e| Error::internal(format!("cannot start Raft: {e}")))
    }

    /// A single manager need not wait for anybody.
    pub(crate) async fn elect_if_alone(&self) -> Result<(), Error> {
        let voters: Vec<u64> = self.raft.voter_ids().collect();
        if voters == [self.raft_id()] && !self.raft.is_leader() {
            let result = self.raft.trigger().elect(false).await;
            result.map_err(|e| Error::internal(format!("cannot start an election: {e}")))?;
        }
        Ok(())
    }

    pub(crate) fn raft_id(&self) -> u64 {
        *self.raft.node_id()
    }

    pub(crate) fn store(&self) -> &StoreHandle {
        &self.store
    }

    pub(crate) fn service(&self) -> RaftService {
        RaftService::new(self.raft.clone(), self.network.clone())
    }

    /// The leader, if one is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        metrics.membership_config.membership().get_node(&leader).map(|member| member.node_id.clone())
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Waits until this manager has become leader (`true`) or ceased to be (`false`), whichever
    /// it is not in the eyes of the caller. Fails when Raft stopped.
    pub(crate) async fn leadership_change(&self, was_leader: bool) -> Result<bool, Error> {
        let mut metrics = self.raft.server_metrics();
        loop {
            let leads = metrics.borrow_and_update().state == ServerState::Leader;
            if leads != was_leader {
                return Ok(leads);
            }
            metrics.changed().await.map_err(|_| Error::internal("Raft has stopped"))?;
        }
    }

    /// Stops Raft's clock while this is the only voter and leads: it has nobody to send
    /// heartbeats to and nobody to lose an election to, and an idle node should sleep. Runs until `stop`.
    pub(crate) async fn tend_clock(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut metrics = self.raft.server_metrics();
        loop {
            let alone = {
                let metrics = metrics.borrow_and_update();
                let mut voters = metrics.membership_config.voter_ids();
                let only_voter = voters.next() == Some(self.raft_id()) && voters.next().is_none();
                only_voter && metrics.state == ServerState::Leader
            };
            self.raft.runtime_config().tick(!alone);
            tokio::select! {
                changed = metrics.changed() => changed.map_err(|_| Error::internal("Raft has stopped"))?,
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Waits until everything committed before now is applied here. Fails when not the leader.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        let read = self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        read.map(|_| ()).map_err(|e| Error::unavailable(e.to_string()))
    }

    /// Proposes writes as one command. Returns when they are committed and applied here.
    pub(crate) async fn propose(&self, writes: Vec<Write>, independent: bool) -> Result<Applied, ProposeError> {
        let command = Command { id: RandomIds.swarm_id(), at: now(), writes, independent };
        let bytes = skep_proto::codec::encode(&command).len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(bytes));
        }
        let command = Arc::new(command);
        let deadline = tokio::time::Instant::now() + PROPOSE_TIMEOUT;
        loop {
            let mut metrics = self.raft.server_metrics();
            metrics.borrow_and_update();
            match self.propose_once(&command).await? {
                Some(Outcome::Applied(applied)) => return Ok(applied),
                Some(Outcome::Rejected(rejection)) => return Err(rejection.into()),
                Some(Outcome::Nothing) => return Ok(Applied::default()),
                // The command's id makes a second try harmless.
                None => tokio::select! {
                    changed = metrics.changed() => {
                        changed.map_err(|_| ProposeError::Stopped("has stopped".into()))?;
                    }
                    // A leader that is known here may not yet know it itself.
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                    () = tokio::time::sleep_until(deadline) => return Err(ProposeError::NoLeader),
                },
            }
        }
    }

    /// `None`: no leader at present.
    async fn propose_once(&self, command: &Arc<Command>) -> Result<Option<Outcome>, ProposeError> {
        match self.raft.client_write(Proposal(command.clone())).await {
            Ok(written) => Ok(Some(written.data)),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
            )) => Ok(self.forward(&to, command).await),
            Err(e) => Err(ProposeError::Stopped(e.to_string())),
        }
    }

    async fn forward(&self, to: &ForwardToLeader<types::TypeConfig>, command: &Arc<Command>) -> Option<Outcome> {
        let leader = to.leader_node.as_ref()?;
        if to.leader_id == Some(self.raft_id()) {
            return None;
        }
        let mut client = self.network.shared_client(&leader.address).ok()?;
        let answer = client.propose(message(command.as_ref())).await;
        let answer =
            answer.inspect_err(|status| tracing::debug!(leader = %leader.node_id, %status, "forwarding failed"));
        let proposed: Proposed = skep_proto::codec::decode(&answer.ok()?.into_inner().body).ok()?;
        self.store.wait_applied(proposed.index).await;
        Some(proposed.outcome)
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    /// Resolves with the reason when Raft has stopped by itself.
    pub(crate) async fn failed(&self) -> Error {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return Error::internal(format!("Raft has stopped: {fatal}"));
            }
            if metrics.changed().await.is_err() {
                return Error::internal("Raft has stopped");
            }
        }
    }

    /// Stops Raft and waits until the log's files are closed.
    pub(crate) async fn shutdown(&self) {
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!(error = %e, "Raft did not stop cleanly");
        }
        let mut closed = self.log_closed.clone();
        if tokio::time::timeout(CLOSE_TIMEOUT, closed.changed()).await.is_err() {
            tracing::warn!("the Raft log is still open");
        }
    }
}

/// The wall clock. Time in commands is stamped by whoever proposes.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

fn config() -> Config {
    Config {
        cluster_name: "swarm".into(),
        heartbeat_interval: HEARTBEAT_INTERVAL_MS,
        election_timeout_min: ELECTION_TIMEOUT_MIN_MS,
        election_timeout_max: ELECTION_TIMEOUT_MAX_MS,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_INTERVAL),
        max_in_snapshot_log_to_keep: LOG_ENTRIES_KEPT,
        purge_batch_size: PURGE_BATCH,
        max_payload_entries: APPEND_ENTRIES_MAX,
        api_channel_size: Some(API_QUEUE_MAX),
        enable_pre_vote: Some(true),
        ..Config::default()
    }
}
