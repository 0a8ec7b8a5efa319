//! Rolling updates: tasks that are not what their service asks for are replaced, a few
//! slots at a time. All progress is read off the tasks, so a new leader goes on where the
//! last one stopped.

use super::draft::Draft;
use super::slots::{
    Slot, SlotKey, Vacancy, ended_by_itself, fill, hold_back, is_current, new_task, node_is_eligible, slots, vacancy,
    wanted,
};
use skep_model::Timestamp;
use skep_model::service::{FailureAction, Service, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where each slot of a service is in the update.
#[derive(Default)]
struct Progress<'a> {
    /// Still as before; to be replaced.
    outdated: Vec<(&'a SlotKey, &'a Slot)>,
    /// Being replaced, or replaced too short ago for the next one to begin.
    busy: usize,
    /// When a busy slot may become free by time alone.
    free_at: Option<Timestamp>,
    /// A new task has run or ended in these.
    done: usize,
    /// When the last of those did.
    last_done: Timestamp,
    /// The first failed task of every slot with one.
    failed: Vec<&'a Task>,
    /// New tasks that have not got far enough to tell.
    unsettled: usize,
}

/// An update or rollback is not over, or paused.
pub(super) fn is_under_way(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    !matches!(state, None | Some(UpdateState::Completed | UpdateState::RollbackCompleted))
}

pub(super) fn run(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let slots = slots(&draft.store, service.id.as_str());
    finish_pairs(draft, service, &slots);
    let state = service.update_status.as_ref().map(|status| status.state);
    let config = config(service, state);
    let progress = progress(draft, service, &slots, &config);
    match state {
        Some(UpdateState::Updating | UpdateState::RollbackStarted) => advance(draft, service, &config, &progress),
        Some(UpdateState::Paused | UpdateState::RollbackPaused) => {
            let outdated = progress.outdated.len();
            draft.waiting(|| format!("service {}: update is paused, {outdated} slots are outdated", service.spec.name));
        }
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted) => {
            if !progress.outdated.is_empty() {
                set_status(draft, service, UpdateState::Updating, "update in progress");
            }
        }
    }
}

fn config(service: &Service, state: Option<UpdateState>) -> UpdateConfig {
    let rolling_back = matches!(state, Some(UpdateState::RollbackStarted | UpdateState::RollbackPaused));
    let config = if rolling_back { &service.spec.rollback } else { &service.spec.update };
    config.clone().unwrap_or_default()
}

/// Start-first: once the new task of a slot runs, the old ones go.
fn finish_pairs(draft: &mut Draft<'_>, service: &Service, slots: &BTreeMap<SlotKey, Slot>) {
    for slot in slots.values() {
        stop_replaced(draft, slot);
        let (new, old): (Vec<_>, Vec<_>) = wanted(slot).partition(|task| is_current(&draft.store, service, task));
        // Two current tasks are left over when a leader's write was lost: the newest stays.
        let keeper = new.iter().rev().find(|task| task.status.state == TaskState::Running);
        let Some(keeper) = keeper.or_else(|| new.last()).copied() else { continue };
        if keeper.status.state == TaskState::Running {
            old.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Shutdown));
        }
        // One that is to take over from the keeper may still get there.
        let heir = |task: &&&Arc<Task>| task.beside.as_ref() == Some(&keeper.id);
        for task in new.iter().filter(|task| task.id != keeper.id && !heir(task)) {
            draft.desire(task.id.as_str(), TaskState::Shutdown);
        }
    }
}

/// What is being replaced is to stop, even if the write that said so was lost.
fn stop_replaced(draft: &mut Draft<'_>, slot: &Slot) {
    let replaced = wanted(slot).filter_map(|task| task.replaces.clone());
    // Who was to be relieved may go, whatever both were made from.
    let running = wanted(slot).filter(|task| task.status.state == TaskState::Running);
    let relieved = running.filter_map(|task| task.beside.clone());
    for old in replaced.chain(relieved).collect::<Vec<_>>() {
        draft.desire(old.as_str(), TaskState::Shutdown);
    }
}

