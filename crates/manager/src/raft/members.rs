//! Who replicates: joining, and what is known of the others.

use super::network::message;
use super::seal::write_atomic;
use super::types::{Member, RaftHandle, TypeConfig};
use super::{Error, Replicator};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use tonic::Status;

/// A new member must have the whole log by then.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// A member whose last answer is older is shown as unreachable.
const REACHABLE_WITHIN: Duration = Duration::from_secs(2);

/// Body of the `Join` call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) raft_id: u64,
    pub(crate) member: Member,
    /// Sent on by a follower, which is done once.
    pub(crate) forwarded: bool,
}

pub(crate) enum NotAdmitted {
    NotLeader(Option<Member>),
    Refused(Status),
}

/// The voters, and who leads them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    pub(crate) voters: BTreeMap<u64, Member>,
    pub(crate) leader: Option<u64>,
}

impl Replicator {
    pub(crate) fn members(&self) -> Members {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voter = |id: u64| membership.get_node(&id).map(|member| (id, member.clone()));
        Members { voters: membership.voter_ids().filter_map(voter).collect(), leader: metrics.current_leader }
    }

    /// Calls to the members go to where they are now.
    pub(crate) fn follow_addresses(&self, members: &Members) {
        for (id, member) in &members.voters {
            self.network.note_address(*id, &member.address);
        }
    }

    /// Waits until the members are not as `seen`. Fails when Raft stopped.
    pub(crate) async fn members_change(&self, seen: &Members) -> Result<(), Error> {
        let mut metrics = self.raft.server_metrics();
        loop {
            metrics.borrow_and_update();
            if self.members() != *seen {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| Error::internal("Raft has stopped"))?;
        }
    }

    /// On the leader: the members that answered lately, itself included.
    pub(crate) fn reachable(&self) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics.heartbeat.iter().flatten();
        let lately = answered.filter(|(_, at)| at.is_some_and(|at| at.elapsed() < REACHABLE_WITHIN));
        lately.map(|(id, _)| *id).chain([self.raft_id()]).collect()
    }

    /// Asks the manager at `address` to make this one a member under `own`.
    pub(crate) async fn join(&self, address: &str, own: Member) -> Result<(), Error> {
        let mut client = self.network.client(address)?;
        let join = Join { raft_id: self.raft_id(), member: own, forwarded: false };
        let failed =
            |status: Status| Error::unavailable(format!("cannot join through {address}: {}", status.message()));
        client.join(message(&join)).await.map(|_| ()).map_err(failed)
    }

    /// On the leader: tells all members this one's address.
    pub(crate) async fn set_own_address(&self, own: Member) -> Result<(), Error> {
        let join = Join { raft_id: self.raft_id(), member: own, forwarded: true };
        match admit(&self.raft, &join).await {
            Ok(()) | Err(NotAdmitted::NotLeader(_)) => Ok(()),
            Err(NotAdmitted::Refused(status)) => Err(Error::unavailable(status.message())),
        }
    }
}

/// On the leader: makes a node a voter once it has caught up, or notes its new address.
pub(crate) async fn admit(raft: &RaftHandle, join: &Join) -> Result<(), NotAdmitted> {
    let membership = raft.server_metrics().borrow_watched().membership_config.membership().clone();
    let other = membership.nodes().find(|(id, member)| **id != join.raft_id && member.node_id == join.member.node_id);
    if other.is_some() {
        let status = Status::failed_precondition("the node is a member already, with other data");
        return Err(NotAdmitted::Refused(status));
    }
    let known = membership.get_node(&join.raft_id);
    if known.is_some_and(|known| *known != join.member) {
        let nodes = BTreeMap::from([(join.raft_id, join.member.clone())]);
        change(raft.change_membership(ChangeMembers::SetNodes(nodes), true).await)?;
    }
    if membership.voter_ids().any(|id| id == join.raft_id) {
        return Ok(());
    }
    let caught_up = raft.add_learner(join.raft_id, join.member.clone(), true);
    let caught_up = tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await;
    change(caught_up.map_err(|_| refused("the new manager did not catch up in time"))?)?;
    change(raft.change_membership(ChangeMembers::AddVoterIds([join.raft_id].into()), true).await)
}

fn change(
    result: Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<(), NotAdmitted> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(NotAdmitted::NotLeader(to.leader_node)),
        Err(e) => Err(refused(&e.to_string())),
    }
}

fn refused(reason: &str) -> NotAdmitted {
    NotAdmitted::Refused(Status::unavailable(reason))
}

/// This manager's member id: that of its folder, or `new_id` for a new one.
pub(super) fn own_raft_id(dir: &Path, new_id: u64) -> io::Result<u64> {
    let path = dir.join("member-id");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            write_atomic(&path, new_id.to_string().as_bytes())?;
            Ok(new_id)
        }
        Err(e) => Err(e),
    }
}
