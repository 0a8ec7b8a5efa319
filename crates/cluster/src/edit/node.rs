//! Members of the swarm.

use super::{check_version, not_found, precondition};
use crate::command::{Key, Kind, Object, Write};
use crate::store::Store;
use skep_model::Result;
use skep_model::id::NodeId;
use skep_model::node::{NodeSpec, NodeState, Role};

/// Changes name, labels, availability or role. The role in the certificate follows later.
///
/// # Errors
/// The last manager must not be demoted; the version must be the present one.
pub fn update_node(store: &Store, id: &NodeId, version: u64, spec: NodeSpec) -> Result<Vec<Write>> {
    let Some(present) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    check_version(present.meta.version, version)?;
    let demoted = present.spec.role == Role::Manager && spec.role == Role::Worker;
    let managers = store.nodes().filter(|node| node.spec.role == Role::Manager).count();
    if demoted && managers == 1 {
        return Err(precondition("attempting to demote the last manager of the swarm"));
    }
    let mut node = (**present).clone();
    node.spec = spec;
    Ok(vec![Write::put(Object::Node(Box::new(node)))])
}

/// Forgets a node. The leader's next plan gives its tasks up and replaces them.
///
/// # Errors
/// It is a manager, or it is up and `force` is not given.
pub fn remove_node(store: &Store, id: &NodeId, force: bool) -> Result<Vec<Write>> {
    let Some(node) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    if node.spec.role == Role::Manager || node.manager_status.is_some() {
        let text =
            "is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal";
        return Err(precondition(format!("node {id} {text}")));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(precondition(format!("node {id} is not down and can't be removed")));
    }
    let key = Key::new(Kind::Node, id.as_str());
    Ok(vec![Write::Remove { key, expected: node.meta.version }])
}
