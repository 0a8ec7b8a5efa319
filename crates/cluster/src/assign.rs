//! What one node must be told: exactly what its own tasks need, nothing else.

use crate::store::Store;
use skep_model::id::NodeId;
use skep_model::netstate::ClusterNetState;
use skep_model::secret::{Config, Secret};
use skep_model::task::Task;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node's whole wanted set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Assignments {
    pub tasks: BTreeMap<String, Arc<Task>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub configs: BTreeMap<String, Arc<Config>>,
    /// Its `generation` is set by the sender.
    pub network: ClusterNetState,
}

/// Derives the set from the store.
pub fn assignments(store: &Store, node: &NodeId) -> Assignments {
    let _ = (store, node);
    todo!()
}
