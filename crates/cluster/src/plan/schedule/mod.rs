//! PENDING tasks get a node, or the reason why none suits.

mod filter;
mod load;

use super::draft::Draft;
use filter::{Filters, explain};
use load::NodeLoad;
use skep_model::task::{Task, TaskState};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// Tasks of one service made from one spec are alike.
type Groups = BTreeMap<(String, u64), Vec<Arc<Task>>>;

pub(super) fn run(draft: &mut Draft<'_>) {
    let (groups, preassigned) = pending(draft);
    if groups.is_empty() && preassigned.is_empty() {
        return;
    }
    let waiting = groups.keys().map(|(service, _)| service.as_str());
    let waiting = waiting.chain(preassigned.iter().map(|task| task.service_id.as_str())).collect();
    let mut loads: BTreeMap<String, NodeLoad> = load::all(&draft.store, &waiting);
    for task in preassigned {
        confirm(draft, &mut loads, &task);
    }
    for tasks in groups.into_values() {
        place(draft, &mut loads, &tasks);
    }
}

/// Replicas to place, and tasks that only one node can take.
fn pending(draft: &Draft<'_>) -> (Groups, Vec<Arc<Task>>) {
    let (mut groups, mut preassigned): (Groups, Vec<Arc<Task>>) = Default::default();
    let pending = |task: &&Arc<Task>| task.status.state == TaskState::Pending && task.is_wanted();
    for task in draft.store.tasks_unassigned().filter(pending) {
        if task.node_id.is_empty() {
            groups.entry((task.service_id.0.clone(), task.spec_version)).or_default().push(Arc::clone(task));
        } else {
            preassigned.push(Arc::clone(task));
        }
    }
    groups.values_mut().for_each(|tasks| tasks.sort_by_key(|task| (task.slot, task.id.clone())));
    (groups, preassigned)
}

/// A global service's task runs on its node or nowhere.
fn confirm(draft: &mut Draft<'_>, loads: &mut BTreeMap<String, NodeLoad>, task: &Task) {
    let filters = Filters::of(task);
    let Some(load) = loads.get_mut(task.node_id.as_str()) else { return };
    match filters.failing(load, task.service_id.as_str()) {
        None => {
            load.add(task);
            assign(draft, task, &load.node.id.0.clone(), "scheduler confirmed task can run on preassigned node");
        }
        Some(failed) => refuse(draft, task, &explain(&[failed])),
    }
}

fn place(draft: &mut Draft<'_>, loads: &mut BTreeMap<String, NodeLoad>, tasks: &[Arc<Task>]) {
    let Some(first) = tasks.first() else { return };
    let service = draft.store.service(first.service_id.as_str()).cloned();
    let filters = Filters::of(first);
    let owner = first.service_id.as_str();
    let failures =
        service.as_deref().map(|service| load::failures(&draft.store, service, draft.now)).unwrap_or_default();
    let mut left = tasks.iter();
    if first.spec.placement.spread.is_empty() {
        place_evenly(draft, loads, &filters, &failures, &mut left);
    } else {
        place_spread(draft, loads, &filters, &failures, first, &mut left);
    }
    let unplaced: Vec<&Arc<Task>> = left.collect();
    if unplaced.is_empty() {
        return;
    }
    let failed: Vec<_> = loads.values().filter_map(|load| filters.failing(load, owner)).collect();
    let reason = explain(&failed);
    unplaced.iter().for_each(|task| refuse(draft, task, &reason));
}

/// Fewest failures, then fewest tasks of the service, then fewest tasks: the least loaded
/// node takes a task and goes back into the heap.
fn place_evenly(
    draft: &mut Draft<'_>,
    loads: &mut BTreeMap<String, NodeLoad>,
    filters: &Filters,
    failures: &BTreeMap<String, usize>,
    left: &mut std::slice::Iter<'_, Arc<Task>>,
) {
    let Some(owner) = left.as_slice().first().map(|task| task.service_id.clone()) else { return };
    let rank = |load: &NodeLoad| load.rank(owner.as_str(), failures);
    let suitable = loads.values().filter(|load| filters.failing(load, owner.as_str()).is_none());
    let mut heap: BinaryHeap<Reverse<_>> = suitable.map(|load| Reverse((rank(load), load.node.id.0.clone()))).collect();
    while let Some(task) = left.as_slice().first() {
        let Some(Reverse((_, node))) = heap.pop() else { return };
        let Some(load) = loads.get_mut(&node) else { continue };
        load.add(task);
        assign(draft, task, &node, "scheduler assigned task to node");
        left.next();
        if filters.failing(load, owner.as_str()).is_none() {
            heap.push(Reverse((rank(load), node)));
        }
    }
}

/// As `place_evenly`, but first evens out the branches of a tree with one level per
/// spread label, counting tasks of the service only. A missing label is a branch of its own.
fn place_spread(
    draft: &mut Draft<'_>,
    loads: &mut BTreeMap<String, NodeLoad>,
    filters: &Filters,
    failures: &BTreeMap<String, usize>,
    first: &Task,
    left: &mut std::slice::Iter<'_, Arc<Task>>,
) {
    let owner = first.service_id.as_str();
    let mut branches: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for load in loads.values() {
        for branch in load.branches(&first.spec.placement.spread) {
            *branches.entry(branch).or_default() += load.of_service(owner);
        }
    }
    let mut suitable: BTreeSet<String> = loads.keys().cloned().collect();
    while let Some(task) = left.as_slice().first() {
        suitable.retain(|node| filters.failing(&loads[node], owner).is_none());
        let rank = |node: &&String| {
            let load = &loads[*node];
            let counts: Vec<usize> = load.branches(&first.spec.placement.spread).iter().map(|b| branches[b]).collect();
            (counts, load.rank(owner, failures))
        };
        let Some(node) = suitable.iter().min_by_key(rank).cloned() else { return };
        let Some(load) = loads.get_mut(&node) else { return };
        for branch in load.branches(&first.spec.placement.spread) {
            *branches.entry(branch).or_default() += 1;
        }
        load.add(task);
        assign(draft, task, &node, "scheduler assigned task to node");
        left.next();
    }
}

fn assign(draft: &mut Draft<'_>, task: &Task, node: &str, message: &str) {
    let now = draft.now;
    draft.edit_task(task.id.as_str(), |task| {
        task.node_id = node.into();
        task.status.state = TaskState::Assigned;
        task.status.timestamp = now;
        task.status.message = message.into();
        task.status.err.clear();
    });
}

fn refuse(draft: &mut Draft<'_>, task: &Task, reason: &str) {
    draft.waiting(|| format!("task {}: {reason}", task.id));
    draft.edit_task(task.id.as_str(), |task| task.status.err = reason.to_owned());
}
