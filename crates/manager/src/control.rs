//! What the API may ask of a manager. Reads answer from the local store; writes return
//! after their command is committed and applied.
//!
//! `name` arguments take a full id, an exact name or a unique id prefix. Errors carry
//! the reference's texts (`service x not found`, `rpc error: code = ... desc = ...`).

use skep_model::Result;
use skep_model::cluster::{Cluster, ClusterSpec};
use skep_model::id::{ConfigId, NetworkId, NodeId, SecretId, ServiceId};
use skep_model::network::NetworkSpec;
use skep_model::node::{Node, NodeSpec};
use skep_model::secret::{Config, ConfigSpec, Secret, SecretSpec};
use skep_model::service::{ClusterNetwork, Service, ServiceSpec};
use skep_model::task::Task;
use std::sync::Arc;
use tokio::sync::watch;

/// Handle to the manager on this node. Cheap to clone.
#[derive(Clone)]
pub struct Control {}

/// `rotate*` flags of `swarm update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotateFlags {
    pub worker_token: bool,
    pub manager_token: bool,
    pub unlock_key: bool,
}

impl Control {
    /// The store version, changed with every applied command: a reader that polls waits on this.
    pub fn version(&self) -> watch::Receiver<u64> {
        todo!()
    }

    pub fn cluster(&self) -> Result<Arc<Cluster>> {
        todo!()
    }

    /// `update out of sequence` when `version` is not the present one.
    pub async fn update_cluster(&self, version: u64, spec: ClusterSpec, rotate: RotateFlags) -> Result<()> {
        let _ = (version, spec, rotate);
        todo!()
    }

    pub fn services(&self) -> Vec<Arc<Service>> {
        todo!()
    }

    pub fn service(&self, name: &str) -> Result<Arc<Service>> {
        let _ = name;
        todo!()
    }

    pub async fn create_service(&self, spec: ServiceSpec) -> Result<ServiceId> {
        let _ = spec;
        todo!()
    }

    /// `rollback`: go back to the previous spec instead of `spec`.
    pub async fn update_service(&self, name: &str, version: u64, spec: ServiceSpec, rollback: bool) -> Result<()> {
        let _ = (name, version, spec, rollback);
        todo!()
    }

    pub async fn remove_service(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    pub fn tasks(&self) -> Vec<Arc<Task>> {
        todo!()
    }

    pub fn task(&self, name: &str) -> Result<Arc<Task>> {
        let _ = name;
        todo!()
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        todo!()
    }

    /// `self` is this node.
    pub fn node(&self, name: &str) -> Result<Arc<Node>> {
        let _ = name;
        todo!()
    }

    pub async fn update_node(&self, name: &str, version: u64, spec: NodeSpec) -> Result<()> {
        let _ = (name, version, spec);
        todo!()
    }

    pub async fn remove_node(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        todo!()
    }

    pub fn networks(&self) -> Vec<Arc<ClusterNetwork>> {
        todo!()
    }

    pub fn network(&self, name: &str) -> Result<Arc<ClusterNetwork>> {
        let _ = name;
        todo!()
    }

    pub async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId> {
        let _ = spec;
        todo!()
    }

    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    pub fn secrets(&self) -> Vec<Arc<Secret>> {
        todo!()
    }

    pub async fn create_secret(&self, spec: SecretSpec) -> Result<SecretId> {
        let _ = spec;
        todo!()
    }

    pub async fn remove_secret(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    pub fn configs(&self) -> Vec<Arc<Config>> {
        todo!()
    }

    pub async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId> {
        let _ = spec;
        todo!()
    }

    pub async fn remove_config(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// This node's id.
    pub fn node_id(&self) -> &NodeId {
        todo!()
    }

    /// Id of the leader, if one is known.
    pub fn leader(&self) -> Option<NodeId> {
        todo!()
    }
}
