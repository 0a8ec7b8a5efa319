//! Which nodes may take a task, and the words for why not.

use super::load::NodeLoad;
use crate::plan::constraint::{self, Constraint};
use skep_model::network::Protocol;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::PublishMode;
use skep_model::task::Task;
use std::collections::{BTreeMap, BTreeSet};

/// In the order in which they are tried; the first that fails counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failed {
    Ready,
    Resources,
    Plugin,
    Constraints,
    Platform,
    HostPort,
    MaxReplicas,
}

/// What a task asks of a node, taken apart once for all nodes.
pub(super) struct Filters {
    nano_cpus: i64,
    memory_bytes: i64,
    generic: BTreeMap<String, i64>,
    /// (type, name)
    plugins: BTreeSet<(String, String)>,
    /// `None` when malformed: no node matches.
    constraints: Option<Vec<Constraint>>,
    platforms: Vec<skep_model::node::Platform>,
    host_ports: BTreeSet<(Protocol, u16)>,
    max_replicas: u64,
}

impl Filters {
    pub(super) fn of(task: &Task) -> Self {
        let spec = &task.spec;
        Self {
            nano_cpus: spec.resources.reserve_nano_cpus,
            memory_bytes: spec.resources.reserve_memory_bytes,
            generic: spec.resources.reserve_generic.clone(),
            plugins: plugins(task),
            constraints: constraint::parse(&spec.placement.constraints).ok(),
            platforms: spec.placement.platforms.clone(),
            host_ports: host_ports(task).collect(),
            max_replicas: if task.slot == 0 { 0 } else { spec.placement.max_replicas_per_node },
        }
    }

    /// The first filter that refuses the node.
    pub(super) fn failing(&self, load: &NodeLoad, service: &str) -> Option<Failed> {
        let node: &Node = &load.node;
        if node.status.state != NodeState::Ready || node.spec.availability != Availability::Active {
            return Some(Failed::Ready);
        }
        // A reservation of zero is none and fits on any node, even an overfull one.
        let cpus = self.nano_cpus == 0 || self.nano_cpus <= load.nano_cpus_left;
        let memory = self.memory_bytes == 0 || self.memory_bytes <= load.memory_bytes_left;
        let generic = |(kind, count): (&String, &i64)| load.generic_left.get(kind).is_some_and(|left| count <= left);
        if !(cpus && memory && self.generic.iter().all(generic)) {
            return Some(Failed::Resources);
        }
        let known = &node.description.plugins;
        if !known.is_empty() && self.plugins.iter().any(|plugin| !known.contains(plugin)) {
            return Some(Failed::Plugin);
        }
        if !self.constraints.as_ref().is_some_and(|constraints| constraint::all_match(constraints, node)) {
            return Some(Failed::Constraints);
        }
        if !constraint::platform_matches(&self.platforms, node) {
            return Some(Failed::Platform);
        }
        if self.host_ports.iter().any(|port| load.host_ports.contains(port)) {
            return Some(Failed::HostPort);
        }
        let full = self.max_replicas > 0 && load.of_service(service) as u64 >= self.max_replicas;
        full.then_some(Failed::MaxReplicas)
    }
}

/// Ports the task binds on its own node.
pub(super) fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    let ports = task.endpoint.ports.iter();
    let bound = ports.filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0);
    bound.map(|port| (port.protocol, port.published_port))
}

fn plugins(task: &Task) -> BTreeSet<(String, String)> {
    let drivers = task.spec.container.mounts.iter().map(|mount| mount.volume_driver.clone());
    let volumes =
        drivers.filter(|driver| !driver.is_empty() && driver != "local").map(|driver| ("Volume".into(), driver));
    let log = task.spec.log_driver.iter().map(|(driver, _)| driver.clone());
    let logs = log.filter(|driver| !driver.is_empty() && driver != "none").map(|driver| ("Log".into(), driver));
    volumes.chain(logs).collect()
}

/// `no suitable node (insufficient resources on 2 nodes; ...)`, most frequent first.
pub(super) fn explain(failed: &[Failed]) -> String {
    let mut counts: BTreeMap<Failed, usize> = BTreeMap::new();
    for filter in failed {
        *counts.entry(*filter).or_default() += 1;
    }
    let mut sorted: Vec<(Failed, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(filter, count)| (std::cmp::Reverse(*count), *filter));
    if sorted.is_empty() {
        return "no suitable node".into();
    }
    let parts: Vec<String> = sorted.into_iter().map(|(filter, count)| text(filter, count)).collect();
    format!("no suitable node ({})", parts.join("; "))
}

fn text(filter: Failed, count: usize) -> String {
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    match filter {
        Failed::Ready => format!("{nodes} not available for new tasks"),
        Failed::Resources => format!("insufficient resources on {nodes}"),
        Failed::Plugin => format!("missing plugin on {nodes}"),
        Failed::Constraints => format!("scheduling constraints not satisfied on {nodes}"),
        Failed::Platform => format!("unsupported platform on {nodes}"),
        Failed::HostPort => format!("host-mode port already in use on {nodes}"),
        Failed::MaxReplicas => "max replicas per node limit exceed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(failed: &[Failed], expect: &str) {
        assert_eq!(explain(failed), expect);
    }

    #[test]
    fn reasons_read_as_in_the_reference() {
        check(&[], "no suitable node");
        check(&[Failed::Ready], "no suitable node (1 node not available for new tasks)");
        check(
            &[Failed::Ready, Failed::Resources, Failed::Resources],
            "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)",
        );
        check(&[Failed::MaxReplicas, Failed::MaxReplicas], "no suitable node (max replicas per node limit exceed)");
    }
}
