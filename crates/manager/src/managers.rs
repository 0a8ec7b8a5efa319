//! Keeps what the store says of the managers true: on the leader who leads and who
//! answers, on every manager where the others are and where it is itself. The leader also
//! takes out of Raft who is not to be a manager any more.

use crate::edit::edit;
use crate::raft::{Member, Members, NotAdmitted, Replicator};
use crate::store_handle::Changes;
use skep_cluster::Store;
use skep_cluster::command::{Object, Write};
use skep_cluster::edit::has_quorum;
use skep_model::Error;
use skep_model::node::{ManagerStatus, Node, Role};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// How often the leader looks who still answers, and a follower tries to tell a new address.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop`, or until Raft fails. `own` is how this manager is reached.
pub(crate) async fn run(replicator: Replicator, own: Member, stop: CancellationToken) -> Result<(), Error> {
    let mut changes = replicator.store().changes();
    let mut followed = Members::default();
    loop {
        let members = replicator.members();
        if members != followed {
            replicator.follow_addresses(&members);
            followed = members.clone();
        }
        let announced = announce(&replicator, &members, &own).await;
        let leads = replicator.is_leader();
        if leads {
            record(&replicator, &members).await;
            dismiss(&replicator).await;
        }
        // Alone and in order there is nothing to look at again.
        let settled = announced && members.all().count() <= 1 && leads;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = replicator.members_change(&members) => changed?,
            changed = replicator.leadership_change(leads) => changed.map(drop)?,
            () = role_change(&mut changes), if leads => {}
            () = tokio::time::sleep(LOOK_INTERVAL), if !settled => {}
        }
    }
}

