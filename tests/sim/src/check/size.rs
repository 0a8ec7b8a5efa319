//! The store stays as small as the history limit says.

use super::{Check, Verdict};
use crate::world::World;
use std::collections::BTreeMap;

/// History, the present task, one beside it and one on its way out.
const TASKS_PER_SLOT_MAX: usize = 12;

pub(super) struct Size;

impl Check for Size {
    fn name(&self) -> &'static str {
        "history is limited"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        let mut slots: BTreeMap<(&str, u64, &str), usize> = BTreeMap::new();
        for task in world.raft.truth.tasks() {
            let over = task.status.state.is_terminal();
            if over {
                let node = if task.slot == 0 { task.node_id.as_str() } else { "" };
                *slots.entry((task.service_id.as_str(), task.slot, node)).or_default() += 1;
            }
        }
        match slots.into_iter().find(|(_, count)| *count > TASKS_PER_SLOT_MAX) {
            None => Ok(()),
            Some((slot, count)) => Err(format!("slot {slot:?} keeps {count} ended tasks")),
        }
    }
}
