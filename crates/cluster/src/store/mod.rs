//! The replicated state: tables of objects with the indices planners need. Cloning is
//! cheap (tables are shared and copied on write), so a clone is a snapshot.

use crate::command::{Command, Key};
use serde::{Deserialize, Serialize};
use skep_model::cluster::Cluster;
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::Task;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("update out of sequence")]
    OutOfSequence(Key),
    #[error("{0:?} does not exist")]
    NotFound(Key),
    #[error("{0}")]
    Invariant(String),
}

/// What `apply` did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Keys that changed, in order; removed ones included.
    pub changed: Vec<Key>,
    /// Writes of an independent command that were dropped.
    pub dropped: Vec<Key>,
    /// The id was seen before: nothing was done now.
    pub duplicate: bool,
}

/// All objects at one Raft index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Store {
    index: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: Arc<BTreeMap<String, Arc<Node>>>,
    services: Arc<BTreeMap<String, Arc<Service>>>,
    tasks: Arc<BTreeMap<String, Arc<Task>>>,
    networks: Arc<BTreeMap<String, Arc<ClusterNetwork>>>,
    secrets: Arc<BTreeMap<String, Arc<Secret>>>,
    configs: Arc<BTreeMap<String, Arc<Config>>>,
    // indices (tasks by service, by node), recent command ids: to be added
}

impl Store {
    /// The only mutation. `index` is the Raft index, which becomes the version of what is put.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Applied, Rejection> {
        let _ = (index, command);
        todo!()
    }

    /// Raft index of the last applied command.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Equal on every manager at equal index.
    pub fn hash(&self) -> [u8; 32] {
        todo!()
    }

    /// Snapshot bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        let _ = bytes;
        todo!()
    }
    // plus getters: cluster(), node(id), nodes(), service(id), services(), task(id), tasks(),
    // tasks_of_service(id), tasks_of_node(id), network(id), networks(), secret.., config..
}
