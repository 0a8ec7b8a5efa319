//! This manager's calls to the others.

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
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Data in one message of a snapshot stream.
const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// Largest message between managers: a batch of entries, one of which may be large.
pub(crate) const RAFT_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the first chunk of a snapshot stream says.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
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
}

impl Network {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, to_leader: Arc::default(), addresses: Arc::default() }
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
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = MemberClient;

    async fn new_client(&mut self, target: u64, node: &Member) -> MemberClient {
        self.note_address(target, &node.address);
        let client = self.client(&node.address).map_err(|e| e.to_string());
        MemberClient { network: self.clone(), target, address: node.address.clone(), client }
    }
}

/// Connection to one member.
pub(crate) struct MemberClient {
    network: Network,
    target: u64,
    address: String,
    /// The reason, when the member's address is malformed.
    client: Result<RaftClient<Channel>, String>,
}

impl MemberClient {
    /// Follows the member to its present address.
    fn client(&mut self) -> Result<RaftClient<Channel>, Unreachable<TypeConfig>> {
        let present = self.network.addresses().get(&self.target).cloned();
        if let Some(present) = present.filter(|present| *present != self.address) {
            self.client = self.network.client(&present).map_err(|e| e.to_string());
            self.address = present;
        }
        self.client.clone().map_err(Unreachable::from_string)
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
        call(client.append_entries(message(&rpc)), option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        call(client.vote(message(&rpc)), option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        call(client.pre_vote(message(&rpc)), option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client()?;
        call(client.transfer_leader(message(&rpc)), option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client()?;
        let sending = call(client.install_snapshot(chunks(vote, snapshot)), option.hard_ttl());
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = sending => answer.map_err(|e: Unreachable<TypeConfig>| e.into()),
        }
    }
}

fn chunks(vote: Vote, snapshot: Snapshot) -> impl futures_util::Stream<Item = SnapshotChunk> + Send + 'static {
    let header = skep_proto::codec::encode(&SnapshotHeader { vote, meta: snapshot.meta });
    let data = snapshot.snapshot;
    let first = SnapshotChunk { header, data: Vec::new() };
    let starts = (0..data.len()).step_by(SNAPSHOT_CHUNK_BYTES);
    let rest = starts.map(move |start| {
        let end = data.len().min(start + SNAPSHOT_CHUNK_BYTES);
        SnapshotChunk { header: Vec::new(), data: data[start..end].to_vec() }
    });
    tokio_stream::iter(std::iter::once(first).chain(rest))
}

pub(crate) fn message<T: Serialize>(value: &T) -> RaftMessage {
    RaftMessage { body: skep_proto::codec::encode(value) }
}

async fn call<T, E>(
    request: impl Future<Output = Result<Response<RaftMessage>, Status>>,
    timeout: Duration,
) -> Result<T, E>
where
    T: DeserializeOwned,
    E: From<Unreachable<TypeConfig>>,
{
    let answer = tokio::time::timeout(timeout, request).await.map_err(|_| unreachable("no answer in time"))?;
    let answer = answer.map_err(|status| unreachable(status.message()))?;
    skep_proto::codec::decode(&answer.into_inner().body).map_err(|e| unreachable(e).into())
}

fn unreachable(reason: impl Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason)
}
