//! Observed and desired state of a task never go back; it never changes node or spec.

use super::{Check, Verdict};
use crate::world::World;
use skep_cluster::store::Store;

#[derive(Default)]
pub(super) struct Forward {
    before: Store,
}

impl Check for Forward {
    fn name(&self) -> &'static str {
        "tasks only move forward"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        let now = &world.raft.truth;
        if now.index() == self.before.index() {
            return Ok(());
        }
        for task in now.tasks() {
            let Some(before) = self.before.task(task.id.as_str()) else { continue };
            let back = task.status.state < before.status.state || task.desired_state < before.desired_state;
            let moved = !before.node_id.is_empty() && before.node_id != task.node_id;
            if back || moved || before.spec != task.spec {
                return Err(format!("task {} went back or became another", task.id));
            }
        }
        self.before = now.clone();
        Ok(())
    }
}
