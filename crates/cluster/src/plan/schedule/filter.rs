//! Which nodes may take a task, and the words for why not.

use super::load::NodeLoad;
use crate::plan::constraint::{self, Constraint};
use crate::store::Store;
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
pub(crate) struct Filters {
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) generic: BTreeMap<String, i64>,
    /// (type, name)
    plugins: BTreeSet<(String, String)>,
    /// `None` when malformed: no node matches.
    constraints: Option<Vec<Constraint>>,
    platforms: Vec<skep_model::node::Platform>,
    pub(super) host_ports: BTreeSet<(Protocol, u16)>,
    max_replicas: u32,
}

impl Filters {
    pub(crate) fn of(store: &Store, task: &Task) -> Self {
        let spec = &task.spec;
        let max_replicas = if task.slot == 0 { 0 } else { spec.placement.max_replicas_per_node };
        Self {
            nano_cpus: spec.resources.reserve_nano_cpus,
            memory_bytes: spec.resources.reserve_memory_bytes,
            generic: spec.resources.reserve_generic.clone(),
            plugins: plugins(store, task),
            constraints: constraint::parse(&spec.placement.constraints).ok(),
            platforms: spec.placement.platforms.clone(),
            host_ports: host_ports(task).collect(),
            max_replicas: u32::try_from(max_replicas).unwrap_or(u32::MAX),
        }
    }

    /// The first filter that refuses the node; `of_service` of its tasks are there already.
    pub(super) fn failing(&self, load: &NodeLoad, of_service: u32) -> Option<Failed> {
        let node: &Node = &load.node;
        let rules: [(bool, Failed); 7] = [
            (is_ready(node), Failed::Ready),
            (self.has_resources(load), Failed::Resources),
            (self.has_plugins(node), Failed::Plugin),
            (self.matches(node), Failed::Constraints),
            (constraint::platform_matches(&self.platforms, node), Failed::Platform),
            (self.ports_are_free(load), Failed::HostPort),
            (self.may_have_another(of_service), Failed::MaxReplicas),
        ];
        rules.into_iter().find(|(passes, _)| !passes).map(|(_, failed)| failed)
    }

    /// What holds for a node whatever it carries.
    pub(crate) fn suits(&self, node: &Node) -> bool {
        is_ready(node)
            && self.has_plugins(node)
            && self.matches(node)
            && constraint::platform_matches(&self.platforms, node)
    }

    /// Whether a node that suits has room.
    pub(crate) fn fits(&self, load: &NodeLoad, of_service: u32) -> bool {
        self.has_resources(load) && self.ports_are_free(load) && self.may_have_another(of_service)
    }

    /// A reservation of zero is none and fits on any node, even an overfull one.
    fn has_resources(&self, load: &NodeLoad) -> bool {
        (self.nano_cpus == 0 || self.nano_cpus <= load.nano_cpus_left)
            && (self.memory_bytes == 0 || self.memory_bytes <= load.memory_bytes_left)
            && self.generic.iter().all(|(kind, count)| *count == 0 || *count <= load.generic_left(kind))
    }

    /// A node that says nothing of a type of plugin is taken at its word for the others only.
    fn has_plugins(&self, node: &Node) -> bool {
        let known = &node.description.plugins;
        let told = |kind: &str| known.iter().any(|(told, _)| told == kind);
        self.plugins.iter().all(|plugin| known.contains(plugin) || !told(&plugin.0))
    }

    fn matches(&self, node: &Node) -> bool {
        self.constraints.as_ref().is_some_and(|constraints| constraint::all_match(constraints, node))
    }

    fn ports_are_free(&self, load: &NodeLoad) -> bool {
        self.host_ports.iter().all(|port| !load.host_ports.contains(port))
    }

    fn may_have_another(&self, of_service: u32) -> bool {
        self.max_replicas == 0 || of_service < self.max_replicas
    }
}

fn is_ready(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

/// Ports the task binds on its own node.
pub(super) fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    let ports = task.endpoint.ports.iter();
    let bound = ports.filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0);
    bound.map(|port| (port.protocol, port.published_port))
}

/// Drivers of volumes, networks and logs that the task's node must have.
fn plugins(store: &Store, task: &Task) -> BTreeSet<(String, String)> {
    let drivers = task.spec.container.mounts.iter().map(|mount| mount.volume_driver.clone());
    let volumes =
        drivers.filter(|driver| !driver.is_empty() && driver != "local").map(|driver| ("Volume".into(), driver));
    let log = task.spec.log_driver.iter().map(|(driver, _)| driver.clone());
    let logs = log.filter(|driver| !driver.is_empty() && driver != "none").map(|driver| ("Log".into(), driver));
    let networks = task.spec.networks.iter().filter_map(|config| store.network(&config.target));
    let networks = networks.map(|network| ("Network".into(), network.spec.driver.clone()));
    volumes.chain(logs).chain(networks).collect()
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
