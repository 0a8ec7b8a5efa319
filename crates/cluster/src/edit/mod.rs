//! A user's or a node's request becomes a command, or an error with the reference's
//! text. Pure: the caller proposes the writes.

use crate::command::Write;
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::cluster::ClusterSpec;
use skep_model::id::{ConfigId, NetworkId, NodeId, SecretId, ServiceId};
use skep_model::network::NetworkSpec;
use skep_model::node::{Node, NodeDescription, NodeSpec, NodeState};
use skep_model::secret::{ConfigSpec, SecretSpec};
use skep_model::service::ServiceSpec;
use skep_model::task::TaskStatus;
use skep_model::{Result, Timestamp};

/// Facts a new swarm starts with. See [`bootstrap`].
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub cluster: skep_model::cluster::Cluster,
    /// This node, already a manager.
    pub node: Node,
}

/// The first command of a swarm: cluster, first node, the `ingress` network.
pub fn bootstrap(facts: Bootstrap, now: Timestamp, ids: &mut dyn IdSource) -> Vec<Write> {
    let _ = (facts, now, ids);
    todo!()
}

/// Validates, checks name and port conflicts, resolves network targets to ids.
pub fn create_service(
    store: &Store,
    spec: ServiceSpec,
    now: Timestamp,
    ids: &mut dyn IdSource,
) -> Result<(ServiceId, Vec<Write>)> {
    let _ = (store, spec, now, ids);
    todo!()
}

pub fn update_service(
    store: &Store,
    id: &ServiceId,
    version: u64,
    spec: ServiceSpec,
    rollback: bool,
    now: Timestamp,
) -> Result<Vec<Write>> {
    let _ = (store, id, version, spec, rollback, now);
    todo!()
}

pub fn remove_service(store: &Store, id: &ServiceId, now: Timestamp) -> Result<Vec<Write>> {
    let _ = (store, id, now);
    todo!()
}

pub fn create_network(
    store: &Store,
    spec: NetworkSpec,
    now: Timestamp,
    ids: &mut dyn IdSource,
) -> Result<(NetworkId, Vec<Write>)> {
    let _ = (store, spec, now, ids);
    todo!()
}

pub fn remove_network(store: &Store, id: &NetworkId) -> Result<Vec<Write>> {
    let _ = (store, id);
    todo!()
}

pub fn update_cluster(store: &Store, version: u64, spec: ClusterSpec) -> Result<Vec<Write>> {
    let _ = (store, version, spec);
    todo!()
}

pub fn update_node(store: &Store, id: &NodeId, version: u64, spec: NodeSpec) -> Result<Vec<Write>> {
    let _ = (store, id, version, spec);
    todo!()
}

pub fn remove_node(store: &Store, id: &NodeId, force: bool) -> Result<Vec<Write>> {
    let _ = (store, id, force);
    todo!()
}

pub fn create_secret(store: &Store, spec: SecretSpec, ids: &mut dyn IdSource) -> Result<(SecretId, Vec<Write>)> {
    let _ = (store, spec, ids);
    todo!()
}

pub fn remove_secret(store: &Store, id: &SecretId) -> Result<Vec<Write>> {
    let _ = (store, id);
    todo!()
}

pub fn create_config(store: &Store, spec: ConfigSpec, ids: &mut dyn IdSource) -> Result<(ConfigId, Vec<Write>)> {
    let _ = (store, spec, ids);
    todo!()
}

pub fn remove_config(store: &Store, id: &ConfigId) -> Result<Vec<Write>> {
    let _ = (store, id);
    todo!()
}

// --- facts from nodes (the dispatcher) ---

/// A node opened a session: description and address, state READY.
pub fn node_ready(
    store: &Store,
    id: &NodeId,
    description: NodeDescription,
    address: &str,
    data_path_address: &str,
) -> Result<Vec<Write>> {
    let _ = (store, id, description, address, data_path_address);
    todo!()
}

/// A heartbeat expired or a session ended.
pub fn node_state(store: &Store, id: &NodeId, state: NodeState, message: &str) -> Result<Vec<Write>> {
    let _ = (store, id, state, message);
    todo!()
}

/// A node reports a task's status: only its own tasks, only forward.
pub fn task_status(store: &Store, node: &NodeId, updates: &[(String, TaskStatus)]) -> Result<Vec<Write>> {
    let _ = (store, node, updates);
    todo!()
}
