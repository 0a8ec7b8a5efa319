//! Reconcilers: look at one snapshot, say what to write next. They take no hint of what
//! changed beyond the dirty keys, are idempotent and reach a fixed point: after their
//! writes are applied, planning again writes nothing.

mod allocate;
mod constraint;
mod draft;
mod enforce;
mod global;
mod job;
mod reap;
mod rebalance;
mod replicated;
mod restart;
mod roles;
mod schedule;
mod scope;
mod slots;
mod update;
mod waiting;
mod why;

pub(crate) use allocate::{
    Family, VNI_MIN, VNI_OPTION, first_host, free_subnet, free_subnet_ipv6, has_family, is_overlay, overlapping,
    wanted_vni,
};
pub(crate) use constraint::parse as parse_constraints;
pub use rebalance::{Move, Rebalance, rebalance};
pub use why::{TaskReason, Why, why};

use crate::command::{Key, Write};
use crate::ids::IdSource;
use crate::store::Store;
use draft::Draft;
use scope::Scope;
use skep_model::Timestamp;
use skep_model::service::{Service, ServiceMode};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rounds within one call. A service goes from nothing to assigned in one and is checked
/// in a second; more are left to the next call, so that a planner's mistake costs
/// writes, which are seen, and not an endless loop, which is not.
const ROUNDS_MAX: usize = 8;

/// What one planning round decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be proposed as one independent command (split at `WRITES_PER_COMMAND_MAX`).
    pub writes: Vec<Write>,
    /// Plan again then, even if nothing changes (restart delays, update windows). It
    /// speaks for what this call looked at: the caller keeps the earliest of all calls
    /// until it has passed, and then plans with an empty dirty set.
    pub wake_at: Option<Timestamp>,
    /// What was done and what is waited for, a line each, for logs and `service why`.
    pub report: Vec<String>,
}

/// Runs every planner in its fixed order over one snapshot plus the writes so far:
/// node liveness is the dispatcher's fact; roles, networks, enforce, restart, replicated, global,
/// update, allocate, schedule, reap.
///
/// `dirty` limits the work to what depends on those keys; an empty set means all (a new
/// leader's first round, and whenever `wake_at` has come).
pub fn plan(store: &Store, dirty: &BTreeSet<Key>, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    if store.cluster().is_none() {
        return Plan::default();
    }
    let mut draft = Draft::new(store, now, ids);
    let mut scope = Scope::of(store, dirty);
    for _ in 0..ROUNDS_MAX {
        let before = draft.begin_round();
        round(&mut draft, &mut scope);
        if draft.changes() == before {
            break;
        }
    }
    draft.finish()
}

fn round(draft: &mut Draft<'_>, scope: &mut Scope) {
    roles::run(draft, &scope.nodes);
    allocate::networks(draft);
    enforce::run(draft, &scope.nodes);
    scope.calm.clear();
    for id in scope.services.clone() {
        match draft.store.service(&id).cloned().filter(|service| !service.pending_delete) {
            None => reap::withdraw(draft, &id),
            Some(service) if !scope.rolled_back.contains(&id) => orchestrate(draft, scope, &service),
            Some(_) => {}
        }
    }
    // Whoever waits for addresses, ports or a node may be served by what became free.
    let (mut waiters, owners) = waiting::collect(&draft.store);
    scope.services.extend(owners);
    allocate::services(draft, &scope.services);
    allocate::tasks(draft, &mut waiters);
    schedule::run(draft, waiters);
    for id in scope.services.iter().filter(|id| !scope.calm.contains(*id)) {
        reap::service(draft, id);
    }
    scope.balancers.append(&mut draft.touched_nodes);
    if allocate::any_is_nearly_full(&draft.store) {
        scope.balancers.extend(draft.store.nodes().map(|node| node.id.0.clone()));
    }
    allocate::nodes(draft, &scope.balancers);
    reap::networks(draft);
}

fn orchestrate(draft: &mut Draft<'_>, scope: &mut Scope, service: &Arc<Service>) {
    enforce::service(draft, service);
    if is_calm(draft, service) {
        scope.calm.insert(service.id.0.clone());
        return;
    }
    restart::run(draft, service);
    let Some(service) = draft.store.service(service.id.as_str()).cloned() else { return };
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => {
            let is_new = draft.store.task_count_of_service(service.id.as_str()) == 0;
            replicated::run(draft, &service, replicas);
            // Tasks just made are neither to be updated nor let go nor reaped.
            if is_new && !update::is_under_way(&service) {
                scope.calm.insert(service.id.0.clone());
                return;
            }
        }
        ServiceMode::Global => global::run(draft, &service),
        ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob => job::run(draft, &service),
    }
    if !service.spec.mode.is_job() {
        update::run(draft, &service);
    }
    let after = draft.store.service(service.id.as_str());
    if after.is_some_and(|after| after.spec != service.spec) {
        // Only the store knows the new spec's version: the next plan goes on.
        scope.rolled_back.insert(service.id.0.clone());
        return;
    }
    restart::release(draft, &service);
}

/// Whether one look over a replicated service's tasks shows that nothing is to be done.
fn is_calm(draft: &Draft<'_>, service: &Service) -> bool {
    let ServiceMode::Replicated { replicas } = service.spec.mode else { return false };
    !update::is_under_way(service) && slots::is_calm(&draft.store, service, replicas)
}

#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod rebalance_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod tests;
