//! A task that is being moved, or drained start-first, is told to stop only once the one
//! that relieves it runs.

use super::{Check, Verdict};
use skep_cluster::Write;
use skep_cluster::command::Object;
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, NodeState};
use skep_model::task::{Task, TaskState};
use std::sync::Arc;

pub(super) struct Relief;

impl Check for Relief {
    fn name(&self) -> &'static str {
        "relieved without a gap"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], _now: Timestamp) -> Verdict {
        for write in writes {
            let Write::Put { object: Object::Task(task), .. } = write else { continue };
            if task.desired_state == TaskState::Shutdown && too_early(snapshot, task) {
                return Err(format!("task {} stops before the one that relieves it runs", task.id));
            }
        }
        Ok(())
    }
}

fn too_early(snapshot: &Store, task: &Task) -> bool {
    let Some(before) = snapshot.task(task.id.as_str()).filter(|before| before.is_wanted()) else { return false };
    let Some(service) = snapshot.service(task.service_id.as_str()) else { return false };
    let node = snapshot.node(task.node_id.as_str());
    let lost = node.is_none_or(|node| node.status.state == NodeState::Down);
    // What may not stay, or is outdated, goes for other reasons.
    let other_reason = lost
        || !task.status.err.is_empty()
        || service.pending_delete
        || task.spec_version != service.spec_version
        || before.status.state != TaskState::Running;
    let heir = |other: &&Arc<Task>| other.beside.as_ref() == Some(&task.id) && other.is_wanted();
    let heirs: Vec<&Arc<Task>> = snapshot.tasks_of_service(service.id.as_str()).filter(heir).collect();
    let drained = node.is_some_and(|node| node.spec.availability == Availability::Drain);
    let runs = heirs.iter().any(|heir| heir.status.state == TaskState::Running);
    !other_reason && !heirs.is_empty() && !runs && (drained || node.is_some())
}
