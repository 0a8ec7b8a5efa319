//! One task on every node that may have one.

use super::draft::Draft;
use super::slots::{
    Slot, SlotKey, Vacancy, fill, is_leaving, node_is_eligible, slots, takes_new_tasks, vacancy, wanted,
};
use skep_model::node::Node;
use skep_model::service::Service;
use skep_model::task::{Task, TaskState};
use std::sync::Arc;

pub(super) fn run(draft: &mut Draft<'_>, service: &Arc<Service>) {
    let slots = slots(&draft.store, service.id.as_str());
    let nodes: Vec<Arc<Node>> = draft.store.nodes().cloned().collect();
    for node in &nodes {
        let key = SlotKey::Node(node.id.0.clone());
        let slot = slots.get(&key).cloned().unwrap_or_default();
        run_node(draft, service, node, &key, &slot);
    }
    let gone = slots.iter().filter(|(key, _)| matches!(key, SlotKey::Node(id) if draft.store.node(id).is_none()));
    let tasks: Vec<Arc<Task>> = gone.flat_map(|(_, slot)| slot.iter().cloned()).collect();
    tasks.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Remove));
}

fn run_node(draft: &mut Draft<'_>, service: &Service, node: &Node, key: &SlotKey, slot: &Slot) {
    let present = wanted(slot).next().is_some();
    if !node_is_eligible(service, node) {
        // An update of the constraints reaches the tasks here, whatever the update's pace:
        // the node is not one of the service's any more.
        for task in wanted(slot) {
            draft.done(|| format!("service {}: node {} may not run it any more", service.spec.name, node.id));
            draft.desire(task.id.as_str(), TaskState::Shutdown);
        }
        return;
    }
    // A paused node keeps what it has.
    if present || !takes_new_tasks(node) {
        return;
    }
    match vacancy(service, key, slot, draft.now) {
        Vacancy::Fill => {
            let leaving = slot.iter().rev().find(|task| is_leaving(task));
            let last = slot.iter().rev().find(|task| task.desired_state != TaskState::Remove);
            fill(draft, service, key, leaving.or(last).map(Arc::as_ref));
        }
        Vacancy::Finished { until } => until.into_iter().for_each(|at| draft.wake(at)),
    }
}
