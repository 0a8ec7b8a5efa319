//! A service's tasks grouped by slot, and the one way in which a slot gets a new task.

use super::constraint;
use super::draft::Draft;
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::{RestartCondition, Service, TaskSpec};
use skep_model::task::{Task, TaskState, TaskStatus};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A replica number, or the node of a global service's task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SlotKey {
    Number(u64),
    Node(String),
}

impl SlotKey {
    /// Key of the service's restart facts.
    pub(crate) fn fact(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Node(node) => node.clone(),
        }
    }
}

/// All tasks of one slot, oldest first.
pub(crate) type Slot = Vec<Arc<Task>>;

pub(crate) fn slots(store: &Store, service: &str) -> BTreeMap<SlotKey, Slot> {
    let mut slots: BTreeMap<SlotKey, Slot> = BTreeMap::new();
    for task in store.tasks_of_service(service) {
        slots.entry(slot_key(task)).or_default().push(Arc::clone(task));
    }
    let many = |tasks: &&mut Slot| tasks.len() > 1;
    slots.values_mut().filter(many).for_each(|tasks| tasks.sort_by(|a, b| age(a).cmp(&age(b))));
    slots
}

/// Every task of a replicated service is as it is to be, one in each of `replicas` slots:
/// at one look over the tasks there is nothing to restart, scale, update or let go.
pub(crate) fn is_calm(store: &Store, service: &Service, replicas: u64) -> bool {
    let mut numbers: Vec<u64> = Vec::new();
    for task in store.tasks_of_service(service.id.as_str()) {
        let plain = task.replaces.is_none() && task.beside.is_none() && task.desired_state == TaskState::Running;
        if !plain || task.status.state.is_terminal() || task.spec_version != service.spec_version {
            return false;
        }
        numbers.push(task.slot);
    }
    let tasks = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len() == tasks && tasks as u64 == replicas
}

/// Sorts older tasks first; those of the plan being made are the newest.
pub(crate) fn age(task: &Task) -> (u64, &str) {
    (if task.created_index == 0 { u64::MAX } else { task.created_index }, task.id.as_str())
}

pub(crate) fn slot_key(task: &Task) -> SlotKey {
    if task.slot == 0 { SlotKey::Node(task.node_id.0.clone()) } else { SlotKey::Number(task.slot) }
}

/// Neither ended nor meant to end.
pub(crate) fn wanted(slot: &[Arc<Task>]) -> impl DoubleEndedIterator<Item = &Arc<Task>> {
    slot.iter().filter(|task| task.is_wanted())
}

/// Told to stop, not stopped yet, and able to run at this moment.
pub(crate) fn is_leaving(task: &Task) -> bool {
    task.desired_state > TaskState::Complete && has_run(task)
}

/// Ended, but nobody told it to.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Whether a slot without a wanted task is to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vacancy {
    Fill,
    /// Its work is done or has failed often enough. With a window, attempts age and it
    /// may be filled again then.
    Finished {
        until: Option<Timestamp>,
    },
}

/// Judges a slot by the task that was there last.
pub(crate) fn vacancy(service: &Service, key: &SlotKey, slot: &[Arc<Task>], now: Timestamp) -> Vacancy {
    let last = slot.iter().rev().find(|task| task.desired_state != TaskState::Remove);
    last.map_or(Vacancy::Fill, |last| after(service, key, last, now))
}

/// Whether a task that ended or was displaced gets a successor.
pub(crate) fn after(service: &Service, key: &SlotKey, last: &Task, now: Timestamp) -> Vacancy {
    let done = Vacancy::Finished { until: None };
    let policy = &service.spec.task.restart;
    if last.job_iteration != iteration(service) {
        return Vacancy::Fill;
    }
    if !ended_by_itself(last) {
        // A replica told to leave its node runs again elsewhere unless it must run once
        // at most; a global one comes back with its node.
        let once = policy.condition == RestartCondition::None && matches!(key, SlotKey::Number(_));
        return if once { done } else { Vacancy::Fill };
    }
    match policy.condition {
        RestartCondition::None => done,
        RestartCondition::OnFailure if last.status.state == TaskState::Complete => done,
        RestartCondition::Any if last.status.state == TaskState::Complete && service.spec.mode.is_job() => done,
        RestartCondition::OnFailure | RestartCondition::Any => attempts_left(service, key, now),
    }
}

fn attempts_left(service: &Service, key: &SlotKey, now: Timestamp) -> Vacancy {
    let policy = &service.spec.task.restart;
    if policy.max_attempts == 0 {
        return Vacancy::Fill;
    }
    let made = service.restarts.get(&key.fact()).map_or(&[][..], Vec::as_slice);
    let counted: Vec<Timestamp> = made.iter().copied().filter(|at| in_window(*at, service, now)).collect();
    let limit = usize::try_from(policy.max_attempts).unwrap_or(usize::MAX);
    if counted.len() < limit {
        return Vacancy::Fill;
    }
    let oldest_that_blocks = counted[counted.len() - limit];
    let until = (!policy.window.is_zero()).then(|| oldest_that_blocks.plus(policy.window));
    Vacancy::Finished { until }
}

fn in_window(at: Timestamp, service: &Service, now: Timestamp) -> bool {
    let window = service.spec.task.restart.window;
    window.is_zero() || at.plus(window) > now
}

/// Restarts remembered per slot; more attempts than this are not counted, so a larger
/// limit means none.
const RESTARTS_REMEMBERED_MAX: usize = 1024;

