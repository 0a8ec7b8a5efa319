//! What the API serves from: handles that the daemon wires together.

use async_trait::async_trait;
use ipnet::IpNet;
use skep_engine::Engine;
use skep_manager::Control;
use skep_model::cluster::ClusterSpec;
use skep_model::id::NodeId;
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::NetdStatus;
use skep_model::node::Availability;
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a request may reach.
#[derive(Clone)]
pub struct Backend {
    pub engine: Engine,
    pub swarm: Arc<dyn Swarm>,
    pub network: Arc<dyn NodeNetwork>,
    pub system: Arc<SystemInfo>,
}

/// Facts about this daemon that do not change while it runs.
#[derive(Debug, Clone, Default)]
pub struct SystemInfo {
    /// Stable id of this engine, kept in the data root.
    pub id: String,
    pub hostname: String,
    pub data_root: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// What tasks may reserve here besides CPU and memory: counts and names by kind.
    pub counted_resources: BTreeMap<String, i64>,
    pub named_resources: BTreeMap<String, BTreeSet<String>>,
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
    pub debug: bool,
}

/// This node's membership. The daemon implements it, since joining and leaving start
/// and stop whole roles.
#[async_trait]
pub trait Swarm: Send + Sync + 'static {
    /// Returns the node id. 503 `This node is already part of a swarm. ...`
    async fn init(&self, request: InitRequest) -> Result<NodeId>;
    async fn join(&self, request: JoinRequest) -> Result<()>;
    async fn leave(&self, force: bool) -> Result<()>;
    /// Unlocks this node's manager with the key that the user gives. 409 when it is not locked,
    /// 401 when it is not the key.
    async fn unlock(&self, _key: String) -> Result<()> {
        Err(Error::not_implemented("this node cannot be locked"))
    }
    /// The manager on this node, or 503 with the reference's text.
    fn control(&self) -> Result<Control>;
    fn status(&self) -> SwarmStatus;
}

/// This node's network daemon, for those who look and change nothing.
#[async_trait]
pub trait NodeNetwork: Send + Sync + 'static {
    /// What netd says of itself.
    async fn status(&self) -> Result<NetdStatus>;
    /// What differs between the kernel and what netd was told, a line each.
    async fn verify(&self) -> Result<Vec<String>>;
    /// The path of a service's packets on this node; the service by its id or name.
    async fn trace(&self, service: &str) -> Result<ServiceTrace>;
}

#[derive(Debug, Clone, Default)]
pub struct InitRequest {
    /// `0.0.0.0:2377` when empty.
    pub listen_addr: String,
    /// Address or interface, with or without port; empty asks for the only candidate.
    pub advertise_addr: String,
    pub data_path_addr: String,
    /// 0 is 4789.
    pub data_path_port: u16,
    pub default_addr_pool: Vec<IpNet>,
    /// 0 is 24.
    pub subnet_size: u8,
    pub availability: Availability,
    pub force_new_cluster: bool,
    pub spec: ClusterSpec,
    /// Make the swarm of a backup instead of a new one; `spec`, pools and ports are the backup's then.
    pub restore: Option<Restore>,
}

/// A backup, and the passphrase or unlock key it is sealed with.
#[derive(Clone)]
pub struct Restore {
    pub file: Vec<u8>,
    pub secret: String,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("bytes", &self.file.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Default)]
pub struct JoinRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    pub availability: Availability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalNodeState {
    #[default]
    Inactive,
    Pending,
    Active,
    Error,
    Locked,
}

/// `/info`'s Swarm section, without what the store knows.
#[derive(Debug, Clone, Default)]
pub struct SwarmStatus {
    pub state: LocalNodeState,
    pub node_id: NodeId,
    pub node_addr: String,
    pub control_available: bool,
    pub error: String,
    /// (node id, address)
    pub remote_managers: Vec<(NodeId, String)>,
}
