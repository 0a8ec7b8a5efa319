//! Takes tasks off nodes that must not have them: drained, down, gone, or no longer
//! matching the task's constraints or reservations.

use super::constraint;
use super::draft::Draft;
use super::slots::{SlotKey, Vacancy, after, age, fill, slot_key};
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::Service;
use skep_model::task::{Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A node away for so long will not bring its tasks back.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why a task must leave its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Gone,
    Down,
    Drained,
    Constraints,
    Resources,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Gone => "node was removed",
            Self::Down => "node is down",
            Self::Drained => "node is drained",
            Self::Constraints => "assigned node no longer meets constraints",
            Self::Resources => "assigned node no longer has the reserved resources",
        }
    }
}

pub(super) fn run(draft: &mut Draft<'_>, nodes: &BTreeSet<String>) {
    // The empty id stands for tasks that have no node yet.
    for id in nodes.iter().filter(|id| !id.is_empty()) {
        let tasks: Vec<Arc<Task>> = draft.store.tasks_of_node(id).cloned().collect();
        let node = draft.store.node(id).cloned();
        let overfull = node.as_deref().map(|node| overfull(node, &tasks)).unwrap_or_default();
        for task in tasks.iter().filter(|task| !task.status.state.is_terminal()) {
            let reason = node.as_deref().map_or(Some(Reason::Gone), |node| reason(node, task, &overfull));
            if let Some(reason) = reason.filter(|_| task.is_wanted()) {
                displace(draft, task, reason);
            }
            orphan(draft, node.as_deref(), task);
        }
    }
}

fn reason(node: &Node, task: &Task, overfull: &BTreeSet<String>) -> Option<Reason> {
    if node.status.state == NodeState::Down {
        return Some(Reason::Down);
    }
    if node.spec.availability == Availability::Drain {
        return Some(Reason::Drained);
    }
    if node.spec.availability == Availability::Active && !constraint::matches(&task.spec.placement, node) {
        return Some(Reason::Constraints);
    }
    overfull.contains(task.id.as_str()).then_some(Reason::Resources)
}

/// The newest tasks beyond what the node now has, e.g. after a restart with less memory.
fn overfull(node: &Node, tasks: &[Arc<Task>]) -> BTreeSet<String> {
    if node.spec.availability != Availability::Active {
        return BTreeSet::new();
    }
    let mut kept: Vec<&Arc<Task>> = tasks.iter().filter(|task| task.is_wanted()).collect();
    kept.sort_by(|a, b| age(a).cmp(&age(b)));
    let (mut cpus, mut memory) = (node.description.nano_cpus, node.description.memory_bytes);
    let mut beyond = BTreeSet::new();
    for task in kept {
        let wanted = &task.spec.resources;
        if wanted.reserve_nano_cpus == 0 && wanted.reserve_memory_bytes == 0 {
            continue;
        }
        if wanted.reserve_nano_cpus > cpus || wanted.reserve_memory_bytes > memory {
            beyond.insert(task.id.0.clone());
            continue;
        }
        cpus -= wanted.reserve_nano_cpus;
        memory -= wanted.reserve_memory_bytes;
    }
    beyond
}

/// The task is told to stop and, for a replica, its slot filled elsewhere at once.
fn displace(draft: &mut Draft<'_>, task: &Task, reason: Reason) {
    draft.edit_task(task.id.as_str(), |task| {
        task.desired_state = task.desired_state.max(TaskState::Shutdown);
        if matches!(reason, Reason::Constraints | Reason::Resources) {
            task.status.err = reason.text().into();
        }
    });
    draft.done(|| format!("task {} leaves node {}: {}", task.id, task.node_id, reason.text()));
    let Some(service) = draft.store.service(task.service_id.as_str()).cloned() else { return };
    // A job fills its slots itself, within its limit of tasks at a time.
    let others_fill = service.spec.mode.is_per_node() || service.spec.mode.is_job();
    if service.pending_delete || others_fill || slot_is_occupied(draft, &service, task) {
        return;
    }
    let key: SlotKey = slot_key(task);
    if after(&service, &key, task, draft.now) == Vacancy::Fill {
        fill(draft, &service, &key, Some(task));
    }
}

fn slot_is_occupied(draft: &Draft<'_>, service: &Service, task: &Task) -> bool {
    let slot = task.slot;
    draft.store.tasks_of_service(service.id.as_str()).any(|other| other.slot == slot && other.is_wanted())
}

/// Gives up on a task whose node is removed, or was away too long.
fn orphan(draft: &mut Draft<'_>, node: Option<&Node>, task: &Task) {
    let lost_at = match node {
        None => draft.now,
        Some(node) if node.status.state == NodeState::Down => node.status.since.plus(ORPHAN_AFTER),
        Some(_) => return,
    };
    if lost_at > draft.now {
        draft.wake(lost_at);
        return;
    }
    let now = draft.now;
    draft.edit_task(task.id.as_str(), |task| {
        task.status.state = TaskState::Orphaned;
        task.status.timestamp = now;
        task.status.message = "node is gone".into();
        task.desired_state = task.desired_state.max(TaskState::Shutdown);
    });
}
