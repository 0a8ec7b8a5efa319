//! This manager's calls to the others.

use super::epoch::Epoch;
use super::types::{Member, Snapshot, SnapshotMeta, TypeConfig, Vote};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_identity::Identity;
use skep_proto::raft::raft_client::RaftClient;
use skep_proto::raft::{RaftMessage, SnapshotChunk};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Data in one message of a snapshot stream.
const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// Largest message between managers: a batch of entries, one of which may be large.
pub(crate) const RAFT_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Entries must be durable at the other end before it answers, which openraft's limit, one
/// heartbeat, is too short for on a slow disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was silent for so long is made anew: after a partition, TCP may wait much
/// longer before it tries again.
const CONNECTION_SILENCE_MAX: Duration = Duration::from_secs(1);
/// A member that answered within this time is there.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What the first chunk of a snapshot stream says.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) epoch: u64,
}

/// A client and the address it is for.
type Kept = (String, RaftClient<Channel>);

/// Makes connections to members.
#[derive(Clone)]
pub(crate) struct Network {
    identity: Identity,
    /// Connection for what is sent on to the leader, with its address.
    to_leader: Arc<Mutex<Option<Kept>>>,
    /// Where members are now. openraft keeps a client for as long as it leads, longer than a
    /// member may keep its address.
    addresses: Arc<Mutex<BTreeMap<u64, String>>>,
    /// When members last answered.
    answers: Arc<Mutex<BTreeMap<u64, Instant>>>,
    epoch: Epoch,
    #[cfg(test)]
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Network {
    pub(crate) fn new(identity: Identity, epoch: Epoch) -> Self {
        let (to_leader, addresses, answers) = (Arc::default(), Arc::default(), Arc::default());
        Self {
            identity,
            to_leader,
            addresses,
            answers,
            epoch,
            #[cfg(test)]
            cut: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }

    /// Messages pass, in both directions; tests may cut them off.
    pub(crate) fn passes(&self) -> bool {
        #[cfg(test)]
        return !self.cut.load(std::sync::atomic::Ordering::Relaxed);
        #[cfg(not(test))]
        true
    }

    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// A message to another manager.
    pub(crate) fn message<T: Serialize>(&self, value: &T) -> RaftMessage {
        RaftMessage { body: skep_proto::codec::encode(value), epoch: self.epoch.get() }
    }

    /// A client of the member at `address`; connects on first use.
    pub(crate) fn client(&self, address: &str) -> Result<RaftClient<Channel>, skep_identity::IdentityError> {
        let client = RaftClient::new(self.identity.connect_lazy(address)?);
        Ok(client.max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX).max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX))
    }
}

impl Network {
    /// A member is at `address` now.
    pub(crate) fn note_address(&self, member: u64, address: &str) {
        self.addresses().insert(member, address.to_owned());
    }

    /// Members that answered a call of ours lately.
    pub(crate) fn answered_lately(&self) -> BTreeSet<u64> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter(|(_, at)| at.elapsed() < ANSWERED_WITHIN).map(|(id, _)| *id).collect()
    }

    fn note_answer(&self, member: u64) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(member, Instant::now());
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client for what is sent on to the leader, kept while that is at `address`.
    pub(crate) fn shared_client(&self, address: &str) -> Result<RaftClient<Channel>, skep_identity::IdentityError> {
        let mut kept = self.to_leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = kept.as_ref().filter(|(known, _)| known == address) {
            return Ok(client.clone());
        }
        let client = self.client(address)?;
        *kept = Some((address.to_owned(), client.clone()));
        Ok(client)
    }

    /// What is sent on next goes over a new connection: the old one may be dead without
    /// anybody having noticed.
    pub(crate) fn drop_shared_client(&self) {
        *self.to_leader.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = MemberClient;

    async fn new_client(&mut self, target: u64, node: &Member) -> MemberClient {
        self.note_address(target, &node.address);
        let client = self.client(&node.address).map_err(|e| e.to_string());
        MemberClient { network: self.clone(), target, address: node.address.clone(), client, waits_since: None }
    }
}

/// Connection to one member.
pub(crate) struct MemberClient {
    network: Network,
    target: u64,
    address: String,
    /// The reason, when the member's address is malformed.
    client: Result<RaftClient<Channel>, String>,
    /// Since when this connection owes an answer.
    waits_since: Option<Instant>,
}

impl MemberClient {
    /// Follows the member to its present address.
    fn client(&mut self) -> Result<RaftClient<Channel>, Unreachable<TypeConfig>> {
        let present = self.network.addresses().get(&self.target).cloned();
        let moved = present.filter(|present| *present != self.address);
        let silent = self.waits_since.is_some_and(|since| since.elapsed() > CONNECTION_SILENCE_MAX);
        if moved.is_some() || silent {
            self.address = moved.unwrap_or_else(|| self.address.clone());
            self.client = self.network.client(&self.address).map_err(|e| e.to_string());
            self.waits_since = None;
        }
        self.client.clone().map_err(Unreachable::from_string)
    }

    async fn call<T, E>(
        &mut self,
        request: impl Future<Output = Result<Response<RaftMessage>, Status>>,
        timeout: Duration,
    ) -> Result<T, E>
    where
        T: DeserializeOwned,
        E: From<Unreachable<TypeConfig>>,
    {
        // Before the call: openraft may drop it half-way.
        self.waits_since.get_or_insert_with(Instant::now);
        if !self.network.passes() {
            return Err(unreachable("cut off").into());
        }
        let answer = tokio::time::timeout(timeout, request).await.map_err(|_| unreachable("no answer in time"))?;
        let answer = answer.map_err(|status| unreachable(status.message()))?;
        self.waits_since = None;
        self.network.note_answer(self.target);
        skep_proto::codec::decode(&answer.into_inner().body).map_err(|e| unreachable(e).into())
    }
}

impl RaftNetworkV2<TypeConfig> for MemberClient {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        let request = self.network.message(&rpc);
        let timeout = if rpc.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(APPEND_TIMEOUT) };
        self.call(client.append_entries(request), timeout).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        let request = self.network.message(&rpc);
        self.call(client.vote(request), option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        let request = self.network.message(&rpc);
        self.call(client.pre_vote(request), option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        let request = self.network.message(&rpc);
        self.call(client.transfer_leader(request), option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client()?;
        let chunks = chunks(vote, snapshot, self.network.epoch.get());
        let sending = self.call(client.install_snapshot(chunks), option.hard_ttl());
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = sending => answer.map_err(|e: Unreachable<TypeConfig>| e.into()),
        }
    }
}

fn chunks(
    vote: Vote,
    snapshot: Snapshot,
    epoch: u64,
) -> impl futures_util::Stream<Item = SnapshotChunk> + Send + 'static {
    let header = skep_proto::codec::encode(&SnapshotHeader { vote, meta: snapshot.meta, epoch });
    let data = snapshot.snapshot;
    let first = SnapshotChunk { header, data: Vec::new() };
    let starts = (0..data.len()).step_by(SNAPSHOT_CHUNK_BYTES);
    let rest = starts.map(move |start| {
        let end = data.len().min(start + SNAPSHOT_CHUNK_BYTES);
        SnapshotChunk { header: Vec::new(), data: data[start..end].to_vec() }
    });
    tokio_stream::iter(std::iter::once(first).chain(rest))
}

fn unreachable(reason: impl Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason)
}
