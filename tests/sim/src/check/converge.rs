//! What a healed swarm has to come to.

use crate::load::is_bad;
use crate::world::World;
use skep_cluster::assign::assignments;
use skep_cluster::store::Store;
use skep_model::node::{Availability, NodeState};
use skep_model::service::{RestartCondition, Service, ServiceMode, UpdateState};
use skep_model::task::{Task, TaskState};
use std::sync::Arc;

/// The first thing that is not as it should be at rest.
pub fn unmet(world: &World) -> Option<String> {
    let leader = world.raft.leader?;
    let store = &world.managers[leader].store;
    let lagging = world.managers.iter().position(|manager| manager.store.index() != store.index());
    if let Some(manager) = lagging {
        return Some(format!("manager {manager} lags"));
    }
    if !world.managers[leader].idle() {
        return Some("the leader still plans".into());
    }
    for (number, node) in world.nodes.iter().enumerate() {
        let Some(stored) = store.node(node.id.as_str()) else { continue };
        if stored.status.state != NodeState::Ready || !world.managers[leader].sessions.contains_key(&number) {
            return Some(format!("node {number} has no session"));
        }
        let wanted = assignments(store, &node.id);
        if let Some(difference) = node.kernel.difference(&wanted.network) {
            return Some(format!("node {number}: {difference}"));
        }
        if let Some(container) = node.agent.containers().iter().find(|c| !wanted.tasks.contains_key(c.task.id.as_str()))
        {
            return Some(format!("node {number} still has task {}", container.task.id));
        }
    }
    store.services().find_map(|service| service_unmet(store, service))
}

fn service_unmet(store: &Store, service: &Arc<Service>) -> Option<String> {
    let name = &service.spec.name;
    if service.pending_delete {
        return Some(format!("service {name} is not gone"));
    }
    if is_bad(&service.spec) {
        return Some(format!("service {name} has a bad image"));
    }
    let state = service.update_status.as_ref().map(|status| status.state);
    if matches!(state, Some(UpdateState::Updating | UpdateState::RollbackStarted)) && !blocked(store, service) {
        return Some(format!("service {name} is still being updated"));
    }
    for task in store.tasks_of_service(service.id.as_str()).filter(|task| task.is_wanted()) {
        if task.status.state < TaskState::Assigned && task.status.err.is_empty() {
            return Some(format!("task {} of {name} waits without a reason", task.id));
        }
        let node = store.node(task.node_id.as_str());
        if node.is_some_and(|node| node.spec.availability == Availability::Drain) && !is_kept(store, service, task) {
            return Some(format!("task {} of {name} is on a drained node", task.id));
        }
        let held = task.desired_state < TaskState::Running && !is_paused(state);
        let ends = service.spec.mode.is_job();
        if (task.status.state >= TaskState::Assigned && (ends || task.status.state != TaskState::Running)) || held {
            return Some(format!("task {} of {name} is {} ", task.id, task.status.state.as_str()));
        }
    }
    count_unmet(store, service)
}

/// A task that starts its successor first stays where it is while that one finds no place.
fn is_kept(store: &Store, service: &Service, task: &Task) -> bool {
    let successor = |other: &&Arc<Task>| other.slot == task.slot && other.id != task.id && other.is_wanted();
    let found = store.tasks_of_service(service.id.as_str()).find(successor);
    found.is_some_and(|other| other.status.state < TaskState::Assigned)
}

fn is_paused(state: Option<UpdateState>) -> bool {
    matches!(state, Some(UpdateState::Paused | UpdateState::RollbackPaused))
}

/// An update cannot end while tasks find no place.
fn blocked(store: &Store, service: &Service) -> bool {
    store.tasks_of_service(service.id.as_str()).any(|task| task.is_wanted() && task.status.state < TaskState::Assigned)
}

fn done(store: &Store, service: &Service) -> u64 {
    let iteration = service.job_status.map(|status| status.iteration);
    let result = |task: &&Arc<Task>| task.job_iteration == iteration && task.status.state == TaskState::Complete;
    store.tasks_of_service(service.id.as_str()).filter(result).count() as u64
}

fn count_unmet(store: &Store, service: &Service) -> Option<String> {
    let policy = &service.spec.task.restart;
    if policy.condition != RestartCondition::Any || policy.max_attempts > 0 {
        return None;
    }
    let tasks: Vec<&Arc<Task>> = store.tasks_of_service(service.id.as_str()).filter(|task| task.is_wanted()).collect();
    let present: std::collections::BTreeSet<(u64, &str)> =
        tasks.iter().map(|task| (task.slot, if task.slot == 0 { task.node_id.as_str() } else { "" })).collect();
    let present = present.len() as u64;
    match service.spec.mode {
        ServiceMode::Replicated { replicas } if present != replicas => {
            Some(format!("service {} has {present} of {replicas} slots", service.spec.name))
        }
        ServiceMode::ReplicatedJob { total_completions, max_concurrent } => {
            let done = done(store, service);
            let possible = max_concurrent > 0 && !blocked(store, service);
            (possible && done < total_completions)
                .then(|| format!("job {} has {done} of {total_completions} results", service.spec.name))
        }
        ServiceMode::GlobalJob if service.spec.task.placement.constraints.is_empty() => {
            let active = store.nodes().filter(|node| node.spec.availability == Availability::Active).count() as u64;
            let done = done(store, service);
            (done < active && !blocked(store, service))
                .then(|| format!("job {} has {done} results on {active} nodes", service.spec.name))
        }
        ServiceMode::Global if service.spec.task.placement.constraints.is_empty() => {
            let active = store.nodes().filter(|node| node.spec.availability == Availability::Active).count() as u64;
            (present < active).then(|| format!("service {} is on {present} of {active} nodes", service.spec.name))
        }
        _ => None,
    }
}