/// Stores the fact that a slot's task was restarted.
pub(crate) fn record_restart(draft: &mut Draft<'_>, service: &Service, key: &SlotKey) {
    if service.spec.task.restart.max_attempts == 0 {
        return;
    }
    let now = draft.now;
    draft.edit_service(service.id.as_str(), |service| {
        let mut made = service.restarts.remove(&key.fact()).unwrap_or_default();
        made.retain(|at| in_window(*at, service, now));
        made.push(now);
        let excess = made.len().saturating_sub(RESTARTS_REMEMBERED_MAX);
        made.drain(..excess);
        service.restarts.insert(key.fact(), made);
    });
}

/// Makes the next task of a slot. It is held at READY while the restart delay of a
/// predecessor that ended by itself runs, or until one that still stops has stopped.
pub(crate) fn fill(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, predecessor: Option<&Task>) {
    let mut task = new_task(draft, service, key);
    match predecessor {
        Some(old) if ended_by_itself(old) => hold_back(draft, service, &mut task, old),
        // Even when its node is down: that the old one is to stop may fail to be stored.
        Some(old) if has_run(old) => {
            task.replaces = Some(old.id.clone());
            task.desired_state = TaskState::Ready;
        }
        _ => {}
    }
    draft.done(|| format!("service {}: new task {} for slot {}", service.spec.name, task.id, key.fact()));
    draft.put_task(task);
}

/// Makes a task that runs in the slot of `old` and relieves it once it runs. After a
/// failure the next attempt is held back like a restart.
pub(crate) fn relieve(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, old: &Task, slot: &[Arc<Task>]) {
    let mut task = new_task(draft, service, key);
    task.beside = Some(old.id.clone());
    let before = |task: &&Arc<Task>| task.beside.as_ref() == Some(&old.id) && ended_by_itself(task);
    if let Some(failed) = slot.iter().rev().find(before) {
        hold_back(draft, service, &mut task, failed);
    }
    draft.done(|| format!("service {}: new task {} to relieve {}", service.spec.name, task.id, old.id));
    draft.put_task(task);
}

/// Lets a task wait at READY until the restart delay after a failure has passed.
pub(crate) fn hold_back(draft: &Draft<'_>, service: &Service, task: &mut Task, failed: &Task) {
    task.start_not_before = failed.ended_at.max(failed.meta.created_at).plus(service.spec.task.restart.delay);
    if task.start_not_before > draft.now {
        task.desired_state = TaskState::Ready;
    }
}

/// Its node was told of it and has not said that it is over.
fn has_run(task: &Task) -> bool {
    task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

/// A task whose container cannot be ruled out, on a node that will tell when it is gone.
pub(crate) fn may_still_run(store: &Store, task: &Task) -> bool {
    has_run(task) && store.node(task.node_id.as_str()).is_some_and(|node| node.status.state != NodeState::Down)
}

pub(crate) fn new_task(draft: &mut Draft<'_>, service: &Service, key: &SlotKey) -> Task {
    let mut task = Task {
        id: draft.fresh_id().into(),
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        service_labels: service.spec.labels.clone(),
        spec: draft.shared_spec(&service.spec.task),
        spec_version: service.spec_version,
        job_iteration: iteration(service),
        desired_state: goal(service),
        status: TaskStatus { timestamp: draft.now, message: "created".into(), ..TaskStatus::default() },
        ..Task::default()
    };
    task.meta.created_at = draft.now;
    task.meta.updated_at = draft.now;
    match key {
        SlotKey::Number(number) => task.slot = *number,
        SlotKey::Node(node) => task.node_id = node.as_str().into(),
    }
    task
}

/// Whether tasks may stay on a node at all.
pub(crate) fn node_keeps_tasks(node: &Node) -> bool {
    node.status.state != NodeState::Down && node.spec.availability != Availability::Drain
}

/// Whether a global service wants a task on a node.
pub(crate) fn node_is_eligible(service: &Service, node: &Node) -> bool {
    let placement = &service.spec.task.placement;
    node_keeps_tasks(node)
        && constraint::matches(placement, node)
        && constraint::platform_matches(&placement.platforms, node)
}

/// Whether a task is what its service now asks for. A change of placement alone leaves
/// tasks in place on nodes that still match.
pub(crate) fn is_current(store: &Store, service: &Service, task: &Task) -> bool {
    if task.spec_version == service.spec_version {
        return true;
    }
    if task.endpoint.spec != service.spec.endpoint {
        return false;
    }
    if *task.spec == service.spec.task {
        return true;
    }
    let Some(node) = store.node(task.node_id.as_str()) else { return false };
    let wanted = &service.spec.task.placement;
    if task.status.state < TaskState::Assigned || !constraint::matches(wanted, node) {
        return false;
    }
    let mut moved = TaskSpec::clone(&task.spec);
    moved.placement = wanted.clone();
    moved == service.spec.task
}

/// Whether a node may be given tasks now. One not heard of yet gets them when it reports.
pub(crate) fn takes_new_tasks(node: &Node) -> bool {
    node.spec.availability == Availability::Active && node.status.state == NodeState::Ready
}

/// The state that a service's tasks are wanted in for good.
pub(crate) fn goal(service: &Service) -> TaskState {
    if service.spec.mode.is_job() { TaskState::Complete } else { TaskState::Running }
}

/// The present iteration of a job; `None` for other services.
pub(crate) fn iteration(service: &Service) -> Option<u64> {
    service.job_status.map(|status| status.iteration)
}

/// A job's task that ended well: it says that its slot is done, and stays.
pub(crate) fn is_result(service: &Service, task: &Task) -> bool {
    let present = service.spec.mode.is_job() && task.job_iteration == iteration(service);
    present && task.status.state == TaskState::Complete
}
