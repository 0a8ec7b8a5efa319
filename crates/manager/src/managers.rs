//! Keeps what the store says of the managers true: on the leader who leads and who
//! answers, on every manager where the others are and where it is itself.

use crate::edit::edit;
use crate::raft::{Member, Members, Replicator};
use skep_cluster::Store;
use skep_cluster::command::{Object, Write};
use skep_model::Error;
use skep_model::node::{ManagerStatus, Node};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the leader looks who still answers, and a follower tries to tell a new address.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop`, or until Raft fails. `own` is how this manager is reached.
pub(crate) async fn run(replicator: Replicator, own: Member, stop: CancellationToken) -> Result<(), Error> {
    loop {
        let members = replicator.members();
        replicator.follow_addresses(&members);
        let announced = announce(&replicator, &members, &own).await;
        if replicator.is_leader() && replicator.catch_up().await.is_ok() {
            record(&replicator, &members).await;
        }
        // Alone and in order there is nothing to look at again.
        let settled = announced && members.voters.len() <= 1;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = replicator.members_change(&members) => changed?,
            () = tokio::time::sleep(LOOK_INTERVAL), if !settled => {}
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
        let (id, member) = members.voters.iter().find(|(_, member)| member.node_id == node.id)?;
        Some(ManagerStatus {
            raft_id: *id,
            address: member.address.clone(),
            leader: members.leader == Some(*id),
            reachable: reachable.contains(id),
        })
    };
    let mut writes = Vec::new();
    for node in store.nodes() {
        let manager_status = status_of(node);
        if node.manager_status != manager_status {
            writes.push(Write::put(Object::Node(Box::new(Node { manager_status, ..Node::clone(node) }))));
        }
    }
    writes
}