fn progress<'a>(
    draft: &Draft<'_>,
    service: &Service,
    slots: &'a BTreeMap<SlotKey, Slot>,
    config: &UpdateConfig,
) -> Progress<'a> {
    let mut progress = Progress::default();
    for (key, slot) in slots {
        let current: Vec<&Arc<Task>> = slot.iter().filter(|task| task.spec_version == service.spec_version).collect();
        if let Some(failed) = current.iter().find(|task| failed_early(task, config.monitor)) {
            progress.failed.push(failed);
        }
        let outdated = is_outdated(draft, service, key, slot);
        let replacing = current.iter().any(|task| task.is_wanted());
        // Beside an old task every attempt counts as not settled until it runs.
        let settled = current.iter().filter_map(|task| settled_at(task)).min().filter(|_| !(outdated && replacing));
        match settled {
            Some(at) => {
                progress.done += 1;
                progress.last_done = progress.last_done.max(at);
                let free_at = at.plus(config.delay);
                if free_at > draft.now {
                    progress.busy += 1;
                    progress.free_at = Some(progress.free_at.map_or(free_at, |other| other.min(free_at)));
                }
            }
            None if replacing => {
                progress.busy += 1;
                progress.unsettled += 1;
            }
            None => {}
        }
        if outdated && !replacing {
            progress.outdated.push((key, slot));
        }
    }
    progress
}

/// Nothing current is wanted in the slot, and something else is, or was last.
fn is_outdated(draft: &Draft<'_>, service: &Service, key: &SlotKey, slot: &Slot) -> bool {
    let mut present = wanted(slot).peekable();
    if present.peek().is_some() {
        return present.any(|task| !is_current(&draft.store, service, task));
    }
    let last = slot.iter().rev().find(|task| task.desired_state != TaskState::Remove);
    // Nothing comes back to a node that a global service must not use.
    if let SlotKey::Node(id) = key
        && !draft.store.node(id).is_some_and(|node| node_is_eligible(service, node))
    {
        return false;
    }
    let finished = matches!(vacancy(service, key, slot, draft.now), Vacancy::Finished { .. });
    finished && last.is_some_and(|last| last.spec_version != service.spec_version && *last.spec != service.spec.task)
}

/// When it was known whether the task works.
fn settled_at(task: &Task) -> Option<Timestamp> {
    if task.running_at.is_set() {
        return Some(task.running_at);
    }
    ended_by_itself(task).then_some(task.ended_at)
}

fn failed_early(task: &Task, monitor: Duration) -> bool {
    ended_by_itself(task) && (!task.running_at.is_set() || task.ended_at.since(task.running_at) <= monitor)
}

fn advance(draft: &mut Draft<'_>, service: &Arc<Service>, config: &UpdateConfig, progress: &Progress<'_>) {
    if let Some(failed) = too_many_failed(config, progress)
        && react(draft, service, config, failed)
    {
        return;
    }
    let parallelism =
        if config.parallelism == 0 { usize::MAX } else { usize::try_from(config.parallelism).unwrap_or(usize::MAX) };
    let free = parallelism.saturating_sub(progress.busy);
    for (key, slot) in progress.outdated.iter().take(free) {
        replace(draft, service, config, key, slot);
    }
    let (outdated, busy) = (progress.outdated.len(), progress.busy);
    if outdated > 0 {
        progress.free_at.into_iter().for_each(|at| draft.wake(at));
        draft.waiting(|| format!("service {}: {outdated} slots to update, {busy} busy", service.spec.name));
    } else if progress.unsettled == 0 {
        complete(draft, service, config, progress.last_done);
    }
}

fn too_many_failed<'a>(config: &UpdateConfig, progress: &Progress<'a>) -> Option<&'a Task> {
    let total = (progress.done + progress.unsettled + progress.outdated.len()).max(1);
    let ratio = progress.failed.len() as f32 / total as f32;
    progress
        .failed
        .iter()
        .max_by_key(|task| (task.ended_at, &task.id))
        .copied()
        .filter(|_| ratio > config.max_failure_ratio)
}

