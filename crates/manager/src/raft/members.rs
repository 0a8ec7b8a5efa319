//! Who replicates: joining, leaving, and what is known of the others.

use super::seal::write_atomic;
use super::types::{Member, TypeConfig};
use super::{Error, Leadership, Replicator};
use crate::edit::{edit, status_of};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant, RaftMetrics};
use serde::{Deserialize, Serialize};
use skep_cluster::edit as decide;
use skep_model::node::{NodeSpec, Role};
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
/// Leadership goes only to one that is surely there.
const HEIR_ANSWERED_WITHIN: Duration = Duration::from_millis(300);
/// How long a change of the members may take to be committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another manager may take to come forward as leader.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a new manager may be known to nobody who can admit it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(90);

/// Body of the `Join` and `Leave` calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) raft_id: u64,
    pub(crate) member: Member,
    /// Sent on by a follower, which is done once.
    pub(crate) forwarded: bool,
    /// Said by the call, not by its body.
    #[serde(skip)]
    pub(crate) leaves: bool,
}

pub(crate) enum NotAdmitted {
    NotLeader(Option<Member>),
    Refused(Status),
}

/// The voters, those who are to become voters, and who leads them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    pub(crate) voters: BTreeMap<u64, Member>,
    pub(crate) learners: BTreeMap<u64, Member>,
    pub(crate) leader: Option<u64>,
}

impl Members {
    /// Voters and learners.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&u64, &Member)> {
        self.voters.iter().chain(&self.learners)
    }
}

impl Replicator {
    pub(crate) fn members(&self) -> Members {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let named = |id: u64| membership.get_node(&id).map(|member| (id, member.clone()));
        Members {
            voters: membership.voter_ids().filter_map(named).collect(),
            learners: membership.learner_ids().filter_map(named).collect(),
            leader: metrics.current_leader,
        }
    }

