//! Tasks that wait for addresses or a node, looked at once a round for all who serve them.

use crate::store::Store;
use skep_model::task::TaskState;
use std::collections::{BTreeMap, BTreeSet};

/// A task that is wanted and has no node yet.
pub(super) struct Waiter {
    pub(super) spec_version: u64,
    pub(super) slot: u64,
    pub(super) id: String,
    /// Only one node can take it.
    pub(super) has_node: bool,
    /// It has its addresses.
    pub(super) is_pending: bool,
}

/// By service.
pub(super) type Waiters = BTreeMap<String, Vec<Waiter>>;

/// All waiters, and every service that owns a task without a node, wanted or not.
pub(super) fn collect(store: &Store) -> (Waiters, BTreeSet<String>) {
    // Keys are borrowed while grouping: many tasks belong to few services.
    let mut found: BTreeMap<&str, Vec<Waiter>> = BTreeMap::new();
    for task in store.tasks_unassigned() {
        let list = found.entry(task.service_id.as_str()).or_default();
        let is_pending = task.status.state == TaskState::Pending;
        if task.is_wanted() && (is_pending || task.status.state == TaskState::New) {
            list.push(Waiter {
                spec_version: task.spec_version,
                slot: task.slot,
                id: task.id.0.clone(),
                has_node: !task.node_id.is_empty(),
                is_pending,
            });
        }
    }
    let services = found.keys().map(|service| (*service).to_owned()).collect();
    let waiters = found.into_iter().map(|(service, list)| (service.to_owned(), list));
    (waiters.collect(), services)
}
