//! No two containers that exist anywhere have the same address on the same network, and
//! none has one that is somebody's virtual or balancer address.

use super::{Check, Verdict};
use crate::world::World;
use skep_cluster::store::Holder;
use std::collections::BTreeMap;

pub(super) struct Addresses;

impl Check for Addresses {
    fn name(&self) -> &'static str {
        "one holder per address"
    }

    fn tick(&mut self, world: &World) -> Verdict {
        let store = &world.raft.truth;
        let mut held: BTreeMap<(&str, std::net::IpAddr), &str> = BTreeMap::new();
        for node in &world.nodes {
            // A node that was removed by force is nobody's any more.
            if node.removed || store.node(node.id.as_str()).is_none() {
                continue;
            }
            for container in node.agent.containers() {
                let id = container.task.id.as_str();
                for (network, address) in &container.addresses {
                    if let Some(other) = held.insert((network, *address), id) {
                        return Err(format!("{address} belongs to containers of tasks {other} and {id}"));
                    }
                    let holder = store.addresses(network).and_then(|used| used.get(address));
                    if let Some(Holder::Service(_) | Holder::Node(_)) = holder {
                        return Err(format!("{address} of task {id} was given to {holder:?}"));
                    }
                }
            }
        }
        Ok(())
    }
}
