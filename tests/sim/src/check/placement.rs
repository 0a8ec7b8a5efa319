//! Tasks are assigned only to nodes that are ready and active and have room.

use super::{Check, Verdict};
use skep_cluster::Command;
use skep_cluster::command::{Object, Write};
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::task::{AssignedResource, TaskState};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Placement;

impl Check for Placement {
    fn name(&self) -> &'static str {
        "placement"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], now: Timestamp) -> Verdict {
        for write in writes {
            let Write::Put { object: Object::Task(task), .. } = write else { continue };
            let before = snapshot.task(task.id.as_str()).map(|task| task.status.state);
            if task.status.state != TaskState::Assigned || before.is_some_and(|state| state >= TaskState::Assigned) {
                continue;
            }
            let node = snapshot.node(task.node_id.as_str());
            let Some(node) = node else { return Err(format!("task {} is assigned to no node", task.id)) };
            if node.status.state != NodeState::Ready || node.spec.availability != Availability::Active {
                return Err(format!("task {} is assigned to a node that takes none", task.id));
            }
        }
        has_room(snapshot, writes, now)
    }
}

/// The first kind of resource of which more is reserved than the node has, or a named one
/// twice.
fn overspent(store: &Store, node: &Node) -> Option<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    let mut names: BTreeSet<(&str, &str)> = BTreeSet::new();
    for task in store.tasks_of_node(node.id.as_str()).filter(|task| !task.status.state.is_terminal()) {
        for (kind, given) in &task.resources {
            match given {
                AssignedResource::Count(count) => *counts.entry(kind).or_default() += count,
                AssignedResource::Named(given) => {
                    let wanted = task.spec.resources.reserve_generic.get(kind).copied().unwrap_or(0);
                    let twice = given.iter().any(|name| !names.insert((kind, name)));
                    if twice || given.len() as i64 != wanted {
                        return Some(kind.clone());
                    }
                }
            }
        }
    }
    let has = |kind: &str| node.description.generic_resources.get(kind).copied().unwrap_or(0);
    counts.into_iter().find(|(kind, count)| *count > has(kind)).map(|(kind, _)| kind.to_owned())
}

fn has_room(snapshot: &Store, writes: &[Write], now: Timestamp) -> Verdict {
    let mut store = snapshot.clone();
    let command = Command { id: String::new(), at: now, writes: writes.to_vec(), independent: true };
    if store.apply(store.index() + 1, &command).is_err() {
        return Ok(());
    }
    for node in store.nodes() {
        let reserved = |task: &&std::sync::Arc<skep_model::task::Task>| !task.status.state.is_terminal();
        let memory: i64 = store
            .tasks_of_node(node.id.as_str())
            .filter(reserved)
            .map(|task| task.spec.resources.reserve_memory_bytes)
            .sum();
        if let Some(kind) = overspent(&store, node) {
            return Err(format!("node {} has given out more {kind} than it has, or one twice", node.id));
        }
        if memory > node.description.memory_bytes {
            return Err(format!("node {} has more reserved than it has", node.id));
        }
    }
    Ok(())
}
