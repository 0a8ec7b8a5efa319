//! Tasks that ended by themselves get a successor, and held tasks are let go.

use super::draft::Draft;
use super::slots::{
    Slot, SlotKey, Vacancy, after, fill, goal, is_leaving, is_result, iteration, may_still_run, node_is_eligible,
    record_restart, slots, wanted,
};
use skep_model::service::Service;
use skep_model::task::{Task, TaskState};
use std::sync::Arc;
use std::time::Duration;

/// How long a new task waits for the one it replaces to stop.
const OLD_TASK_WAIT: Duration = Duration::from_secs(60);

/// Turns every ended task into history and fills its slot again if the policy says so.
pub(super) fn run(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let unhandled = |task: &Task| ended_unhandled(task) && !is_result(service, task);
    if !draft.store.tasks_of_service(service.id.as_str()).any(|task| unhandled(task)) {
        return;
    }
    for (key, slot) in slots(&draft.store, service.id.as_str()) {
        let mut occupied = wanted(&slot).next().is_some() || slot.iter().any(|task| is_result(service, task));
        for task in slot.iter().filter(|task| unhandled(task)) {
            draft.desire(task.id.as_str(), TaskState::Shutdown);
            // What belongs to an earlier run of a job is not repeated.
            if task.job_iteration == iteration(service) {
                occupied = occupied || restart(draft, service, &key, task);
            }
        }
    }
}

fn ended_unhandled(task: &Task) -> bool {
    task.status.state.is_terminal() && task.desired_state <= TaskState::Complete
}

/// Whether the slot has a new task now.
fn restart(draft: &mut Draft<'_>, service: &Arc<Service>, key: &SlotKey, ended: &Task) -> bool {
    let node = draft.store.node(ended.node_id.as_str());
    if service.spec.mode.is_per_node() && !node.is_some_and(|node| node_is_eligible(service, node)) {
        return false;
    }
    match after(service, key, ended, draft.now) {
        Vacancy::Fill => {
            record_restart(draft, service, key);
            fill(draft, service, key, Some(ended));
            true
        }
        Vacancy::Finished { .. } => {
            let state = ended.status.state.as_str();
            draft.done(|| format!("service {}: task {} is {state} and is not restarted", service.spec.name, ended.id));
            false
        }
    }
}

/// Lets held tasks run once their delay has passed and what they replace has stopped.
pub(super) fn release(draft: &mut Draft<'_>, service: &Service) {
    let held = |task: &&Arc<Task>| task.desired_state < TaskState::Running && task.is_wanted();
    if !draft.store.tasks_of_service(service.id.as_str()).any(|task| held(&task)) {
        return;
    }
    for (_, slot) in slots(&draft.store, service.id.as_str()) {
        // The newest is the one to run; an older one still held is on its way out.
        let Some(task) = wanted(&slot).rev().find(held) else { continue };
        if task.replaces.is_some() && !is_alone(draft, &slot, task) {
            draft.waiting(|| format!("task {} waits until the one it replaces is told to stop", task.id));
            continue;
        }
        match held_until(draft, &slot, task) {
            None => draft.desire(task.id.as_str(), goal(service)),
            Some(at) => {
                draft.wake(at);
                draft.waiting(|| format!("task {} is held until {}", task.id, at.to_rfc3339()));
            }
        }
    }
}

/// Whether it is stored that nothing else is to run in the slot. What this plan decides
/// may be dropped when a node writes at the same time, so the next one looks again.
fn is_alone(draft: &Draft<'_>, slot: &Slot, task: &Task) -> bool {
    task.created_index != 0
        && slot.iter().filter(|other| other.id != task.id).all(|other| {
            let stored = draft.stored_task(other.id.as_str());
            stored.is_none_or(|stored| !stored.is_wanted())
        })
}

/// `None` when a task need not wait any longer.
fn held_until(draft: &Draft<'_>, slot: &Slot, task: &Task) -> Option<skep_model::Timestamp> {
    let now = draft.now;
    let delay = Some(task.start_not_before).filter(|at| *at > now);
    let patience = Some(task.meta.created_at.plus(OLD_TASK_WAIT)).filter(|at| *at > now);
    let stopping = task.replaces.is_some()
        && slot.iter().any(|old| old.id != task.id && is_leaving(old) && may_still_run(&draft.store, old));
    let old = if stopping { patience } else { None };
    delay.max(old)
}
