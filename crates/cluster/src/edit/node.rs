//! Members of the swarm.

use super::{check_version, not_found, precondition};
use crate::command::{Key, Kind, Object, Write};
use crate::store::Store;
use skep_model::Result;
use skep_model::id::NodeId;
use skep_model::node::{ManagerStatus, Node, NodeSpec, NodeState, Role};

const LOSS_OF_QUORUM: &str = "can't remove member from the raft: this would result in a loss of quorum";

/// Changes name, labels, availability or role. The role in the certificate follows later.
///
/// # Errors
/// The last manager must not be demoted, nor one without which the others are no majority;
/// the version must be the present one.
pub fn update_node(store: &Store, id: &NodeId, version: u64, spec: NodeSpec) -> Result<Vec<Write>> {
    let Some(present) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    check_version(present.meta.version, version)?;
    let demoted = present.spec.role == Role::Manager && spec.role == Role::Worker;
    if demoted && is_last_manager(store, present) {
        return Err(precondition("attempting to demote the last manager of the swarm"));
    }
    if demoted && !others_have_quorum(store, present) {
        return Err(precondition(LOSS_OF_QUORUM));
    }
    let mut node = (**present).clone();
    node.spec = spec;
    Ok(vec![Write::put(Object::Node(Box::new(node)))])
}

/// Forgets a node. The leader's next plan gives its tasks up and replaces them; a manager
/// that is down and removed by force is taken out of Raft next.
///
/// # Errors
/// It takes part in Raft, unless it is down, `force` is given and the others are a majority;
/// or it is up and `force` is not given.
pub fn remove_node(store: &Store, id: &NodeId, force: bool) -> Result<Vec<Write>> {
    let Some(node) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    let is_lost = |status: &ManagerStatus| force && !status.reachable && node.status.state != NodeState::Ready;
    if is_last_manager(store, node) || node.manager_status.as_ref().is_some_and(|status| !is_lost(status)) {
        let text =
            "is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal";
        return Err(precondition(format!("node {id} {text}")));
    }
    if !others_have_quorum(store, node) {
        return Err(precondition(LOSS_OF_QUORUM));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(precondition(format!("node {id} is not down and can't be removed")));
    }
    let key = Key::new(Kind::Node, id.as_str());
    Ok(vec![Write::Remove { key, expected: node.meta.version }])
}

/// A node with a manager's certificate is about to take part in Raft, or has another address.
///
/// # Errors
/// It is not a member (any more), or not to be a manager (any more).
pub fn admit_manager(store: &Store, id: &NodeId, raft_id: u64, address: &str) -> Result<Vec<Write>> {
    let Some(present) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    if present.spec.role != Role::Manager {
        return Err(precondition(format!("node {id} is not to be a manager")));
    }
    let before = present.manager_status.as_ref();
    let leader = before.is_some_and(|status| status.leader && status.raft_id == raft_id);
    let status = ManagerStatus { raft_id, address: address.to_owned(), leader, reachable: true };
    if before == Some(&status) {
        return Ok(Vec::new());
    }
    Ok(vec![Write::put(Object::Node(Box::new(Node { manager_status: Some(status), ..Node::clone(present) })))])
}

/// The swarm goes on with one manager alone: the others are none any more, in their specs too.
pub fn demote_others(store: &Store, remaining: &NodeId) -> Vec<Write> {
    let others = store.nodes().filter(|node| node.id != *remaining);
    let managers = others.filter(|node| node.spec.role == Role::Manager || node.manager_status.is_some());
    let demoted = managers.map(|node| {
        let mut node = Node { role: Role::Worker, manager_status: None, ..Node::clone(node) };
        node.spec.role = Role::Worker;
        Write::put(Object::Node(Box::new(node)))
    });
    demoted.collect()
}

fn is_last_manager(store: &Store, node: &Node) -> bool {
    let others = store.nodes().filter(|other| other.id != node.id && other.spec.role == Role::Manager);
    node.spec.role == Role::Manager && others.count() == 0
}

/// Whether the managers that answer are a majority when this one is gone. A node that does
/// not take part in Raft may always go.
fn others_have_quorum(store: &Store, leaving: &Node) -> bool {
    if leaving.manager_status.is_none() {
        return true;
    }
    let others = store.nodes().filter(|node| node.id != leaving.id).filter_map(|node| node.manager_status.as_ref());
    let (total, reachable) = others.fold((0, 0), |(total, up), status| (total + 1, up + usize::from(status.reachable)));
    has_quorum(total, reachable)
}

/// Whether `reachable` of `total` managers can decide.
pub fn has_quorum(total: usize, reachable: usize) -> bool {
    reachable > total / 2
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
