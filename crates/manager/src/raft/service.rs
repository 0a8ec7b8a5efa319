//! The other managers' calls to this one.

use super::members::{self, Join, NotAdmitted};
use super::network::{Network, SnapshotHeader, message};
use super::types::{Outcome, Proposal, RaftHandle, Snapshot};
use openraft::errors::{ClientWriteError, RaftError};
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
    raft: RaftHandle,
    network: Network,
}

impl RaftService {
    pub(crate) fn new(raft: RaftHandle, network: Network) -> Self {
        Self { raft, network }
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.raft.append_entries(decode(&request.into_inner().body)?).await;
        Ok(Response::new(message(&answer.map_err(stopped)?)))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.raft.vote(decode(&request.into_inner().body)?).await;
        Ok(Response::new(message(&answer.map_err(stopped)?)))
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.raft.pre_vote(decode(&request.into_inner().body)?).await;
        Ok(Response::new(message(&answer.map_err(stopped)?)))
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let answer = self.raft.handle_transfer_leader(decode(&request.into_inner().body)?).await;
        Ok(Response::new(message(&answer.map_err(stopped)?)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("empty snapshot stream"))?;
        let header: SnapshotHeader = decode(&first.header)?;
        let mut snapshot = first.data;
        while let Some(chunk) = chunks.message().await? {
            if snapshot.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("snapshot is too large"));
            }
            snapshot.extend_from_slice(&chunk.data);
        }
        let snapshot = Snapshot { meta: header.meta, snapshot };
        let answer = self.raft.install_full_snapshot(header.vote, snapshot).await;
        Ok(Response::new(message(&answer.map_err(stopped)?)))
    }

    async fn join(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let request = request.into_inner();
        let join: Join = decode(&request.body)?;
        let leader = match members::admit(&self.raft, &join).await {
            Ok(()) => return Ok(Response::new(message(&()))),
            Err(NotAdmitted::Refused(status)) => return Err(status),
            Err(NotAdmitted::NotLeader(leader)) => leader,
        };
        let leader = leader.filter(|_| !join.forwarded).ok_or_else(|| Status::unavailable("there is no leader"))?;
        let mut client = self.network.client(&leader.address).map_err(stopped)?;
        client.join(message(&Join { forwarded: true, ..join })).await
    }

    async fn propose(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let command: Command = decode(&request.into_inner().body)?;
        match self.raft.client_write(Proposal(Arc::new(command))).await {
            Ok(written) => Ok(Response::new(message(&Proposed { index: written.log_id.index, outcome: written.data }))),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(Status::failed_precondition("not the leader"))
            }
            Err(e) => Err(stopped(e)),
        }
    }
}

fn stopped(error: impl Display) -> Status {
    Status::unavailable(error.to_string())
}
