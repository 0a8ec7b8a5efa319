//! A container: what was asked for ([`ContainerConfig`], [`HostConfig`]), and what it is now.

use crate::id::{ContainerId, EndpointId, NetworkId};
use crate::network::{PortBinding, PortKey};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The portable half of a container's wish: what also lives in an image's config.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub exposed_ports: BTreeSet<PortKey>,
    pub tty: bool,
    pub open_stdin: bool,
    /// Close stdin when the first attached client goes away.
    pub stdin_once: bool,
    /// `KEY=value`; a bare `KEY` removes the image's value.
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// The reference as the user typed it.
    pub image: String,
    /// Mount points that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    /// Name or number; empty means the image's, else SIGTERM.
    pub stop_signal: String,
    /// Seconds between the stop signal and SIGKILL; `None` is 10.
    pub stop_timeout_s: Option<i64>,
    pub healthcheck: Option<HealthConfig>,
    pub shell: Option<Vec<String>>,
    pub on_build: Vec<String>,
    pub network_disabled: bool,
    pub mac_address: String,
}

/// A health probe. Zero durations and retries mean "inherit, else the default".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthConfig {
    /// `[]` inherits, `["NONE"]` disables, `["CMD", ...]` or `["CMD-SHELL", line]` probes.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

/// The half that depends on the machine it runs on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:target[:options]`, source a path or a volume name.
    pub binds: Vec<String>,
    pub mounts: Vec<Mount>,
    /// Stacked directories of this machine, shown as one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overlays: Vec<OverlayPoint>,
    /// Target to mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// `default`, `bridge`, `host`, `none`, `container:ID` or a network's name or id.
    pub network_mode: String,
    pub port_bindings: BTreeMap<PortKey, Vec<PortBinding>>,
    pub publish_all_ports: bool,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub group_add: Vec<String>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `name:ip`; `host-gateway` stands for the bridge's address.
    pub extra_hosts: Vec<String>,
    pub security_opt: Vec<String>,
    /// Bytes of /dev/shm; 0 is 64 MiB.
    pub shm_size: u64,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// Run a minimal init as PID 1; `None` is the daemon's default (off).
    pub init: Option<bool>,
    pub resources: Resources,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub ipc_mode: String,
    pub uts_mode: String,
    pub cgroupns_mode: String,
    pub userns_mode: String,
    pub log_config: LogConfig,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Vec<String>,
    pub cgroup_parent: String,
    pub volumes_from: Vec<String>,
    /// `None` is the default list; an empty list masks nothing.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub annotations: BTreeMap<String, String>,
    pub runtime: String,
    /// Height and width of the terminal at creation.
    pub console_size: (u16, u16),
}

/// Resource limits; zero means unlimited throughout.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub memory_bytes: i64,
    /// Memory plus swap; -1 is unlimited swap, 0 is twice the memory.
    pub memory_swap_bytes: i64,
    pub memory_reservation_bytes: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    pub cpu_shares: i64,
    pub cpu_period_us: i64,
    pub cpu_quota_us: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// -1 and 0 are unlimited.
    pub pids_limit: i64,
    pub oom_kill_disable: bool,
    pub blkio_weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    /// Any of `rwm`.
    pub cgroup_permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `json-file`, `none`, ...
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { driver: "json-file".into(), options: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    pub mode: RestartMode,
    /// Only for `OnFailure`; 0 is unlimited.
    pub maximum_retry_count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    #[default]
    Bind,
    Volume,
    Tmpfs,
}

/// One mount in the long form (`--mount`), also used by services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub kind: MountKind,
    /// Host path or volume name; empty makes an anonymous volume.
    pub source: String,
    pub target: String,
    pub readonly: bool,
    /// `rprivate` (default), `rshared`, `rslave`, ...
    pub propagation: String,
    pub volume_no_copy: bool,
    pub volume_labels: BTreeMap<String, String>,
    pub volume_driver: String,
    pub volume_options: BTreeMap<String, String>,
    pub volume_subpath: String,
    /// 0 is half of memory.
    pub tmpfs_size_bytes: u64,
    /// 0 is 1777.
    pub tmpfs_mode: u32,
}

