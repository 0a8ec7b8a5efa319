//! A job never has more tasks at a time than it may, none beyond its number, and no slot
//! that is done is done again.

use super::{Check, Verdict};
use crate::world::World;
use skep_cluster::Write;
use skep_cluster::command::Object;
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::service::{Service, ServiceMode};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Service, iteration, slot or node.
type Place = (String, u64, String);

#[derive(Default)]
pub(super) struct Jobs {
    done: BTreeSet<Place>,
    seen: u64,
}

impl Check for Jobs {
    fn name(&self) -> &'static str {
        "jobs keep their numbers"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        let store = &world.raft.truth;
        if store.index() == self.seen {
            return Ok(());
        }
        self.seen = store.index();
        let jobs = store.services().filter(|service| service.spec.mode.is_job() && !service.pending_delete);
        jobs.into_iter().try_for_each(|service| self.look(store, service))
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], _now: Timestamp) -> Verdict {
        for write in writes {
            let Write::Put { object: Object::Task(task), expected: 0 } = write else { continue };
            let Some(place) = place(task) else { continue };
            let results = snapshot.tasks_of_service(task.service_id.as_str());
            let done = results
                .filter(|other| other.status.state == TaskState::Complete)
                .any(|o| self::place(o).as_ref() == Some(&place));
            if done {
                return Err(format!("{place:?} is done and gets another task"));
            }
        }
        Ok(())
    }
}

impl Jobs {
    fn look(&mut self, store: &Store, service: &Service) -> Verdict {
        let iteration = service.job_status.map(|status| status.iteration);
        let present = |task: &&Arc<Task>| task.job_iteration == iteration;
        let tasks: Vec<&Arc<Task>> = store.tasks_of_service(service.id.as_str()).filter(present).collect();
        let results: BTreeSet<Place> = tasks
            .iter()
            .filter(|task| task.status.state == TaskState::Complete)
            .filter_map(|task| place(task))
            .collect();
        if let ServiceMode::ReplicatedJob { max_concurrent, total_completions } = service.spec.mode {
            // What is still held does not run yet.
            let let_go = |task: &&&Arc<Task>| task.is_wanted() && task.desired_state == TaskState::Complete;
            let active = tasks.iter().filter(let_go).count() as u64;
            let beyond = tasks.iter().any(|task| task.slot == 0 || task.slot > total_completions);
            if active > max_concurrent || beyond || results.len() as u64 > total_completions {
                let name = &service.spec.name;
                return Err(format!(
                    "{name}: {active} of {max_concurrent} at a time, {} results of {total_completions}",
                    results.len()
                ));
            }
            let mine = |place: &&Place| place.0 == service.id.as_str() && Some(place.1) == iteration;
            if let Some(lost) = self.done.iter().filter(mine).find(|place| !results.contains(*place)) {
                return Err(format!("the result of {lost:?} is forgotten"));
            }
        }
        self.done.extend(results);
        Ok(())
    }
}

fn place(task: &Task) -> Option<Place> {
    let slot = if task.slot == 0 { task.node_id.0.clone() } else { task.slot.to_string() };
    Some((task.service_id.0.clone(), task.job_iteration?, slot))
}
