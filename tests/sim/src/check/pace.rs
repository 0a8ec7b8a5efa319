//! An update takes no more running tasks away than its parallelism allows, and never has
//! more slots under way.

use super::{Check, Verdict};
use skep_cluster::command::{Object, Write};
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, NodeState};
use skep_model::service::{Service, ServiceMode, UpdateState};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) struct Pace;

impl Check for Pace {
    fn name(&self) -> &'static str {
        "updates keep their pace"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], _now: Timestamp) -> Verdict {
        let mut taken: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for write in writes {
            let Write::Put { object: Object::Task(task), .. } = write else { continue };
            if taken_by_update(snapshot, task) {
                taken.entry(task.service_id.as_str()).or_default().push(task.id.as_str());
            }
        }
        for (id, tasks) in taken {
            let Some(service) = snapshot.service(id) else { continue };
            let limit = pace(service, writes);
            if limit > 0 && tasks.len() as u64 > limit {
                let version = service.meta.version;
                let name = &service.spec.name;
                return Err(format!("{name} version {version}: {tasks:?} are taken at once, {limit} may be"));
            }
        }
        slots_under_way(snapshot, writes)
    }
}

/// Slots of which the plan begins the update, with those under way already.
fn slots_under_way(snapshot: &Store, writes: &[Write]) -> Verdict {
    let mut begun: BTreeMap<&str, BTreeSet<(u64, &str)>> = BTreeMap::new();
    for write in writes {
        let Write::Put { object: Object::Task(task), expected: 0 } = write else { continue };
        if begins_update(snapshot, task) {
            begun.entry(task.service_id.as_str()).or_default().insert(slot(task));
        }
    }
    for (id, mut slots) in begun {
        let Some(service) = snapshot.service(id) else { continue };
        let leaves = |task: &Task| {
            let put = |write: &Write| {
                let stopped = matches!(write, Write::Put { object: Object::Task(new), .. } if !new.is_wanted());
                write.key().id == task.id.as_str() && (stopped || matches!(write, Write::Remove { .. }))
            };
            writes.iter().any(put)
        };
        let under_way =
            snapshot.tasks_of_service(id).filter(|task| is_unsettled(snapshot, service, task) && !leaves(task));
        slots.extend(under_way.map(|task| slot(task)));
        let limit = pace(service, writes);
        if limit > 0 && slots.len() as u64 > limit {
            return Err(format!("{}: slots {slots:?} are under way, {limit} may be", service.spec.name));
        }
    }
    Ok(())
}

/// The widest pace that held at a moment of the plan: a rollback that it begins has one of
/// its own. 0 is no limit.
fn pace(before: &Service, writes: &[Write]) -> u64 {
    let after = writes.iter().find_map(|write| match write {
        Write::Put { object: Object::Service(service), .. } if service.id == before.id => Some(&**service),
        Write::Put { .. } | Write::Remove { .. } => None,
    });
    let paces = [parallelism(before), parallelism(after.unwrap_or(before))];
    if paces.contains(&0) { 0 } else { paces[0].max(paces[1]) }
}

fn slot(task: &Task) -> (u64, &str) {
    (task.slot, if task.slot == 0 { task.node_id.as_str() } else { "" })
}

/// A new task in the slot of an old one that could stay where it is.
fn begins_update(snapshot: &Store, task: &Task) -> bool {
    let Some(service) = snapshot.service(task.service_id.as_str()) else { return false };
    let present = task.spec_version == service.spec_version && !service.spec.mode.is_job() && task.beside.is_none();
    let moved = service.previous_spec.as_ref().is_some_and(|p| p.task.placement != service.spec.task.placement)
        || !service.spec.task.placement.constraints.is_empty();
    let stays = |old: &&Arc<Task>| {
        let node = snapshot.node(old.node_id.as_str());
        let kept =
            node.is_some_and(|n| n.status.state != NodeState::Down && n.spec.availability == Availability::Active);
        slot(old) == slot(task)
            && old.is_wanted()
            && old.status.err.is_empty()
            && kept
            && old.status.state == TaskState::Running
            && old.spec_version != service.spec_version
            && *old.spec != service.spec.task
    };
    present && !moved && snapshot.tasks_of_service(service.id.as_str()).any(|old| stays(&old))
}

/// It has taken the place of an older task, and none of its kind has run there or ended.
fn is_unsettled(snapshot: &Store, service: &Service, task: &Task) -> bool {
    let present = task.spec_version == service.spec_version && task.is_wanted() && task.beside.is_none();
    let same_slot = |other: &&Arc<Task>| slot(other) == slot(task);
    let in_slot: Vec<&Arc<Task>> = snapshot.tasks_of_service(service.id.as_str()).filter(same_slot).collect();
    let older = in_slot.iter().any(|other| other.spec_version < task.spec_version);
    let mut own = in_slot.iter().filter(|other| other.spec_version == task.spec_version);
    present && older && own.all(|other| !other.running_at.is_set() && !other.ended_at.is_set())
}

/// A task that runs an old spec on a node that may keep it, without a new one that runs
/// beside it, is told to stop.
fn taken_by_update(snapshot: &Store, task: &Task) -> bool {
    let Some(service) = snapshot.service(task.service_id.as_str()).filter(|service| !service.pending_delete) else {
        return false;
    };
    let before = snapshot.task(task.id.as_str());
    let told = task.desired_state == TaskState::Shutdown
        && before.is_some_and(|before| before.is_wanted() && before.status.state == TaskState::Running);
    let node = snapshot.node(task.node_id.as_str());
    let kept =
        node.is_some_and(|node| node.status.state != NodeState::Down && node.spec.availability == Availability::Active);
    let global = matches!(service.spec.mode, ServiceMode::Global);
    let moved = task.spec.placement != service.spec.task.placement || !task.spec.placement.constraints.is_empty();
    let beside = snapshot.tasks_of_service(service.id.as_str()).any(|other| {
        let same = other.slot == task.slot && (other.slot > 0 || other.node_id == task.node_id);
        same && other.id != task.id && other.is_wanted()
    });
    told && kept && !beside && !(global && moved) && *task.spec != service.spec.task && task.status.err.is_empty()
}

fn parallelism(service: &Service) -> u64 {
    let state = service.update_status.as_ref().map(|status| status.state);
    let rolling_back = matches!(state, Some(UpdateState::RollbackStarted));
    let config = if rolling_back { &service.spec.rollback } else { &service.spec.update };
    config.clone().unwrap_or_default().parallelism
}
