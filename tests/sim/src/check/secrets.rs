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
        let store = &world.raft.truth;
        for node in &world.nodes {
            if node.agent.secrets().is_empty() {
                continue;
            }
            // Tasks that are gone from the store may be known to a node that has not heard.
            let own = store.tasks_of_node(node.id.as_str()).map(|task| &task.spec);
            let running = node.agent.containers().into_iter().map(|container| &container.task.spec);
            let specs = own.chain(running);
            let needed: BTreeSet<String> =
                specs.flat_map(|spec| spec.container.secrets.iter().map(|secret| secret.secret_id.0.clone())).collect();
            let connected = node.up && store.tasks_of_node(node.id.as_str()).next().is_some();
            if let Some(stray) = node.agent.secrets().iter().find(|secret| connected && !needed.contains(*secret)) {
                return Err(format!("node {} has secret {stray} for no task", node.id));
            }
        }
        Ok(())
    }
}