/// Whether the update stops here.
fn react(draft: &mut Draft<'_>, service: &Service, config: &UpdateConfig, failed: &Task) -> bool {
    let rolling_back = service.update_status.as_ref().is_some_and(|s| s.state == UpdateState::RollbackStarted);
    let cause = format!("due to failure or early termination of task {}", failed.id);
    match config.failure_action {
        FailureAction::Continue => false,
        // A rollback never rolls back.
        FailureAction::Rollback if !rolling_back && service.previous_spec.is_some() => {
            draft.done(|| format!("service {}: update rolled back {cause}", service.spec.name));
            draft.edit_service(service.id.as_str(), |service| {
                if let Some(previous) = service.previous_spec.take() {
                    service.spec = *previous;
                }
                service.restarts.clear();
            });
            set_status(draft, service, UpdateState::RollbackStarted, &format!("update rolled back {cause}"));
            true
        }
        FailureAction::Pause | FailureAction::Rollback => {
            let (state, what) = if rolling_back {
                (UpdateState::RollbackPaused, "rollback paused")
            } else {
                (UpdateState::Paused, "update paused")
            };
            draft.done(|| format!("service {}: {what} {cause}", service.spec.name));
            set_status(draft, service, state, &format!("{what} {cause}"));
            true
        }
    }
}

fn replace(draft: &mut Draft<'_>, service: &Service, config: &UpdateConfig, key: &SlotKey, slot: &Slot) {
    let old: Vec<&Arc<Task>> = wanted(slot).collect();
    let running = old.iter().rev().find(|task| task.status.state == TaskState::Running);
    if let (UpdateOrder::StartFirst, Some(running)) = (config.order, running) {
        let surplus = old.iter().filter(|task| task.id != running.id);
        surplus.for_each(|task| draft.desire(task.id.as_str(), TaskState::Shutdown));
        // Two may run in a slot, never three: once it is stored that the others go.
        let stored = slot.iter().filter_map(|task| draft.stored_task(task.id.as_str()));
        if stored.filter(|task| task.is_wanted()).count() == 1 {
            start_beside(draft, service, key, slot);
        }
        return;
    }
    old.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Shutdown));
    fill(draft, service, key, old.last().map(|task| &***task));
}

/// The old task stays until the new one runs. After a failure the next attempt is held
/// back like a restart.
fn start_beside(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, slot: &Slot) {
    let mut task = new_task(draft, service, key);
    let failed = slot.iter().rev().find(|task| task.spec_version == service.spec_version && ended_by_itself(task));
    if let Some(failed) = failed {
        hold_back(draft, service, &mut task, failed);
    }
    draft.done(|| format!("service {}: new task {} beside the old one", service.spec.name, task.id));
    draft.put_task(task);
}

/// All slots are new; the update is over when they stayed well for a while.
fn complete(draft: &mut Draft<'_>, service: &Service, config: &UpdateConfig, last_done: Timestamp) {
    let over_at = if last_done.is_set() { last_done.plus(config.monitor.max(config.delay)) } else { draft.now };
    if over_at > draft.now {
        draft.wake(over_at);
        draft.waiting(|| format!("service {}: update is watched until {}", service.spec.name, over_at.to_rfc3339()));
        return;
    }
    let rolling_back = service.update_status.as_ref().is_some_and(|s| s.state == UpdateState::RollbackStarted);
    if rolling_back {
        set_status(draft, service, UpdateState::RollbackCompleted, "rollback completed");
    } else {
        set_status(draft, service, UpdateState::Completed, "update completed");
    }
}

fn set_status(draft: &mut Draft<'_>, service: &Service, state: UpdateState, message: &str) {
    let now = draft.now;
    let begins = matches!(state, UpdateState::Updating | UpdateState::RollbackStarted);
    let ends = matches!(state, UpdateState::Completed | UpdateState::RollbackCompleted);
    draft.edit_service(service.id.as_str(), |service| {
        let before = service.update_status.take().unwrap_or_default();
        service.update_status = Some(UpdateStatus {
            state,
            started_at: if begins { now } else { before.started_at },
            completed_at: if ends { now } else { Timestamp::NEVER },
            message: message.to_owned(),
        });
    });
}
