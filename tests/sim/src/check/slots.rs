//! One task of a slot is meant to run; two only while a start-first update changes it.

use super::{Check, Verdict};
use crate::world::World;
use skep_model::service::UpdateOrder;
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Slots;

impl Check for Slots {
    fn name(&self) -> &'static str {
        "one task per slot"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        let store = &world.raft.truth;
        for service in store.services() {
            let mut slots: BTreeMap<(u64, &str), Vec<&Arc<Task>>> = BTreeMap::new();
            for task in store.tasks_of_service(service.id.as_str()) {
                if task.is_wanted() && task.desired_state >= TaskState::Running {
                    let node = if task.slot == 0 { task.node_id.as_str() } else { "" };
                    slots.entry((task.slot, node)).or_default().push(task);
                }
            }
            let start_first = [&service.spec.update, &service.spec.rollback].into_iter().flatten();
            let beside = start_first.into_iter().any(|config| config.order == UpdateOrder::StartFirst);
            let previous = service.previous_spec.iter().flat_map(|spec| [&spec.update, &spec.rollback]).flatten();
            let beside = beside || previous.into_iter().any(|config| config.order == UpdateOrder::StartFirst);
            for (slot, tasks) in slots {
                // A task that is being moved has one of its own kind beside it.
                let moves = |a: &Task, b: &Task| a.beside.as_ref() == Some(&b.id) || b.beside.as_ref() == Some(&a.id);
                let moving = tasks.windows(2).any(|pair| moves(pair[0], pair[1]));
                let same_spec = !moving && tasks.windows(2).any(|pair| pair[0].spec_version == pair[1].spec_version);
                if tasks.len() > 2 || (tasks.len() == 2 && (same_spec || !(beside || moving))) {
                    return Err(format!(
                        "slot {slot:?} of {} has {} tasks that are to run",
                        service.spec.name,
                        tasks.len()
                    ));
                }
            }
        }
        Ok(())
    }
}
