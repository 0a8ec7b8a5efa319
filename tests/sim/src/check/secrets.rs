//! A node has only secrets that its tasks use.

use super::{Check, Verdict};
use crate::world::World;
use std::collections::BTreeSet;

pub(super) struct Secrets;

impl Check for Secrets {
    fn name(&self) -> &'static str {
        "secrets stay where they are needed"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        for node in world.nodes.iter().filter(|node| !node.agent.secrets().is_empty()) {
            let tasks = node.agent.tasks();
            let references = tasks.iter().flat_map(|task| &task.spec.container.secrets);
            let needed: BTreeSet<&str> = references.map(|reference| reference.secret_id.as_str()).collect();
            if let Some(stray) = node.agent.secrets().iter().find(|secret| !needed.contains(secret.as_str())) {
                return Err(format!("node {} has secret {stray} for no task", node.id));
            }
        }
        Ok(())
    }
}
