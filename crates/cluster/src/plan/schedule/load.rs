//! What nodes already carry.

use super::filter::{Filters, host_ports};
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::network::Protocol;
use skep_model::node::Node;
use skep_model::task::{AssignedResource, Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A node where this many tasks of a service failed lately is avoided.
const FAILURES_TO_AVOID: u32 = 5;
const FAILURES_WINDOW: Duration = Duration::from_secs(300);

pub(crate) struct NodeLoad {
    pub(crate) node: Arc<Node>,
    /// Tasks that are to go on running.
    pub(crate) active: u32,
    pub(super) nano_cpus_left: i64,
    pub(super) memory_bytes_left: i64,
    counted_left: BTreeMap<String, i64>,
    named_left: BTreeMap<String, BTreeSet<String>>,
    pub(super) host_ports: BTreeSet<(Protocol, u16)>,
    /// It was given a task in this plan.
    pub(super) is_touched: bool,
}

/// Every node, in the order of ids.
pub(crate) struct Loads(pub(crate) Vec<NodeLoad>);

impl Loads {
    pub(crate) fn of(store: &Store) -> Self {
        Self(store.nodes().map(|node| NodeLoad::of(store, node)).collect())
    }

    pub(crate) fn position(&self, node: &str) -> Option<usize> {
        self.0.binary_search_by(|load| load.node.id.as_str().cmp(node)).ok()
    }

    /// Tasks of a service that are to go on running, per node.
    pub(crate) fn counts(&self, store: &Store, service: &str) -> Vec<u32> {
        self.history(store, service, None, Timestamp::NEVER).0
    }

    /// The same, and failures per node of tasks made from one spec, where they were many
    /// lately.
    pub(super) fn history(
        &self,
        store: &Store,
        service: &str,
        spec_version: Option<u64>,
        now: Timestamp,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut counts, mut failures) = (vec![0; self.0.len()], vec![0; self.0.len()]);
        for task in store.tasks_of_service(service).filter(|task| task.status.state >= TaskState::Assigned) {
            let Some(at) = self.position(task.node_id.as_str()) else { continue };
            counts[at] += u32::from(task.is_wanted());
            let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
            let recent = Some(task.spec_version) == spec_version && task.ended_at.plus(FAILURES_WINDOW) > now;
            failures[at] += u32::from(failed && recent);
        }
        failures.iter_mut().filter(|count| **count < FAILURES_TO_AVOID).for_each(|count| *count = 0);
        (counts, failures)
    }
}

impl NodeLoad {
    fn of(store: &Store, node: &Arc<Node>) -> Self {
        let description = &node.description;
        let mut load = Self {
            node: Arc::clone(node),
            active: 0,
            nano_cpus_left: description.nano_cpus,
            memory_bytes_left: description.memory_bytes,
            counted_left: description.generic_resources.clone(),
            named_left: description.named_resources.clone(),
            host_ports: BTreeSet::new(),
            is_touched: false,
        };
        store.tasks_of_node(node.id.as_str()).for_each(|task| load.add(task));
        load
    }

    /// Counts a task. What it reserves is taken until it has ended, even when it is to stop.
    fn add(&mut self, task: &Task) {
        self.active += u32::from(task.is_wanted());
        if task.status.state.is_terminal() {
            return;
        }
        self.nano_cpus_left -= task.spec.resources.reserve_nano_cpus;
        self.memory_bytes_left -= task.spec.resources.reserve_memory_bytes;
        for (kind, count) in &task.spec.resources.reserve_generic {
            match task.resources.get(kind) {
                Some(AssignedResource::Named(names)) => {
                    let left = self.named_left.entry(kind.clone()).or_default();
                    left.retain(|name| !names.contains(name));
                }
                Some(AssignedResource::Count(_)) | None => {
                    *self.counted_left.entry(kind.clone()).or_default() -= count;
                }
            }
        }
        self.host_ports.extend(host_ports(task));
    }

    /// How many of a kind of resource are free.
    pub(super) fn generic_left(&self, kind: &str) -> i64 {
        match self.named_left.get(kind) {
            Some(names) => i64::try_from(names.len()).unwrap_or(i64::MAX),
            None => self.counted_left.get(kind).copied().unwrap_or(0),
        }
    }

    /// Takes a task that passed the filters, and says which resources it gets: of those
    /// with names the first free ones.
    pub(crate) fn take(&mut self, filters: &Filters) -> BTreeMap<String, AssignedResource> {
        self.active += 1;
        self.nano_cpus_left -= filters.nano_cpus;
        self.memory_bytes_left -= filters.memory_bytes;
        self.host_ports.extend(&filters.host_ports);
        let take = |(kind, count): (&String, &i64)| {
            let given = match self.named_left.get_mut(kind) {
                Some(left) => {
                    let names: BTreeSet<String> =
                        left.iter().take(usize::try_from(*count).unwrap_or(0)).cloned().collect();
                    left.retain(|name| !names.contains(name));
                    AssignedResource::Named(names)
                }
                None => {
                    *self.counted_left.entry(kind.clone()).or_default() -= count;
                    AssignedResource::Count(*count)
                }
            };
            (kind.clone(), given)
        };
        filters.generic.iter().map(take).collect()
    }

    /// The value of a label to spread over; a missing label is an empty one.
    pub(crate) fn label(&self, key: &str) -> &str {
        let lower = key.to_ascii_lowercase();
        let (labels, prefix) = if lower.starts_with("engine.labels.") {
            (&self.node.description.engine_labels, "engine.labels.".len())
        } else if lower.starts_with("node.labels.") {
            (&self.node.spec.labels, "node.labels.".len())
        } else {
            return "";
        };
        labels.get(&key[prefix..]).map_or("", String::as_str)
    }
}