/// Waits until a manager, or one that is or was to be one, was changed or removed.
async fn role_change(changes: &mut broadcast::Receiver<Changes>) {
    loop {
        match changes.recv().await {
            Ok(Changes::Keys(_, _, audience)) if !audience.all_sessions => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Whether the members know this manager under its present address.
async fn announce(replicator: &Replicator, members: &Members, own: &Member) -> bool {
    let known = members.voters.get(&replicator.raft_id());
    if known.is_none_or(|known| known == own) {
        return true;
    }
    if replicator.is_leader() {
        let told = replicator.set_own_address(own.clone()).await;
        return told.inspect_err(|error| tracing::warn!(%error, "cannot tell this manager's new address")).is_ok();
    }
    // Who leads may not be known before the leader finds us, so ask anybody.
    let others = members.voters.iter().filter(|(id, _)| **id != replicator.raft_id());
    for (_, other) in others {
        match replicator.join(&other.address, own.clone()).await {
            Ok(()) => return true,
            Err(error) => tracing::debug!(%error, "cannot tell this manager's new address"),
        }
    }
    false
}

/// On the leader: what is decided next is decided on what is known now, not a second ago.
pub(crate) async fn refresh(replicator: &Replicator) {
    if replicator.is_leader() {
        record(replicator, &replicator.members()).await;
    }
}

async fn record(replicator: &Replicator, members: &Members) {
    let reachable = replicator.reachable();
    let recorded = edit(replicator, |store, _, _| Ok(((), outdated(store, members, &reachable))));
    if let Err(error) = recorded.await {
        tracing::warn!(%error, "cannot record the managers' states");
    }
}

/// The nodes whose manager status is not what it should be, corrected.
fn outdated(store: &Store, members: &Members, reachable: &BTreeSet<u64>) -> Vec<Write> {
    let status_of = |node: &Node| {
        let (id, member) = members.all().find(|(_, member)| member.node_id == node.id)?;
        Some(ManagerStatus {
            raft_id: *id,
            address: member.address.clone(),
            leader: members.leader == Some(*id),
            reachable: reachable.contains(id),
        })
    };
    let mut writes = Vec::new();
    for node in store.nodes() {
        // One that was let in but is no member yet keeps its place; it cannot answer.
        let comes = |known: &ManagerStatus| ManagerStatus { leader: false, reachable: false, ..known.clone() };
        let waits = node.manager_status.as_ref().filter(|_| node.spec.role == Role::Manager).map(comes);
        let manager_status = status_of(node).or(waits);
        if node.manager_status != manager_status {
            writes.push(Write::put(Object::Node(Box::new(Node { manager_status, ..Node::clone(node) }))));
        }
    }
    writes
}

/// What the leader does next about a member that is not to be one.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is the leader itself: another one must lead first.
    HandOver,
    Remove(u64),
}

async fn dismiss(replicator: &Replicator) {
    let (store, members) = (replicator.store().snapshot(), replicator.members());
    let step = next_step(&store, &members, replicator.raft_id(), &replicator.reachable());
    let failed = match step {
        Some(Step::Remove(id)) => replicator.remove_member(id).await.err().map(text),
        Some(Step::HandOver) => match replicator.heir() {
            Some(heir) => replicator.hand_over(heir).await.err().map(|error| error.message),
            None => Some("no other manager can lead".to_owned()),
        },
        None => replicator.finish_change().await.err().map(text),
    };
    if let Some(reason) = failed {
        tracing::warn!(?step, reason, "the managers cannot be changed now; trying again");
    }
}

fn text(error: NotAdmitted) -> String {
    match error {
        NotAdmitted::NotLeader(_) => "leadership was lost".to_owned(),
        NotAdmitted::Refused(status) => status.message().to_owned(),
    }
}

/// Pure: the next member to go. A voter goes only when those left are a majority.
fn next_step(store: &Store, members: &Members, own: u64, reachable: &BTreeSet<u64>) -> Option<Step> {
    let is_wanted =
        |member: &Member| store.node(member.node_id.as_str()).is_some_and(|node| node.spec.role == Role::Manager);
    if let Some((id, _)) = members.learners.iter().find(|(_, member)| !is_wanted(member)) {
        return Some(Step::Remove(*id));
    }
    let others_decide = |leaving: u64| {
        let others = members.voters.keys().filter(|id| **id != leaving);
        has_quorum(others.clone().count(), others.filter(|id| reachable.contains(id)).count())
    };
    let mut leaving = members.voters.iter().filter(|(_, member)| !is_wanted(member));
    let (id, _) = leaving.find(|(id, _)| others_decide(**id))?;
    Some(if *id == own { Step::HandOver } else { Step::Remove(*id) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_cluster::Command;

    /// A store with the nodes `n1` to `n3`, of which those named are to be managers.
    fn store(managers: &[u64]) -> Store {
        let node = |number: u64| {
            let role = if managers.contains(&number) { Role::Manager } else { Role::Worker };
            let mut node = Node { id: format!("n{number}").as_str().into(), role, ..Node::default() };
            node.spec.role = role;
            Write::put(Object::Node(Box::new(node)))
        };
        let mut store = Store::default();
        store.apply(1, &Command { id: "1".into(), writes: (1..=3).map(node).collect(), ..Command::default() }).unwrap();
        store
    }

    fn member(number: u64) -> (u64, Member) {
        (number, Member { node_id: format!("n{number}").as_str().into(), address: "10.0.0.1:2377".into() })
    }

    #[test]
    fn who_is_not_to_be_a_manager_goes_when_the_others_can_do_without() {
        let check = |managers: &[u64], own: u64, reachable: &[u64], expect: Option<Step>| {
            let members = Members { voters: (1..=3).map(member).collect(), ..Members::default() };
            let reachable = reachable.iter().copied().collect();
            let step = next_step(&store(managers), &members, own, &reachable);
            assert_eq!(step, expect, "{managers:?} {own} {reachable:?}");
        };
        check(&[1, 2, 3], 1, &[1, 2, 3], None);
        check(&[1, 2], 1, &[1, 2, 3], Some(Step::Remove(3)));
        check(&[1, 2], 1, &[1, 2], Some(Step::Remove(3)));
        check(&[2, 3], 1, &[1, 2, 3], Some(Step::HandOver));
        // One at a time; the leader last if another may go.
        check(&[3], 2, &[1, 2, 3], Some(Step::Remove(1)));
        // Without the second, one of two would be left.
        check(&[1, 3], 1, &[1, 2], None);
    }

    #[test]
    fn a_learner_goes_whoever_answers() {
        let learners = [member(3)].into();
        let members = Members { voters: [member(1), member(2)].into(), learners, leader: Some(1) };
        assert_eq!(next_step(&store(&[1, 2]), &members, 1, &[1].into()), Some(Step::Remove(3)));
        assert_eq!(next_step(&store(&[1, 2, 3]), &members, 1, &[1].into()), None);
    }

    #[test]
    fn a_member_of_a_node_that_is_gone_goes() {
        let members = Members { voters: [member(1), member(2), member(9)].into(), ..Members::default() };
        assert_eq!(next_step(&store(&[1, 2]), &members, 1, &[1, 2].into()), Some(Step::Remove(9)));
    }
}
