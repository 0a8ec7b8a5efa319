//! Tasks are assigned only to nodes that are ready and active and have room.

use super::{Check, Verdict};
use skep_cluster::Command;
use skep_cluster::command::{Object, Write};
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, NodeState};
use skep_model::task::TaskState;

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
        if memory > node.description.memory_bytes {
            return Err(format!("node {} has more reserved than it has", node.id));
        }
    }
    Ok(())
}
