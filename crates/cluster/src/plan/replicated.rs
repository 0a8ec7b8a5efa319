//! As many occupied slots as replicas are wanted.

use super::draft::Draft;
use super::slots::{Slot, SlotKey, Vacancy, fill, is_leaving, slots, vacancy, wanted};
use skep_model::service::Service;
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn run(draft: &mut Draft<'_>, service: &Arc<Service>, replicas: u64) {
    let slots = slots(&draft.store, service.id.as_str());
    let occupied: BTreeSet<u64> =
        slots.iter().filter_map(|(key, slot)| occupied_number(draft, service, key, slot)).collect();
    let present = occupied.len() as u64;
    if present < replicas {
        scale_up(draft, service, &slots, &occupied, replicas - present);
    } else if present > replicas {
        scale_down(draft, service, &slots, &occupied, present - replicas);
    }
    forget_empty_slots(draft, &slots, &occupied, replicas);
}

/// A slot counts when a task is wanted in it, or when its work is finished.
fn occupied_number(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, slot: &Slot) -> Option<u64> {
    let SlotKey::Number(number) = *key else { return None };
    if wanted(slot).next().is_some() {
        return Some(number);
    }
    if slot.iter().all(|task| task.desired_state == TaskState::Remove) {
        return None;
    }
    match vacancy(service, key, slot, draft.now) {
        Vacancy::Fill => None,
        Vacancy::Finished { until } => {
            until.into_iter().for_each(|at| draft.wake(at));
            Some(number)
        }
    }
}

/// Fills the lowest free numbers.
fn scale_up(
    draft: &mut Draft<'_>,
    service: &Service,
    slots: &BTreeMap<SlotKey, Slot>,
    occupied: &BTreeSet<u64>,
    missing: u64,
) {
    let mut missing = missing;
    let mut number = 0;
    while missing > 0 {
        number += 1;
        if occupied.contains(&number) {
            continue;
        }
        let key = SlotKey::Number(number);
        let predecessor = slots.get(&key).and_then(predecessor);
        fill(draft, service, &key, predecessor.as_deref());
        missing -= 1;
    }
}

/// The task whose end a slot's next one has to respect: one still stopping, else the last.
fn predecessor(slot: &Slot) -> Option<Arc<Task>> {
    let leaving = slot.iter().rev().find(|task| is_leaving(task));
    let last = slot.iter().rev().find(|task| task.desired_state != TaskState::Remove);
    leaving.or(last).cloned()
}

/// Empties slots that do not run first, then those on the nodes with most copies.
fn scale_down(
    draft: &mut Draft<'_>,
    service: &Service,
    slots: &BTreeMap<SlotKey, Slot>,
    occupied: &BTreeSet<u64>,
    surplus: u64,
) {
    let running_on = |number: u64| -> Option<String> {
        let slot = slots.get(&SlotKey::Number(number))?;
        let running = wanted(slot).find(|task| task.status.state == TaskState::Running)?;
        Some(running.node_id.0.clone())
    };
    let mut candidates: BTreeMap<u64, Option<String>> =
        occupied.iter().map(|number| (*number, running_on(*number))).collect();
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for node in candidates.values().flatten() {
        *copies.entry(node.clone()).or_default() += 1;
    }
    for _ in 0..surplus {
        // Not running sorts highest; among equals the highest number goes.
        let weight =
            |node: &Option<String>| node.as_ref().map_or(usize::MAX, |node| copies.get(node).copied().unwrap_or(0));
        let Some(number) = candidates.iter().max_by_key(|(number, node)| (weight(node), **number)).map(|(n, _)| *n)
        else {
            break;
        };
        if let Some(Some(node)) = candidates.remove(&number)
            && let Some(count) = copies.get_mut(&node)
        {
            *count -= 1;
        }
        draft.done(|| format!("service {}: slot {number} is not wanted any more", service.spec.name));
        for task in slots.get(&SlotKey::Number(number)).into_iter().flatten() {
            draft.desire(task.id.as_str(), TaskState::Remove);
        }
    }
}

/// History of a number beyond the wanted ones, where nothing is or will be, is of no use.
fn forget_empty_slots(draft: &mut Draft<'_>, slots: &BTreeMap<SlotKey, Slot>, occupied: &BTreeSet<u64>, replicas: u64) {
    let empty = |key: &SlotKey| matches!(key, SlotKey::Number(n) if *n > replicas && !occupied.contains(n));
    for (_, slot) in slots.iter().filter(|(key, _)| empty(key)) {
        slot.iter().for_each(|task| draft.desire(task.id.as_str(), TaskState::Remove));
    }
}
