//! Replication: opens the log, runs openraft, and is the only place that proposes.

mod anew;
mod compact;
mod dump;
mod epoch;
mod flush;
mod leadership;
mod log;
mod machine;
mod members;
mod network;
mod seal;
mod seed;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod types;

use crate::ids::RandomIds;
use crate::store_handle::StoreHandle;
use epoch::Epoch;
use leadership::{Contact, Won, nobody};
use log::LogStore;
use machine::Machine;
use network::Network;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, SnapshotPolicy};
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
use tokio::sync::{Mutex, watch};
use types::{Outcome, Proposal, RaftHandle};

pub use dump::DumpSummary;
pub(crate) use dump::dump;
pub(crate) use leadership::Leadership;
pub(crate) use members::{Members, NotAdmitted};
pub(crate) use network::RAFT_MESSAGE_BYTES_MAX;
pub(crate) use seal::write_atomic;
pub(crate) use service::RaftService;
pub use state::RaftState;
pub(crate) use types::Member;

/// Election and heartbeat for managers in one data centre: a new leader within a second. The
/// longest timeout is also the leader's lease, before which nobody stands for election; the
/// wide range keeps two from standing at once.
const HEARTBEAT_INTERVAL_MS: u64 = 60;
const ELECTION_TIMEOUT_MIN_MS: u64 = 100;
const ELECTION_TIMEOUT_MAX_MS: u64 = 350;
/// Time to send a whole snapshot.
const SNAPSHOT_TIMEOUT_MS: u64 = 60_000;
/// Openraft purges nothing by itself: [`compact`] does, by the swarm's settings.
const PURGE_NOTHING: u64 = u64::MAX;
/// Entries in one message; their bytes are limited by the log reader.
const APPEND_ENTRIES_MAX: u64 = 300;
/// Requests waiting inside openraft.
const API_QUEUE_MAX: u64 = 1024;
/// How long a write may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(20);
/// For so long after a leader was lost, writes wait for the next one; then they are refused at
/// once. An election takes less than a second, on a busy machine a little more.
const NO_LEADER_PATIENCE: Duration = Duration::from_secs(2);
/// A write that a leader did not take is offered again after this at the latest.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A write that was sent on and not answered is sent again; its id makes that harmless.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the parts of a stopped Raft may hold on to the log.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest command in its encoded form.
const COMMAND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Clients match this text.
pub(crate) const NO_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too \
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
    contact: Contact,
    won: Won,
    leadership: watch::Sender<Leadership>,
    /// Held while the members change: Raft takes one change at a time.
    changing: Arc<Mutex<()>>,
    snapshot_file: SnapshotFile,
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
        let snapshot_file = SnapshotFile::new(dir, seal);
        let (machine, store) = Machine::open(snapshot_file.clone()).map_err(failed)?;
        let network = Network::new(identity, Epoch::open(dir).map_err(failed)?);
        let config = Arc::new(config().validate().map_err(|e| Error::internal(e.to_string()))?);
        let raft = RaftHandle::new(raft_id, config, network.clone(), log, machine).await;
        let raft = raft.map_err(|e| Error::internal(format!("cannot start Raft: {e}")))?;
        let (leadership, changing) = (watch::Sender::new(nobody()), Arc::new(Mutex::new(())));
        let (contact, won) = (Contact::default(), Won::default());
        Ok(Self { raft, store, network, contact, won, leadership, changing, snapshot_file, log_closed })
    }

    /// Makes the manager of the folder `dir`, which does not run, the only member of its swarm.
    pub(crate) async fn make_anew(dir: &Path, vault: &Vault, own: Member) -> Result<(), Error> {
        let failed = |e: std::io::Error| Error::internal(format!("cannot make the swarm anew: {e}"));
        anew::make_anew(dir, Seal::of(vault)?, own).await.map_err(failed)
    }

    /// Makes this the first and only member.
    pub(crate) async fn initialize(&self, node_id: NodeId, address: String) -> Result<(), Error> {
        let recorded = self.network.epoch().set(epoch::FIRST);
        recorded.map_err(|e| Error::internal(format!("cannot record the epoch: {e}")))?;
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
        RaftService::new(self.clone())
    }

    /// The leader, if there is one.
    pub(crate) fn leader(&self) -> Option<Member> {
        match &*self.leadership.borrow() {
            Leadership::Us => {
                let metrics = self.raft.server_metrics();
                let metrics = metrics.borrow_watched();
                metrics.membership_config.membership().get_node(&self.raft_id()).cloned()
            }
            Leadership::Other(leader) => Some(leader.clone()),
            Leadership::Nobody { .. } => None,
        }
    }

    /// Proposes writes as one command. Returns when they are committed and applied here.
    pub(crate) async fn propose(&self, writes: Vec<Write>, independent: bool) -> Result<Applied, ProposeError> {
        let command = Command { id: RandomIds.swarm_id(), at: now(), writes, independent };
        let bytes = skep_proto::codec::encode(&command).len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(bytes));
        }
        let command = Arc::new(command);
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, self.propose_until_answered(&command)).await;
        match proposed.unwrap_or(Err(ProposeError::NoLeader))? {
            Outcome::Applied(applied) => Ok(applied),
            Outcome::Rejected(rejection) => Err(rejection.into()),
            Outcome::Nothing => Ok(Applied::default()),
        }
    }

    /// Offers a command to one leader after the other; its id makes a second try harmless.
    async fn propose_until_answered(&self, command: &Arc<Command>) -> Result<Outcome, ProposeError> {
        let mut leadership = self.leadership();
        let stopped = || ProposeError::Stopped("has stopped".into());
        loop {
            let leader = leadership.borrow_and_update().clone();
            let outcome = async {
                match &leader {
                    Leadership::Us => self.propose_here(command).await,
                    Leadership::Other(leader) => Ok(self.forward(leader, command).await),
                    Leadership::Nobody { since } => {
                        tokio::time::sleep_until(*since + NO_LEADER_PATIENCE).await;
                        Err(ProposeError::NoLeader)
                    }
                }
            };
            tokio::select! {
                biased;
                outcome = outcome => if let Some(outcome) = outcome? {
                    return Ok(outcome);
                },
                // Who was asked leads no more and may never answer.
                changed = leadership.changed() => {
                    changed.map_err(|_| stopped())?;
                    continue;
                }
            }
            tokio::select! {
                changed = leadership.changed() => changed.map_err(|_| stopped())?,
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
        }
    }

    /// `None`: Raft does not take it at present.
    async fn propose_here(&self, command: &Arc<Command>) -> Result<Option<Outcome>, ProposeError> {
        match self.raft.client_write(Proposal(command.clone())).await {
            Ok(written) => Ok(Some(written.data)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_))) => {
                Ok(None)
            }
            Err(e) => Err(ProposeError::Stopped(e.to_string())),
        }
    }

    /// `None`: it did not take it, or did not answer.
    async fn forward(&self, leader: &Member, command: &Arc<Command>) -> Option<Outcome> {
        let mut client = self.network.shared_client(&leader.address).ok()?;
        #[cfg(skep_simulated)]
        let command = &crate::Sabotage::rename(command);
        let answer =
            tokio::time::timeout(FORWARD_TIMEOUT, client.propose(self.network.message(command.as_ref()))).await;
        let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")));
        let answer =
            answer.inspect_err(|status| tracing::debug!(leader = %leader.node_id, %status, "forwarding failed"));
        if answer.is_err() {
            self.network.drop_shared_client();
        }
        let proposed: Proposed = skep_proto::codec::decode(&answer.ok()?.into_inner().body).ok()?;
        self.store.wait_applied(proposed.index).await;
        Some(proposed.outcome)
    }

    /// Index of the newest snapshot and of the last entry that is gone from the log.
    #[cfg(test)]
    pub(crate) fn log_bounds(&self) -> (u64, u64) {
        use openraft::async_runtime::WatchReceiver;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |log_id: &Option<types::LogId>| log_id.as_ref().map_or(0, |id| id.index);
        (index(&metrics.snapshot), index(&metrics.purged))
    }

    /// As if no cable was plugged in: nothing reaches the other managers or comes from them.
    #[cfg(test)]
    pub(crate) fn cut(&self, cut: bool) {
        self.network.cut(cut);
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
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: PURGE_NOTHING,
        max_payload_entries: APPEND_ENTRIES_MAX,
        api_channel_size: Some(API_QUEUE_MAX),
        enable_pre_vote: Some(true),
        // A leader may have committed, by the others' disks, what its own had not got when it died.
        // Leading on in its term without that it would make another entry in its place.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
