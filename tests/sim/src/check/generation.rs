//! A node's set of assignments never goes back, unless it lost its records.

use super::{Check, Verdict};
use crate::world::World;

#[derive(Default)]
pub(super) struct Generation {
    before: Vec<u64>,
}

impl Check for Generation {
    fn name(&self) -> &'static str {
        "generations only grow"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        self.before.resize(world.nodes.len(), 0);
        for (before, node) in self.before.iter_mut().zip(&world.nodes) {
            let generation = node.agent.generation();
            if generation < *before && generation != 0 && node.agent.records_kept() {
                return Err(format!("node {} went from set {before} to {generation}", node.id));
            }
            *before = generation;
        }
        Ok(())
    }
}
