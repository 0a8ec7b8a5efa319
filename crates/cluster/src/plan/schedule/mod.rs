//! PENDING tasks get a node, or the reason why none suits.

mod filter;
mod load;
mod tree;

pub(crate) use filter::Filters;
pub(crate) use load::{Loads, NodeLoad};

use super::draft::Draft;
use filter::explain;
use skep_model::task::{AssignedResource, Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;
use tree::Tree;

/// Tasks of one service made from one spec are alike: their slots and ids.
type Groups = BTreeMap<(String, u64), Vec<(u64, String)>>;

pub(super) fn run(draft: &mut Draft<'_>) {
    let (groups, preassigned) = pending(draft);
    if groups.is_empty() && preassigned.is_empty() {
        return;
    }
    let mut loads = Loads::of(&draft.store);
    for task in preassigned {
        confirm(draft, &mut loads, &task);
    }
    for ((service, _), mut tasks) in groups {
        tasks.sort();
        place(draft, &mut loads, &service, &tasks);
    }
}

/// Replicas to place, and tasks that only one node can take.
fn pending(draft: &Draft<'_>) -> (Groups, Vec<Arc<Task>>) {
    let (mut groups, mut preassigned): (Groups, Vec<Arc<Task>>) = Default::default();
    let pending = |task: &&Arc<Task>| task.status.state == TaskState::Pending && task.is_wanted();
    for task in draft.store.tasks_unassigned().filter(pending) {
        if task.node_id.is_empty() {
            let group = groups.entry((task.service_id.0.clone(), task.spec_version)).or_default();
            group.push((task.slot, task.id.0.clone()));
        } else {
            preassigned.push(Arc::clone(task));
        }
    }
    (groups, preassigned)
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
            let node = load.node.id.0.clone();
            assign(draft, task.id.as_str(), &node, resources, "scheduler confirmed task can run on preassigned node");
        }
        // What it would have taken over from runs on: the move is given up.
        Some(failed) if task.beside.is_some() => {
            draft.done(|| format!("task {} is not moved to {}: {}", task.id, task.node_id, explain(&[failed])));
            draft.desire(task.id.as_str(), TaskState::Shutdown);
        }
        Some(failed) => refuse(draft, task.id.as_str(), &explain(&[failed])),
    }
}

fn place(draft: &mut Draft<'_>, loads: &mut Loads, service: &str, tasks: &[(u64, String)]) {
    let Some(first) = tasks.first().and_then(|(_, id)| draft.store.task(id)).cloned() else { return };
    let filters = Filters::of(&draft.store, &first);
    let mut counts = loads.counts(&draft.store, service);
    let failures = match draft.store.service(service) {
        Some(service) => loads.failures(&draft.store, service, draft.now),
        None => vec![0; counts.len()],
    };
    let spread = &first.spec.placement.spread;
    let mut tree = Tree::of(loads, &counts, &failures, spread, |at| filters.suits(&loads.0[at].node));
    let mut left = tasks.iter();
    while let Some((_, id)) = left.as_slice().first() {
        let Some(at) = tree.take(&|at| filters.fits(&loads.0[at], counts[at])) else { break };
        counts[at] += 1;
        let load = &mut loads.0[at];
        let resources = load.take(&filters);
        let node = load.node.id.0.clone();
        assign(draft, id, &node, resources, "scheduler assigned task to node");
        left.next();
    }
    if left.as_slice().is_empty() {
        return;
    }
    let failed: Vec<_> =
        loads.0.iter().zip(&counts).filter_map(|(load, count)| filters.failing(load, *count)).collect();
    let reason = explain(&failed);
    left.for_each(|(_, id)| refuse(draft, id, &reason));
}

fn assign(draft: &mut Draft<'_>, task: &str, node: &str, resources: BTreeMap<String, AssignedResource>, message: &str) {
    let now = draft.now;
    draft.change_task(task, |task| {
        task.node_id = node.into();
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