/// Stacked directories, shown as one; the steps of builds have them. Only for kernels that
/// take layers one by one, and paths of at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OverlayPoint {
    /// Absolute path inside the container.
    pub target: String,
    /// Topmost first; at least two unless it is writable.
    pub lower: Vec<PathBuf>,
    /// Where changes go, and an empty directory beside; `None` is read-only.
    pub writable: Option<(PathBuf, PathBuf)>,
}

/// What the user wants of one network leg.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConfig {
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub ipv4_address: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub mac_address: String,
    pub driver_opts: BTreeMap<String, String>,
}

/// Everything `create` needs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Without the leading slash; empty lets the engine choose.
    pub name: String,
    pub config: ContainerConfig,
    pub host: HostConfig,
    /// Network name or id to the wishes for that leg.
    pub networks: BTreeMap<String, EndpointConfig>,
    /// In-memory files placed before start (secrets on tmpfs, configs). Never written to disk.
    #[serde(skip)]
    pub files: Vec<InjectedFile>,
}

/// A file given to a container by value.
#[derive(Clone, PartialEq, Eq)]
pub struct InjectedFile {
    /// Absolute path inside the container.
    pub target: String,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub data: Vec<u8>,
}

impl std::fmt::Debug for InjectedFile {
    // The content may be a secret: never print it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InjectedFile").field("target", &self.target).field("bytes", &self.data.len()).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl ContainerStatus {
    /// A process exists.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// `start` may be called.
    pub fn can_start(self) -> bool {
        matches!(self, Self::Created | Self::Exited)
    }

    /// Lower-case word as the API prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// Newest last, at most five.
    pub log: Vec<HealthProbe>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthProbe {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    pub output: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub status: ContainerStatus,
    pub oom_killed: bool,
    /// 0 when not running.
    pub pid: u32,
    pub exit_code: i32,
    pub error: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub health: Option<Health>,
}

/// A mount as it is, for `inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPoint {
    pub kind: MountKind,
    /// Volume name, else empty.
    pub name: String,
    pub source: String,
    pub destination: String,
    pub driver: String,
    /// Option string as given (`z`, `ro`, ...).
    pub mode: String,
    pub rw: bool,
    pub propagation: String,
}

/// One network leg as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointInfo {
    pub network_id: NetworkId,
    pub endpoint_id: EndpointId,
    pub gateway: Option<IpAddr>,
    pub ip_address: Option<IpAddr>,
    pub ip_prefix_len: u8,
    pub ipv6_gateway: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub ipv6_prefix_len: u8,
    pub mac_address: String,
    /// What the user asked for on this leg.
    pub config: EndpointConfig,
    /// Names that resolve to this leg on its network.
    pub dns_names: Vec<String>,
}

/// All that is known of a container; the engine's answer to `inspect`, and its record on disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerInfo {
    pub id: ContainerId,
    /// Without the leading slash.
    pub name: String,
    pub created: Timestamp,
    /// Resolved executable and arguments.
    pub path: String,
    pub args: Vec<String>,
    pub state: ContainerState,
    /// `sha256:...` of the image config.
    pub image_id: String,
    pub config: ContainerConfig,
    pub host: HostConfig,
    pub mounts: Vec<MountPoint>,
    /// Network name to leg.
    pub endpoints: BTreeMap<String, EndpointInfo>,
    /// Published ports that are really bound while running.
    pub ports: BTreeMap<PortKey, Vec<PortBinding>>,
    pub log_path: String,
    pub hostname_path: String,
    pub hosts_path: String,
    pub resolv_conf_path: String,
    pub sandbox_key: String,
    pub restart_count: u32,
    /// The last stop was asked for by a user, so `unless-stopped` does not restart it.
    pub manually_stopped: bool,
    pub exec_ids: Vec<String>,
    /// overlayfs directories: lower (joined with `:`), merged, upper, work.
    pub lower_dir: String,
    pub merged_dir: String,
    pub upper_dir: String,
    pub work_dir: String,
}

/// What `exec` runs inside a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub privileged: bool,
    pub detach_keys: String,
    pub console_size: (u16, u16),
}

/// An exec as `GET /exec/ID/json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecInfo {
    pub id: String,
    pub container_id: ContainerId,
    pub config: ExecConfig,
    pub running: bool,
    /// `None` until it ended.
    pub exit_code: Option<i32>,
    pub pid: u32,
    pub can_remove: bool,
}
