//! Forgets what is over: removed tasks, old history, services and networks on their way out.

use super::draft::Draft;
use super::slots::{Slot, is_result, may_still_run, slots, wanted};
use crate::command::{Key, Kind};
use skep_model::service::{Service, UpdateState};
use skep_model::task::{Task, TaskState};
use std::sync::Arc;

/// While an update runs its failures are counted from history, so at least this much is kept.
const HISTORY_DURING_UPDATE_MIN: usize = 5;

/// Tells all tasks of a service that is being removed, or gone already, to go.
pub(super) fn withdraw(draft: &mut Draft<'_>, service: &str) {
    let tasks: Vec<Arc<Task>> = draft.store.tasks_of_service(service).cloned().collect();
    tasks.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Remove));
}

/// Removes a service's tasks that nobody needs, and the service when it was the wish.
pub(super) fn service(draft: &mut Draft<'_>, id: &str) {
    let service = draft.store.service(id).cloned();
    tasks(draft, service.as_deref(), id);
    let Some(service) = service.filter(|service| service.pending_delete) else { return };
    let running = draft.store.tasks_of_service(id).filter(|task| may_still_run(&draft.store, task)).count();
    if running > 0 {
        draft.waiting(|| format!("service {} goes when its {running} tasks have stopped", service.spec.name));
        return;
    }
    // Tasks on nodes that are down keep their addresses, but must not block ports and names.
    draft.done(|| format!("service {} is removed", service.spec.name));
    draft.remove(Key::new(Kind::Service, id));
}

fn tasks(draft: &mut Draft<'_>, service: Option<&Service>, id: &str) {
    if !draft.store.tasks_of_service(id).any(|task| is_over(task)) {
        return;
    }
    let all = slots(&draft.store, id);
    let limit = service.map_or(Some(0), |service| history_limit(draft, service));
    for slot in all.values() {
        let (gone, history): (Slot, Slot) =
            slot.iter().filter(|task| is_over(task) && !is_kept(service, task)).cloned().partition(|t| is_worthless(t));
        gone.iter().for_each(|task| draft.remove_task(task));
        // The last task of a slot that nothing fills is the fact that says why.
        let kept = limit.map(|limit| if wanted(slot).next().is_some() { limit } else { limit.max(1) });
        let excess = kept.map_or(0, |kept| history.len().saturating_sub(kept));
        history[..excess].iter().for_each(|task| draft.remove_task(task));
    }
}

/// Told to stop, and nothing of it can run.
fn is_over(task: &Task) -> bool {
    let state = task.status.state;
    task.desired_state > TaskState::Complete && (state < TaskState::Assigned || state.is_terminal())
}

/// What a job has achieved is no history yet.
fn is_kept(service: Option<&Service>, task: &Task) -> bool {
    task.desired_state != TaskState::Remove && service.is_some_and(|service| is_result(service, task))
}

/// Not even worth a line in the history.
fn is_worthless(task: &Task) -> bool {
    task.desired_state == TaskState::Remove || task.status.state < TaskState::Assigned
}

/// `None` keeps all.
fn history_limit(draft: &Draft<'_>, service: &Service) -> Option<usize> {
    let limit = draft.store.cluster().map_or(0, |cluster| cluster.spec.task_history_retention_limit);
    let limit = usize::try_from(limit).ok()?;
    let attempts = service.spec.task.restart.max_attempts;
    let limit = if attempts > 0 { usize::try_from(attempts).unwrap_or(limit).saturating_add(1) } else { limit };
    let state = service.update_status.as_ref().map(|status| status.state);
    let updating = matches!(state, Some(UpdateState::Updating | UpdateState::RollbackStarted));
    Some(if updating { limit.max(HISTORY_DURING_UPDATE_MIN) } else { limit })
}

/// Removes networks that are being removed and that nothing uses any more.
pub(super) fn networks(draft: &mut Draft<'_>) {
    let leaving: Vec<String> = draft.store.networks().filter(|n| n.pending_delete).map(|n| n.id.0.clone()).collect();
    for id in leaving {
        if draft.store.addresses(&id).is_none_or(std::collections::BTreeMap::is_empty) {
            draft.remove(Key::new(Kind::Network, &id));
        } else {
            draft.waiting(|| format!("network {id} goes when its last address is free"));
        }
    }
}
