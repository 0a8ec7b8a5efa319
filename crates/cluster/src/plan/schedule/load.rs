//! What a node already carries.

use super::filter::host_ports;
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::network::Protocol;
use skep_model::node::Node;
use skep_model::service::{Service, TaskResources};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A node where this many tasks of a service failed lately is avoided.
const FAILURES_TO_AVOID: usize = 5;
const FAILURES_WINDOW: Duration = Duration::from_secs(300);

pub(super) struct NodeLoad {
    pub(super) node: Arc<Node>,
    /// Tasks that are to go on running.
    active: usize,
    of_service: BTreeMap<String, usize>,
    pub(super) nano_cpus_left: i64,
    pub(super) memory_bytes_left: i64,
    pub(super) generic_left: BTreeMap<String, i64>,
    pub(super) host_ports: BTreeSet<(Protocol, u16)>,
}

/// Of every node; tasks per service are counted for `services` only.
pub(super) fn all(store: &Store, services: &BTreeSet<&str>) -> BTreeMap<String, NodeLoad> {
    store.nodes().map(|node| (node.id.0.clone(), NodeLoad::of(store, node, services))).collect()
}

/// Failures per node of tasks made from a service's present spec, where they are many.
pub(super) fn failures(store: &Store, service: &Service, now: Timestamp) -> BTreeMap<String, usize> {
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    for task in store.tasks_of_service(service.id.as_str()) {
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        if failed && task.spec_version == service.spec_version && task.ended_at.plus(FAILURES_WINDOW) > now {
            *failures.entry(task.node_id.0.clone()).or_default() += 1;
        }
    }
    failures.retain(|_, count| *count >= FAILURES_TO_AVOID);
    failures
}

impl NodeLoad {
    fn of(store: &Store, node: &Arc<Node>, services: &BTreeSet<&str>) -> Self {
        let description = &node.description;
        let mut load = Self {
            node: Arc::clone(node),
            active: 0,
            of_service: services.iter().map(|service| ((*service).to_owned(), 0)).collect(),
            nano_cpus_left: description.nano_cpus,
            memory_bytes_left: description.memory_bytes,
            generic_left: description.generic_resources.clone(),
            host_ports: BTreeSet::new(),
        };
        store.tasks_of_node(node.id.as_str()).for_each(|task| load.add(task));
        load
    }

    /// Counts a task. What it reserves is taken until it has ended, even when it is to stop.
    pub(super) fn add(&mut self, task: &Task) {
        if task.is_wanted() {
            self.active += 1;
            if let Some(count) = self.of_service.get_mut(task.service_id.as_str()) {
                *count += 1;
            }
        }
        if task.status.state.is_terminal() {
            return;
        }
        let TaskResources { reserve_nano_cpus, reserve_memory_bytes, reserve_generic, .. } = &task.spec.resources;
        self.nano_cpus_left -= reserve_nano_cpus;
        self.memory_bytes_left -= reserve_memory_bytes;
        for (kind, count) in reserve_generic {
            *self.generic_left.entry(kind.clone()).or_default() -= count;
        }
        self.host_ports.extend(host_ports(task));
    }

    pub(super) fn of_service(&self, service: &str) -> usize {
        self.of_service.get(service).copied().unwrap_or(0)
    }

    /// Smaller is better.
    pub(super) fn rank(&self, service: &str, failures: &BTreeMap<String, usize>) -> (usize, usize, usize) {
        let failed = failures.get(self.node.id.as_str()).copied().unwrap_or(0);
        (failed, self.of_service(service), self.active)
    }

    /// The path to this node in the spread tree, one longer prefix per level.
    pub(super) fn branches(&self, spread: &[String]) -> Vec<Vec<String>> {
        let path: Vec<String> = spread.iter().map(|key| self.label(key)).collect();
        (1..=path.len()).map(|length| path[..length].to_vec()).collect()
    }

    fn label(&self, key: &str) -> String {
        let lower = key.to_ascii_lowercase();
        let (labels, prefix) = if lower.starts_with("engine.labels.") {
            (&self.node.description.engine_labels, "engine.labels.".len())
        } else if lower.starts_with("node.labels.") {
            (&self.node.spec.labels, "node.labels.".len())
        } else {
            return String::new();
        };
        labels.get(&key[prefix..]).cloned().unwrap_or_default()
    }
}
