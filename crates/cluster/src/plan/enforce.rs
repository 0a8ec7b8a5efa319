//! Takes tasks off nodes that must not have them: drained, down, gone, or no longer
//! matching the task's constraints or reservations.

use super::constraint;
use super::draft::Draft;
use super::slots::{SlotKey, Vacancy, after, age, fill, relieve, slot_key};
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::{Service, ServiceMode, TaskResources, UpdateOrder};
use skep_model::task::{AssignedResource, Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
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
            if let Some(reason) = reason.filter(|_| task.is_wanted())
                && !(reason == Reason::Drained && stays_until_relieved(draft, task))
            {
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
    let mut left = Left::of(node);
    let reserves = |task: &&Arc<Task>| reserves(&task.spec.resources);
    kept.into_iter().filter(reserves).filter(|task| !left.take(task)).map(|task| task.id.0.clone()).collect()
}

/// Whether a task asks for a share of its node.
pub(super) fn reserves(resources: &TaskResources) -> bool {
    resources.reserve_nano_cpus != 0 || resources.reserve_memory_bytes != 0 || !resources.reserve_generic.is_empty()
}

/// What a node has, less what tasks took.
struct Left<'a> {
    nano_cpus: i64,
    memory_bytes: i64,
    counted: BTreeMap<&'a str, i64>,
    named: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Left<'a> {
    fn of(node: &'a Node) -> Self {
        let has = &node.description;
        let names = |(kind, names): (&'a String, &'a BTreeSet<String>)| {
            (kind.as_str(), names.iter().map(String::as_str).collect())
        };
        Self {
            nano_cpus: has.nano_cpus,
            memory_bytes: has.memory_bytes,
            counted: has.generic_resources.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            named: has.named_resources.iter().map(names).collect(),
        }
    }

    /// Gives a task what it has reserved, unless some of it is not there any more.
    fn take(&mut self, task: &Task) -> bool {
        let wanted = &task.spec.resources;
        let there = wanted.reserve_nano_cpus <= self.nano_cpus
            && wanted.reserve_memory_bytes <= self.memory_bytes
            && wanted.reserve_generic.iter().all(|(kind, count)| self.has(task.resources.get(kind), kind, *count));
        if there {
            self.nano_cpus -= wanted.reserve_nano_cpus;
            self.memory_bytes -= wanted.reserve_memory_bytes;
            for (kind, count) in &wanted.reserve_generic {
                self.spend(task.resources.get(kind), kind, *count);
            }
        }
        there
    }

    fn has(&self, given: Option<&AssignedResource>, kind: &str, count: i64) -> bool {
        match given {
            Some(AssignedResource::Named(names)) => {
                self.named.get(kind).is_some_and(|left| names.iter().all(|name| left.contains(name.as_str())))
            }
            Some(AssignedResource::Count(_)) | None => count <= self.counted.get(kind).copied().unwrap_or(0),
        }
    }

    fn spend(&mut self, given: Option<&AssignedResource>, kind: &str, count: i64) {
        match given {
            Some(AssignedResource::Named(names)) => {
                let left = self.named.get_mut(kind);
                left.into_iter().for_each(|left| left.retain(|name| !names.contains(*name)));
            }
            Some(AssignedResource::Count(_)) | None => {
                self.counted.get_mut(kind).into_iter().for_each(|left| *left -= count);
            }
        }
    }
}

/// Looks for tasks of a start-first service that lost the one that was to relieve them on
/// their drained node, for whatever reason.
pub(super) fn service(draft: &mut Draft<'_>, service: &Service) {
    if !starts_first(service) {
        return;
    }
    let drained = |task: &&Arc<Task>| {
        let node = draft.store.node(task.node_id.as_str());
        let drained = |node: &Node| reason(node, task, &BTreeSet::new()) == Some(Reason::Drained);
        task.is_wanted() && node.is_some_and(|node| drained(node))
    };
    let tasks: Vec<Arc<Task>> = draft.store.tasks_of_service(service.id.as_str()).filter(drained).cloned().collect();
    for task in tasks {
        stays_until_relieved(draft, &task);
    }
}

fn starts_first(service: &Service) -> bool {
    let order = service.spec.update.as_ref().map(|config| config.order);
    matches!(service.spec.mode, ServiceMode::Replicated { .. }) && order == Some(UpdateOrder::StartFirst)
}

/// Where a service starts first, a running task leaves a drained node when its successor
/// runs elsewhere.
fn stays_until_relieved(draft: &mut Draft<'_>, task: &Task) -> bool {
    let Some(service) = draft.store.service(task.service_id.as_str()).cloned() else { return false };
    let running = task.status.state == TaskState::Running;
    let key = slot_key(task);
    let goes_on = after(&service, &key, task, draft.now) == Vacancy::Fill;
    if !(starts_first(&service) && !service.pending_delete && running && goes_on) {
        return false;
    }
    let slot: Vec<Arc<Task>> =
        draft.store.tasks_of_service(service.id.as_str()).filter(|other| other.slot == task.slot).cloned().collect();
    // One that this plan tells to go may not hear of it: the next plan sees.
    let stored = |other: &Task| draft.stored_task(other.id.as_str()).is_some_and(|stored| stored.is_wanted());
    let successor = slot.iter().any(|other| other.id != task.id && (other.is_wanted() || stored(other)));
    // An outdated one is relieved by one of the present spec, whatever the update's pace.
    if !successor {
        relieve(draft, &service, &key, task, &slot);
    }
    draft.waiting(|| format!("task {} stays on drained node {} until its successor runs", task.id, task.node_id));
    true
}

/// The task is told to stop and, for a replica, its slot filled elsewhere at once.
fn displace(draft: &mut Draft<'_>, task: &Task, reason: Reason) {
    draft.desire(task.id.as_str(), TaskState::Shutdown);
    if matches!(reason, Reason::Constraints | Reason::Resources) {
        draft.say_why(task.id.as_str(), reason.text());
    }
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
    draft.change_task(task.id.as_str(), |task| {
        task.status.state = TaskState::Orphaned;
        task.status.timestamp = now;
        task.status.message = "node is gone".into();
        task.desired_state = task.desired_state.max(TaskState::Shutdown);
    });
}
