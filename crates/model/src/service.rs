//! Services: what should run, how many, where and how it changes.

use crate::cluster::Meta;
use crate::container::{HealthConfig, Mount, Ulimit};
use crate::id::{ConfigId, NetworkId, SecretId, ServiceId};
use crate::network::{NetworkSpec, Protocol};
use crate::node::Platform;
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub task: TaskSpec,
    pub mode: ServiceMode,
    pub update: Option<UpdateConfig>,
    pub rollback: Option<UpdateConfig>,
    pub endpoint: EndpointSpec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceMode {
    Replicated { replicas: u64 },
    Global,
    ReplicatedJob { max_concurrent: u64, total_completions: u64 },
    GlobalJob,
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

impl ServiceMode {
    /// Its tasks are to end, not to stay.
    pub fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob { .. } | Self::GlobalJob)
    }

    /// One task per node that may have one, instead of numbered slots.
    pub fn is_per_node(self) -> bool {
        matches!(self, Self::Global | Self::GlobalJob)
    }
}

/// How often a job was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Raised by every update: all tasks run again. Tasks carry it.
    pub iteration: u64,
    pub last_execution: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// Slots changed at a time; 0 is all.
    pub parallelism: u64,
    pub delay: Duration,
    pub failure_action: FailureAction,
    pub monitor: Duration,
    pub max_failure_ratio: f32,
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    #[default]
    Vip,
    DnsRr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node, balanced over all tasks.
    #[default]
    Ingress,
    /// On the task's own node only.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortConfig {
    pub name: String,
    pub protocol: Protocol,
    pub target_port: u16,
    /// 0 in a spec lets the swarm choose from 30000-32767.
    pub published_port: u16,
    pub publish_mode: PublishMode,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    pub mode: EndpointMode,
    pub ports: Vec<PortConfig>,
}

/// What the allocator gave a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceEndpoint {
    /// The spec this was allocated for.
    pub spec: EndpointSpec,
    /// With published ports filled in.
    pub ports: Vec<PortConfig>,
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    pub network: NetworkId,
    pub address: IpNet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    #[default]
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started_at: Timestamp,
    pub completed_at: Timestamp,
    pub message: String,
}

/// A service as stored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub id: ServiceId,
    pub meta: Meta,
    pub spec: ServiceSpec,
    /// Store version at which `spec.task` or `spec.endpoint` last changed; tasks carry it.
    pub spec_version: u64,
    pub previous_spec: Option<Box<ServiceSpec>>,
    pub endpoint: ServiceEndpoint,
    pub update_status: Option<UpdateStatus>,
    /// Set for jobs only.
    pub job_status: Option<JobStatus>,
    /// Removal was asked for; goes once its tasks are down.
    pub pending_delete: bool,
    /// Restarts made per slot (or node, for global), with their times: the facts
    /// that `max_attempts` and `window` count, kept over a change of leader.
    pub restarts: BTreeMap<String, Vec<Timestamp>>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSpec {
    pub container: TaskContainer,
    pub resources: TaskResources,
    pub restart: RestartConfig,
    pub placement: Placement,
    pub networks: Vec<NetworkAttachmentConfig>,
    /// Driver name and options; `None` is the node's default.
    pub log_driver: Option<(String, BTreeMap<String, String>)>,
    /// Raised to replace every task without any other change.
    pub force_update: u64,
}

/// The container of a task: the fields a service may set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskContainer {
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub hostname: String,
    pub env: Vec<String>,
    pub dir: String,
    pub user: String,
    pub groups: Vec<String>,
    pub init: Option<bool>,
    pub stop_signal: String,
    /// `None` is 10 s.
    pub stop_grace_period: Option<Duration>,
    pub tty: bool,
    pub open_stdin: bool,
    pub read_only: bool,
    pub mounts: Vec<Mount>,
    pub healthcheck: Option<HealthConfig>,
    /// `ip name...`
    pub hosts: Vec<String>,
    pub dns_nameservers: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub secrets: Vec<SecretReference>,
    pub configs: Vec<ConfigReference>,
    pub sysctls: BTreeMap<String, String>,
    pub capability_add: Vec<String>,
    pub capability_drop: Vec<String>,
    pub ulimits: Vec<Ulimit>,
    pub oom_score_adj: i32,
    /// As `--security-opt` says it.
    pub security_opt: Vec<String>,
    /// How nodes log in to pull the image; nothing else of the task depends on it.
    pub pull_auth: PullAuth,
}

/// Credentials for an image's registry. They live in the replicated store and in agents'
/// memory, and are in no answer and no error. Two are always equal: a service whose
/// password changed is the same service, and its tasks go on.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PullAuth {
    pub username: String,
    pub password: String,
    /// In place of a password.
    pub identity_token: String,
}

impl PullAuth {
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.password.is_empty() && self.identity_token.is_empty()
    }
}

impl PartialEq for PullAuth {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for PullAuth {}

impl std::fmt::Debug for PullAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PullAuth { .. }")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileTarget {
    /// Relative names go below /run/secrets (secrets) or / (configs).
    pub name: String,
    pub uid: String,
    pub gid: String,
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretReference {
    pub secret_id: SecretId,
    pub secret_name: String,
    pub file: FileTarget,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReference {
    pub config_id: ConfigId,
    pub config_name: String,
    pub file: FileTarget,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskResources {
    pub limit_nano_cpus: i64,
    pub limit_memory_bytes: i64,
    pub limit_pids: i64,
    pub reserve_nano_cpus: i64,
    pub reserve_memory_bytes: i64,
    pub reserve_generic: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartConfig {
    pub condition: RestartCondition,
    pub delay: Duration,
    /// 0 is unlimited.
    pub max_attempts: u64,
    /// Attempts older than this do not count; zero counts all.
    pub window: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// `node.labels.disk == ssd`
    pub constraints: Vec<String>,
    /// Labels to spread over, in order (`node.labels.zone`).
    pub spread: Vec<String>,
    /// 0 is unlimited.
    pub max_replicas_per_node: u64,
    pub platforms: Vec<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAttachmentConfig {
    /// Network id once stored; name or id in a request.
    pub target: String,
    pub aliases: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
}

/// A network of the swarm as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetwork {
    pub id: NetworkId,
    pub meta: Meta,
    /// With subnet and gateway filled in once allocated.
    pub spec: NetworkSpec,
    /// 0 until allocated, then from 4096.
    pub vni: u32,
    /// A driver that every node has by itself (`host`, `bridge`): nothing is allocated.
    pub node_local: bool,
    pub pending_delete: bool,
    /// Serial allocation: the last address handed out, so that one just freed is not reused at once.
    pub last_address: Option<std::net::IpAddr>,
    /// The same for IPv6.
    pub last_address_ipv6: Option<std::net::IpAddr>,
}
