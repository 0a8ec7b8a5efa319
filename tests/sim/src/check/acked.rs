//! What a user was told is done is in the log for ever.

use super::{Check, Verdict};
use crate::world::World;
use std::collections::BTreeSet;

#[derive(Default)]
pub(super) struct Acked {
    logged: BTreeSet<String>,
    seen: usize,
}

impl Check for Acked {
    fn name(&self) -> &'static str {
        "nothing acknowledged is lost"
    }

    fn finish(&mut self, world: &World) -> Verdict {
        self.logged.extend(world.raft.log[self.seen..].iter().map(|command| command.id.clone()));
        self.seen = world.raft.log.len();
        let acked = world.load.iter().flat_map(|load| &load.acked);
        match acked.into_iter().find(|id| !self.logged.contains(*id)) {
            None => Ok(()),
            Some(id) => Err(format!("command {id} was acknowledged and is lost")),
        }
    }
}
