//! PENDING tasks get a node, or the reason why none suits.

mod filter;
mod load;
mod tree;

pub(crate) use filter::Filters;
pub(crate) use load::{Loads, NodeLoad};

use super::draft::Draft;
use super::waiting::{Waiter, Waiters};
use filter::explain;
use skep_model::task::{AssignedResource, Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;
use tree::Tree;

pub(super) fn run(draft: &mut Draft<'_>, waiters: Waiters) {
    let mut alike: Vec<(String, Vec<Waiter>)> = Vec::new();
    let mut preassigned = Vec::new();
    for (service, tasks) in waiters {
        let pending = tasks.into_iter().filter(|task| task.is_pending);
        let (bound, mut free): (Vec<_>, Vec<_>) = pending.partition(|task| task.has_node);
        preassigned.extend(bound.iter().filter_map(|task| draft.store.task(&task.id).cloned()));
        free.sort_by(|a, b| (a.spec_version, a.slot, &a.id).cmp(&(b.spec_version, b.slot, &b.id)));
        // Tasks of one service made from one spec are alike.
        while let Some(first) = free.first() {
            let end = free.partition_point(|task| task.spec_version == first.spec_version);
            let rest = free.split_off(end);
            alike.push((service.clone(), std::mem::replace(&mut free, rest)));
        }
    }
    if alike.is_empty() && preassigned.is_empty() {
        return;
    }
    let mut loads = Loads::of(&draft.store);
    for task in preassigned {
        confirm(draft, &mut loads, &task);
    }
    for (service, tasks) in alike {
        place(draft, &mut loads, &service, &tasks);
    }
}

/// A global service's task, or one that is moved, runs on its node or nowhere.
fn confirm(draft: &mut Draft<'_>, loads: &mut Loads, task: &Task) {
    let filters = Filters::of(&draft.store, task);
    let Some(at) = loads.position(task.node_id.as_str()) else { return };
    let own = |other: &&Arc<Task>| other.service_id == task.service_id && other.is_wanted();
    let of_service = draft.store.tasks_of_node(task.node_id.as_str()).filter(own).count();
    let load = &mut loads.0[at];
    match filters.failing(load, u32::try_from(of_service).unwrap_or(u32::MAX)) {
        None => {
            let resources = load.take(&filters);
            let message = "scheduler confirmed task can run on preassigned node";
            assign(draft, task.id.as_str(), load, resources, message);
        }
        // What it would have taken over from runs on: the move is given up.
        Some(failed) if task.beside.is_some() => {
            draft.done(|| format!("task {} is not moved to {}: {}", task.id, task.node_id, explain(&[failed])));
            draft.desire(task.id.as_str(), TaskState::Shutdown);
        }
        Some(failed) => refuse(draft, task.id.as_str(), &explain(&[failed])),
    }
}

fn place(draft: &mut Draft<'_>, loads: &mut Loads, service: &str, tasks: &[Waiter]) {
    let Some(first) = tasks.first().and_then(|task| draft.store.task(&task.id)).cloned() else { return };
    let filters = Filters::of(&draft.store, &first);
    let spec_version = draft.store.service(service).map(|service| service.spec_version);
    let all_wait = draft.store.task_count_of_service(service) == tasks.len();
    let (mut counts, failures) = if all_wait {
        (vec![0; loads.0.len()], vec![0; loads.0.len()])
    } else {
        loads.history(&draft.store, service, spec_version, draft.now)
    };
    let spread = &first.spec.placement.spread;
    let mut tree = Tree::of(loads, &counts, &failures, spread, |at| filters.suits(&loads.0[at].node));
    let mut left = tasks.iter();
    while let Some(Waiter { id, .. }) = left.as_slice().first() {
        let Some(at) = tree.take(&|at| filters.fits(&loads.0[at], counts[at])) else { break };
        counts[at] += 1;
        let load = &mut loads.0[at];
        let resources = load.take(&filters);
        assign(draft, id, load, resources, "scheduler assigned task to node");
        left.next();
    }
    if left.as_slice().is_empty() {
        return;
    }
    let failed: Vec<_> =
        loads.0.iter().zip(&counts).filter_map(|(load, count)| filters.failing(load, *count)).collect();
    let reason = explain(&failed);
    left.for_each(|task| refuse(draft, &task.id, &reason));
}

fn assign(
    draft: &mut Draft<'_>,
    task: &str,
    load: &mut NodeLoad,
    resources: BTreeMap<String, AssignedResource>,
    message: &str,
) {
    let (now, node) = (draft.now, &load.node.id);
    if !load.is_touched {
        load.is_touched = true;
        draft.touch_node(node.as_str());
    }
    draft.change_task_of_known_node(task, |task| {
        task.node_id.clone_from(node);
        task.resources = resources;
        task.status.state = TaskState::Assigned;
        task.status.timestamp = now;
        task.status.message = message.into();
        task.status.err.clear();
    });
}

fn refuse(draft: &mut Draft<'_>, task: &str, reason: &str) {
    draft.waiting(|| format!("task {task}: {reason}"));
    draft.say_why(task, reason);
}
