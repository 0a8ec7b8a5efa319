//! Jobs: tasks that are to end. What is done and what is under way is read off the tasks of
//! the present iteration; those of earlier ones are history.

use super::draft::Draft;
use super::slots::{
    Slot, SlotKey, Vacancy, fill, is_leaving, iteration, node_is_eligible, slots, takes_new_tasks, vacancy, wanted,
};
use skep_model::node::Node;
use skep_model::service::{Service, ServiceMode};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far a slot of the present iteration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing was tried, or the next attempt may begin.
    Vacant,
    Active,
    Done,
    /// Failed as often as it may.
    GivenUp,
}

pub(super) fn run(draft: &mut Draft<'_>, service: &Arc<Service>) {
    retire_earlier(draft, service);
    match service.spec.mode {
        ServiceMode::ReplicatedJob { max_concurrent, total_completions } => {
            replicated(draft, service, max_concurrent, total_completions);
        }
        ServiceMode::GlobalJob => per_node(draft, service),
        ServiceMode::Replicated { .. } | ServiceMode::Global => {}
    }
}

/// What ended before this iteration becomes history, what still runs goes.
fn retire_earlier(draft: &mut Draft<'_>, service: &Service) {
    let earlier = |task: &&Arc<Task>| task.job_iteration != iteration(service);
    let tasks: Vec<Arc<Task>> = draft.store.tasks_of_service(service.id.as_str()).filter(earlier).cloned().collect();
    for task in tasks {
        let state = if task.status.state.is_terminal() { TaskState::Shutdown } else { TaskState::Remove };
        draft.desire(task.id.as_str(), state);
    }
}

fn replicated(draft: &mut Draft<'_>, service: &Service, max_concurrent: u64, total: u64) {
    let slots = slots(&draft.store, service.id.as_str());
    let mut taken: BTreeMap<u64, Standing> = BTreeMap::new();
    for (key, slot) in &slots {
        let SlotKey::Number(number) = *key else { continue };
        match standing(draft, service, key, slot) {
            Standing::Vacant => {}
            standing => drop(taken.insert(number, standing)),
        }
    }
    let count = |wanted: Standing| taken.values().filter(|standing| **standing == wanted).count() as u64;
    let (active, done, given_up) = (count(Standing::Active), count(Standing::Done), count(Standing::GivenUp));
    let left = total.saturating_sub(done + active + given_up);
    let mut new = max_concurrent.saturating_sub(active).min(left);
    for number in (1..=total).filter(|number| !taken.contains_key(number)) {
        if new == 0 {
            break;
        }
        new -= 1;
        let key = SlotKey::Number(number);
        let predecessor = slots.get(&key).and_then(|slot| predecessor(service, slot));
        fill(draft, service, &key, predecessor.as_deref());
    }
    if done < total {
        draft.waiting(|| format!("service {}: job: {done} of {total} completed", service.spec.name));
    }
    if given_up > 0 {
        draft
            .waiting(|| format!("service {}: job: {given_up} tasks failed and are not tried again", service.spec.name));
    }
}

/// Once on every node that may run it.
fn per_node(draft: &mut Draft<'_>, service: &Service) {
    let slots = slots(&draft.store, service.id.as_str());
    let nodes: Vec<Arc<Node>> = draft.store.nodes().cloned().collect();
    for node in &nodes {
        let key = SlotKey::Node(node.id.0.clone());
        let slot = slots.get(&key).cloned().unwrap_or_default();
        let standing = standing(draft, service, &key, &slot);
        if !node_is_eligible(service, node) {
            wanted(&slot).for_each(|task| draft.desire(task.id.as_str(), TaskState::Shutdown));
        } else if standing == Standing::Vacant && takes_new_tasks(node) {
            fill(draft, service, &key, predecessor(service, &slot).as_deref());
        }
    }
    let gone = slots.iter().filter(|(key, _)| matches!(key, SlotKey::Node(id) if draft.store.node(id).is_none()));
    let tasks: Vec<Arc<Task>> = gone.flat_map(|(_, slot)| slot.iter().cloned()).collect();
    tasks.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Remove));
}

fn standing(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, slot: &Slot) -> Standing {
    let present: Slot = slot.iter().filter(|task| task.job_iteration == iteration(service)).cloned().collect();
    if present.iter().any(|task| task.status.state == TaskState::Complete) {
        // It ended well after its successor was made: one result is enough.
        wanted(&present).for_each(|task| draft.desire(task.id.as_str(), TaskState::Shutdown));
        return Standing::Done;
    }
    if wanted(&present).next().is_some() {
        return Standing::Active;
    }
    match vacancy(service, key, &present, draft.now) {
        Vacancy::Fill => Standing::Vacant,
        Vacancy::Finished { until } => {
            until.into_iter().for_each(|at| draft.wake(at));
            Standing::GivenUp
        }
    }
}

/// The task whose end a slot's next one has to respect: one still stopping, of whatever
/// iteration, else the last of this one.
fn predecessor(service: &Service, slot: &Slot) -> Option<Arc<Task>> {
    let leaving = slot.iter().rev().find(|task| is_leaving(task));
    let present =
        |task: &&Arc<Task>| task.job_iteration == iteration(service) && task.desired_state != TaskState::Remove;
    leaving.or_else(|| slot.iter().rev().find(present)).cloned()
}
