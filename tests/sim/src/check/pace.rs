//! An update takes no more running tasks away than its parallelism allows.

use super::{Check, Verdict};
use skep_cluster::command::{Object, Write};
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::{Availability, NodeState};
use skep_model::service::{Service, ServiceMode, UpdateState};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;

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
            let limit = parallelism(service);
            if limit > 0 && tasks.len() as u64 > limit {
                let version = service.meta.version;
                let name = &service.spec.name;
                return Err(format!("{name} version {version}: {tasks:?} are taken at once, {limit} may be"));
            }
        }
        Ok(())
    }
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
    told && kept && !beside && !(global && moved) && task.spec != service.spec.task && task.status.err.is_empty()
}

fn parallelism(service: &Service) -> u64 {
    let state = service.update_status.as_ref().map(|status| status.state);
    let rolling_back = matches!(state, Some(UpdateState::RollbackStarted));
    let config = if rolling_back { &service.spec.rollback } else { &service.spec.update };
    config.clone().unwrap_or_default().parallelism
}
