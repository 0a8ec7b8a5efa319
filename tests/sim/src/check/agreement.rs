//! Managers at the same index have the same state, byte for byte.

use super::{Check, Verdict};
use crate::world::World;

/// Hashing everything every tick would cost more than all the rest.
const EVERY_TICKS: u64 = 40;

pub(super) struct Agreement;

impl Check for Agreement {
    fn name(&self) -> &'static str {
        "managers agree"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        if (world.now_ms / crate::world::TICK_MS).is_multiple_of(EVERY_TICKS) { compare(world) } else { Ok(()) }
    }

    fn finish(&mut self, world: &World) -> Verdict {
        compare(world)
    }
}

fn compare(world: &World) -> Verdict {
    let truth = &world.raft.truth;
    let expect = truth.hash();
    for (number, manager) in world.managers.iter().enumerate() {
        if manager.up && manager.store.index() == truth.index() && manager.store.hash() != expect {
            return Err(format!("manager {number} differs at index {}", truth.index()));
        }
    }
    Ok(())
}