    /// Calls to the members go to where they are now.
    pub(crate) fn follow_addresses(&self, members: &Members) {
        for (id, member) in members.all() {
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

    /// On the leader: the members that answered lately, itself included. A new leader has not
    /// heard of anybody yet and does not call them lost at once.
    pub(crate) fn reachable(&self) -> BTreeSet<u64> {
        let mut reachable = self.answered_within(REACHABLE_WITHIN);
        if self.won.lately(REACHABLE_WITHIN) {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let unheard = metrics.heartbeat.iter().flatten().filter(|(_, at)| at.is_none());
            reachable.extend(unheard.map(|(id, _)| *id));
        }
        reachable
    }

    fn answered_within(&self, age: Duration) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics.heartbeat.iter().flatten();
        let lately = answered.filter(|(_, at)| at.is_some_and(|at| at.elapsed() < age));
        lately.map(|(id, _)| *id).chain([self.raft_id()]).collect()
    }

    /// Asks the manager at `address` to make this one a member under `own`.
    pub(crate) async fn join(&self, address: &str, own: Member) -> Result<(), Error> {
        let mut client = self.network.client(address)?;
        let message = self.network.message(&self.own_change(own));
        let answer = tokio::time::timeout(JOIN_TIMEOUT, client.join(message)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let failed =
            |status: Status| Error::unavailable(format!("cannot join through {address}: {}", status.message()));
        answer.map(drop).map_err(failed)
    }

    /// Ceases to be a manager: hands leadership over if need be, then has the leader demote
    /// this node and take it out of Raft.
    ///
    /// # Errors
    /// There is no leader, or the others would be no majority.
    pub(crate) async fn leave(&self, own: Member) -> Result<(), Error> {
        let refused = |status: Status| Error::unavailable(status.message());
        if self.is_leader() {
            let heir = self.heir().ok_or_else(|| Error::unavailable("no other manager can lead"))?;
            self.hand_over(heir).await?;
        }
        let leader = self.other_leader().await.ok_or_else(|| Error::unavailable(super::NO_LEADER))?;
        let mut client = self.network.client(&leader.address)?;
        let message = self.network.message(&self.own_change(own));
        let answer = tokio::time::timeout(CHANGE_TIMEOUT, client.leave(message)).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))).map(drop).map_err(refused)
    }

    fn own_change(&self, own: Member) -> Join {
        Join { raft_id: self.raft_id(), member: own, forwarded: false, leaves: false }
    }

    /// On the leader: tells all members this one's address.
    pub(crate) async fn set_own_address(&self, own: Member) -> Result<(), Error> {
        let join = Join { forwarded: true, ..self.own_change(own) };
        match self.admit(&join).await {
            Ok(()) | Err(NotAdmitted::NotLeader(_)) => Ok(()),
            Err(NotAdmitted::Refused(status)) => Err(Error::unavailable(status.message())),
        }
    }

    /// The voter that answers, is to stay a manager, and has most of the log.
    pub(crate) fn heir(&self) -> Option<u64> {
        let (reachable, store) = (self.answered_within(HEIR_ANSWERED_WITHIN), self.store.snapshot());
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|all| all.get(id).cloned()).flatten();
        let stays = |id: &u64| {
            let node = membership.get_node(id).and_then(|member| store.node(member.node_id.as_str()));
            node.is_some_and(|node| node.spec.role == Role::Manager)
        };
        let others = membership.voter_ids().filter(|id| *id != self.raft_id() && reachable.contains(id));
        others.filter(stays).max_by_key(matched)
    }

    /// On the leader: lets another voter lead. Returns when it does.
    pub(crate) async fn hand_over(&self, heir: u64) -> Result<(), Error> {
        tracing::info!(heir, "handing leadership over");
        let triggered = self.raft.trigger().transfer_leader(heir).await;
        triggered.map_err(|e| Error::internal(format!("Raft has stopped: {e}")))?;
        let taken = self.other_leader().await;
        taken.map(drop).ok_or_else(|| Error::unavailable("nobody took leadership over"))
    }

    /// Waits a moment until another manager leads.
    async fn other_leader(&self) -> Option<Member> {
        let mut leadership = self.leadership();
        let other = async {
            let led = leadership.wait_for(|now| matches!(now, Leadership::Other(_))).await;
            match led.as_deref() {
                Ok(Leadership::Other(leader)) => Some(leader.clone()),
                Ok(_) | Err(_) => None,
            }
        };
        tokio::time::timeout(HAND_OVER_TIMEOUT, other).await.ok().flatten()
    }

    /// On the leader: makes a node a voter once it has caught up, or notes its new address.
    /// The store is asked first: a node that is not to be a manager (any more) does not get in.
    pub(crate) async fn admit(&self, join: &Join) -> Result<(), NotAdmitted> {
        self.check_leads().await?;
        let membership = self.raft.server_metrics().borrow_watched().membership_config.membership().clone();
        let mut others = membership.nodes().filter(|(id, _)| **id != join.raft_id);
        if others.any(|(_, member)| member.node_id == join.member.node_id) {
            let status = Status::failed_precondition("the node is a member already, with other data");
            return Err(NotAdmitted::Refused(status));
        }
        let Member { node_id, address } = &join.member;
        let admitted =
            edit(self, |store, _, _| Ok(((), decide::admit_manager(store, node_id, join.raft_id, address)?)));
        admitted.await.map_err(|error| NotAdmitted::Refused(status_of(error)))?;
        let known = membership.get_node(&join.raft_id);
        if known.is_some_and(|known| *known != join.member) {
            let nodes = BTreeMap::from([(join.raft_id, join.member.clone())]);
            self.change(ChangeMembers::SetNodes(nodes), true).await?;
        }
        if membership.voter_ids().any(|id| id == join.raft_id) {
            return Ok(());
        }
        self.add_learner(join).await?;
        self.wait_caught_up(join.raft_id).await?;
        self.change(ChangeMembers::AddVoterIds([join.raft_id].into()), true).await?;
        tracing::info!(node = %join.member.node_id, raft_id = join.raft_id, "a manager has joined");
        Ok(())
    }

    async fn add_learner(&self, join: &Join) -> Result<(), NotAdmitted> {
        let _changing = self.changing.lock().await;
        let added = self.raft.add_learner(join.raft_id, join.member.clone(), false);
        changed(tokio::time::timeout(CHANGE_TIMEOUT, added).await.map_err(|_| late())?)
    }

    /// Waits until a learner has all that is in the log now.
    async fn wait_caught_up(&self, learner: u64) -> Result<(), NotAdmitted> {
        let goal = self.raft.metrics().borrow_watched().last_log_index;
        let progress = |m: &RaftMetrics<TypeConfig>| {
            let replication = m.replication.as_ref()?;
            let matched = replication.get(&learner).cloned().flatten();
            Some(matched.map(|log_id| log_id.index) >= goal)
        };
        let waiting = self.raft.wait(Some(CATCH_UP_TIMEOUT));
        let seen = waiting.metrics(|m| progress(m) != Some(false), "the learner has caught up").await;
        let seen = seen.map_err(|_| refused("the new manager did not catch up in time"))?;
        progress(&seen).map(drop).ok_or(NotAdmitted::NotLeader(None))
    }

    /// On the leader: demotes a node by its own wish and takes it out of Raft.
    pub(crate) async fn dismiss(&self, leave: &Join) -> Result<(), NotAdmitted> {
        self.check_leads().await?;
        crate::managers::refresh(self).await;
        let id = &leave.member.node_id;
        let demoted = edit(self, |store, _, _| {
            let Some(node) = store.node(id.as_str()) else { return Ok(((), Vec::new())) };
            let spec = NodeSpec { role: Role::Worker, ..node.spec.clone() };
            Ok(((), decide::update_node(store, id, node.meta.version, spec)?))
        });
        demoted.await.map_err(|error| NotAdmitted::Refused(status_of(error)))?;
        // The leader's loop sees the demotion and takes it out.
        let waiting = self.raft.wait(Some(CHANGE_TIMEOUT));
        let is_gone = |m: &RaftMetrics<TypeConfig>| m.membership_config.membership().get_node(&leave.raft_id).is_none();
        waiting.metrics(is_gone, "the manager is out").await.map(drop).map_err(|_| late())
    }

    /// On the leader: a member is none any more.
    pub(crate) async fn remove_member(&self, id: u64) -> Result<(), NotAdmitted> {
        let members = self.members();
        if members.voters.contains_key(&id) {
            self.change(ChangeMembers::RemoveVoters([id].into()), false).await?;
        } else if members.learners.contains_key(&id) {
            self.change(ChangeMembers::RemoveNodes([id].into()), false).await?;
        }
        tracing::info!(raft_id = id, "a manager has left");
        Ok(())
    }

    /// On the leader: ends a change of the members that a former leader left half-way.
    pub(crate) async fn finish_change(&self) -> Result<(), NotAdmitted> {
        let half_way = self.raft.server_metrics().borrow_watched().membership_config.get_joint_config().len() > 1;
        if half_way && self.changing.try_lock().is_ok() {
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await?;
        }
        Ok(())
    }

    /// Between two leaders it waits a moment for the next one, who may be this manager.
    async fn check_leads(&self) -> Result<(), NotAdmitted> {
        let mut leadership = self.leadership();
        let somebody = leadership.wait_for(|now| !matches!(now, Leadership::Nobody { .. }));
        let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, async { somebody.await.is_ok() }).await;
        match &*self.leadership.borrow() {
            Leadership::Us => Ok(()),
            Leadership::Other(leader) => Err(NotAdmitted::NotLeader(Some(leader.clone()))),
            Leadership::Nobody { .. } => Err(NotAdmitted::NotLeader(None)),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, Member>, retain: bool) -> Result<(), NotAdmitted> {
        let _changing = self.changing.lock().await;
        let made = tokio::time::timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, retain)).await;
        changed(made.map_err(|_| late())?)
    }
}

fn late() -> NotAdmitted {
    refused("the change of the managers was not committed in time")
}

fn changed(
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
