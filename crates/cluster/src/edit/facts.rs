//! What nodes tell: that they are there, how they fare, how their tasks do.

use super::not_found;
use crate::command::{Object, Write};
use crate::store::Store;
use skep_model::id::NodeId;
use skep_model::node::{Node, NodeDescription, NodeState};
use skep_model::task::TaskStatus;
use skep_model::{Error, Result};

/// A node was given its certificate and becomes a member, not heard of yet.
///
/// # Errors
/// Its id is taken.
pub fn join_node(store: &Store, node: Node) -> Result<Vec<Write>> {
    if store.node(node.id.as_str()).is_some() {
        return Err(super::exists(format!("node {} already exists", node.id)));
    }
    Ok(vec![Write::Put { object: Object::Node(Box::new(node)), expected: 0 }])
}

/// A node opened a session: description and address, state READY. Nothing is written
/// when nothing changed.
///
/// # Errors
/// It is not a member (any more).
pub fn node_ready(
    store: &Store,
    id: &NodeId,
    description: NodeDescription,
    address: &str,
    data_path_address: &str,
) -> Result<Vec<Write>> {
    change_node(store, id, |node| {
        node.description = description;
        node.data_path_address = data_path_address.to_owned();
        node.status.state = NodeState::Ready;
        node.status.message.clear();
        node.status.address = address.to_owned();
    })
}

/// A heartbeat expired or a session ended.
///
/// # Errors
/// It is not a member (any more).
pub fn node_state(store: &Store, id: &NodeId, state: NodeState, message: &str) -> Result<Vec<Write>> {
    change_node(store, id, |node| {
        node.status.state = state;
        node.status.message = message.to_owned();
    })
}

fn change_node(store: &Store, id: &NodeId, change: impl FnOnce(&mut Node)) -> Result<Vec<Write>> {
    let Some(present) = store.node(id.as_str()) else { return Err(not_found("node", id.as_str())) };
    let mut node = (**present).clone();
    change(&mut node);
    if node == **present {
        return Ok(Vec::new());
    }
    Ok(vec![Write::put(Object::Node(Box::new(node)))])
}

/// A node reports its tasks' statuses. Reports about tasks that are gone, and those that
/// would go back or say nothing new, are skipped: they were overtaken.
///
/// Propose the writes as an independent command; what is dropped (a planner wrote in
/// between) is to be built again from the same reports.
///
/// # Errors
/// A task of another node.
pub fn task_status(store: &Store, node: &NodeId, updates: &[(String, TaskStatus)]) -> Result<Vec<Write>> {
    let mut newest: std::collections::BTreeMap<&str, skep_model::task::Task> = Default::default();
    for (id, status) in updates {
        let Some(present) = store.task(id) else { continue };
        if present.node_id != *node {
            let text = "rpc error: code = PermissionDenied desc = cannot update a task not assigned this node";
            return Err(Error::forbidden(text));
        }
        let task = newest.entry(id).or_insert_with(|| (**present).clone());
        if status.state >= task.status.state && !task.status.state.is_terminal() {
            task.status = status.clone();
        }
    }
    let changed = newest.into_iter().filter(|(id, task)| store.task(id).is_some_and(|present| **present != *task));
    Ok(changed.map(|(_, task)| Write::put(Object::Task(Box::new(task)))).collect())
}
