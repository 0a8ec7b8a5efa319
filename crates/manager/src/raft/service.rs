//! The other managers' calls to this one.

use super::Replicator;
use super::members::{Join, NotAdmitted};
use super::network::SnapshotHeader;
use super::types::{Member, Outcome, Proposal, Snapshot};
use crate::access::Caller;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_cluster::Command;
use skep_proto::codec::decode;
use skep_proto::raft::raft_server::Raft;
use skep_proto::raft::{RaftMessage, SnapshotChunk};
use std::fmt::Display;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// A snapshot larger than this is refused: it would not fit into memory.
const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Answer to a forwarded write.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proposed {
    pub(crate) index: u64,
    pub(crate) outcome: Outcome,
}

/// Serves the Raft protocol to members.
pub(crate) struct RaftService {
    replicator: Replicator,
}

impl RaftService {
    pub(crate) fn new(replicator: Replicator) -> Self {
        Self { replicator }
    }

    /// The message of a member of this swarm's present life.
    fn open<T: DeserializeOwned>(&self, request: Request<RaftMessage>, adopt: bool) -> Result<T, Status> {
        if !self.replicator.network.passes() {
            return Err(Status::unavailable("cut off"));
        }
        let request = request.into_inner();
        self.replicator.network.epoch().check(request.epoch, adopt)?;
        Ok(decode(&request.body)?)
    }

    fn answer<T: Serialize>(&self, answer: Result<T, impl Display>) -> Result<Response<RaftMessage>, Status> {
        Ok(Response::new(self.replicator.network.message(&answer.map_err(stopped)?)))
    }

    /// A change of the members belongs to the leader; a follower sends it on, once.
    async fn admit(&self, join: Join) -> Result<(), Status> {
        let result = match join.leaves {
            false => self.replicator.admit(&join).await,
            true => self.replicator.dismiss(&join).await,
        };
        let leader = match result {
            Ok(()) => return Ok(()),
            Err(NotAdmitted::Refused(status)) => return Err(status),
            Err(NotAdmitted::NotLeader(leader)) => leader.filter(|_| !join.forwarded),
        };
        // Without a leader nobody can record its new address, but votes may need it.
        if leader.is_none() && !join.leaves && self.replicator.members().voters.contains_key(&join.raft_id) {
            self.replicator.network.note_address(join.raft_id, &join.member.address);
        }
        let leader: Member = leader.ok_or_else(|| Status::unavailable(super::NO_LEADER))?;
        let mut client = self.replicator.network.client(&leader.address).map_err(stopped)?;
        let leaves = join.leaves;
        let message = self.replicator.network.message(&Join { forwarded: true, ..join });
        if leaves { client.leave(message).await.map(drop) } else { client.join(message).await.map(drop) }
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.replicator.raft.append_entries(self.open(request, true)?).await;
        if answer.as_ref().is_ok_and(|answer| !matches!(answer, AppendEntriesResponse::HigherVote(_))) {
            self.replicator.contact.note();
        }
        self.answer(answer)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.replicator.raft.vote(self.open(request, false)?).await;
        self.answer(answer)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.replicator.raft.pre_vote(self.open(request, false)?).await;
        self.answer(answer)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.replicator.raft.handle_transfer_leader(self.open(request, false)?).await;
        self.answer(answer)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("empty snapshot stream"))?;
        let header: SnapshotHeader = decode(&first.header)?;
        self.replicator.network.epoch().check(header.epoch, true)?;
        let mut snapshot = first.data;
        while let Some(chunk) = chunks.message().await? {
            if snapshot.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("snapshot is too large"));
            }
            snapshot.extend_from_slice(&chunk.data);
        }
        let snapshot = Snapshot { meta: header.meta, snapshot };
        let answer = self.replicator.raft.install_full_snapshot(header.vote, snapshot).await;
        self.answer(answer)
    }

    async fn join(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let join = self.open_change(request, false)?;
        self.admit(join).await?;
        self.answer(Ok::<_, Status>(()))
    }

    async fn leave(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let join = self.open_change(request, true)?;
        self.admit(join).await?;
        self.answer(Ok::<_, Status>(()))
    }

    async fn propose(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let command: Command = self.open(request, false)?;
        match self.replicator.raft.client_write(Proposal(Arc::new(command))).await {
            Ok(written) => {
                self.answer(Ok::<_, Status>(Proposed { index: written.log_id.index, outcome: written.data }))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_))) => {
                Err(Status::failed_precondition("not the leader"))
            }
            Err(e) => Err(stopped(e)),
        }
    }
}

impl RaftService {
    /// A request to come or to go, which a node makes for itself or a manager passes on.
    fn open_change(&self, request: Request<RaftMessage>, leaves: bool) -> Result<Join, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.peer.clone());
        let request = request.into_inner();
        // Who comes anew belongs to no epoch yet.
        if request.epoch != super::epoch::NONE || leaves {
            self.replicator.network.epoch().check(request.epoch, false)?;
        }
        let join = Join { leaves, ..decode(&request.body)? };
        let is_own = caller.is_some_and(|peer| peer.node_id == join.member.node_id);
        if is_own || join.forwarded {
            return Ok(join);
        }
        Err(Status::permission_denied("a manager comes and goes only for itself"))
    }
}

fn stopped(error: impl Display) -> Status {
    Status::unavailable(error.to_string())
}
