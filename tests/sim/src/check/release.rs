//! Names and ports of a service are free again only when its tasks have stopped, or are on
//! nodes that are away; and no two containers of a node bind the same port of it.

use super::{Check, Verdict};
use crate::world::World;
use skep_cluster::Write;
use skep_cluster::command::Kind;
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::NodeState;
use skep_model::service::PublishMode;
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Release;

impl Check for Release {
    fn name(&self) -> &'static str {
        "released when the holder is down"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], _now: Timestamp) -> Verdict {
        for write in writes {
            let Write::Remove { key, .. } = write else { continue };
            if key.kind != Kind::Service {
                continue;
            }
            if let Some(task) = snapshot.tasks_of_service(&key.id).find(|task| runs(snapshot, task)) {
                return Err(format!("service {} goes while task {} may run", key.id, task.id));
            }
        }
        Ok(())
    }

    fn tick(&mut self, world: &World) -> Verdict {
        for node in world.nodes.iter().filter(|node| !node.removed) {
            if world.raft.truth.node(node.id.as_str()).is_none() {
                continue;
            }
            let mut bound = BTreeMap::new();
            for container in node.agent.containers() {
                let ports = container.task.endpoint.ports.iter();
                let host = ports.filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0);
                for port in host {
                    let id = container.task.id.as_str();
                    if let Some(other) = bound.insert((port.protocol, port.published_port), id) {
                        return Err(format!(
                            "port {} of node {} is bound by {other} and {id}",
                            port.published_port, node.id
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn runs(snapshot: &Store, task: &Arc<Task>) -> bool {
    let begun = task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
    begun && snapshot.node(task.node_id.as_str()).is_some_and(|node| node.status.state != NodeState::Down)
}
