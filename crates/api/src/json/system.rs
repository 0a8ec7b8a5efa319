//! `/version`, `/info` and `/auth`.

use super::container::STORAGE_DRIVER;
use super::swarm::ClusterInfo;
use crate::backend::{LocalNodeState, SwarmStatus, SystemInfo};
use crate::version::{API_VERSION, API_VERSION_MIN, SERVER_VERSION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_model::Timestamp;
use skep_model::image::host_architecture;
use std::collections::BTreeMap;
use std::path::Path;

/// What the machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) os_name: String,
    pub(crate) os_version: String,
    pub(crate) cpu_count: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) cgroup_version: u8,
    pub(crate) ipv4_forwarding: bool,
    pub(crate) swap_accounting: bool,
}

impl Machine {
    /// Reads /proc, /sys and /etc/os-release; what cannot be read stays empty.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cgroup_version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 };
        let (os_name, os_version) = parse_os_release(&text("/etc/os-release"));
        Self {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            os_name,
            os_version,
            cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: parse_memory_total(&text("/proc/meminfo")),
            cgroup_version,
            ipv4_forwarding: text("/proc/sys/net/ipv4/ip_forward").trim() == "1",
            swap_accounting: cgroup_version == 2
                || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        }
    }
}

fn parse_os_release(text: &str) -> (String, String) {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let name = value("PRETTY_NAME");
    (if name.is_empty() { "Linux".into() } else { name }, value("VERSION_ID"))
}

fn parse_memory_total(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Version {
    platform: Value,
    components: Vec<Component>,
    version: &'static str,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    git_commit: &'static str,
    go_version: &'static str,
    os: &'static str,
    arch: &'static str,
    kernel_version: String,
    build_time: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: &'static str,
    version: &'static str,
    details: BTreeMap<&'static str, String>,
}

impl Version {
    pub(crate) fn of(machine: &Machine) -> Self {
        let details = [
            ("ApiVersion", API_VERSION.to_string()),
            ("Arch", host_architecture().to_owned()),
            ("BuildTime", String::new()),
            ("Experimental", "false".to_owned()),
            ("GitCommit", String::new()),
            ("GoVersion", String::new()),
            ("KernelVersion", machine.kernel.clone()),
            ("MinAPIVersion", API_VERSION_MIN.to_string()),
            ("Os", "linux".to_owned()),
        ];
        let engine = Component { name: "Engine", version: SERVER_VERSION, details: details.into_iter().collect() };
        Self {
            platform: json!({ "Name": concat!("skep ", env!("CARGO_PKG_VERSION")) }),
            components: vec![engine],
            version: SERVER_VERSION,
            api_version: API_VERSION.to_string(),
            min_api_version: API_VERSION_MIN.to_string(),
            git_commit: "",
            go_version: "",
            os: "linux",
            arch: host_architecture(),
            kernel_version: machine.kernel.clone(),
            build_time: "",
        }
    }
}

/// How many containers are in which state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) running: usize,
    pub(crate) paused: usize,
    pub(crate) stopped: usize,
    pub(crate) images: usize,
}

/// The Swarm section, with what only a manager's store knows.
#[derive(Debug, Default)]
pub(crate) struct SwarmSection {
    pub(crate) status: SwarmStatus,
    pub(crate) cluster: Option<ClusterInfo>,
    pub(crate) nodes: usize,
    pub(crate) managers: usize,
}

/// Everything `/info` is made of.
pub(crate) struct InfoFacts<'a> {
    pub(crate) system: &'a SystemInfo,
    pub(crate) machine: &'a Machine,
    pub(crate) counts: Counts,
    pub(crate) swarm: SwarmSection,
    /// Which load balancer netd runs, or why that is not known.
    pub(crate) balancer: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) now: Timestamp,
}

/// `/info`, in Docker's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Info {
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'static str,
    driver_status: Vec<(String, String)>,
    plugins: Value,
    memory_limit: bool,
    swap_limit: bool,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    debug: bool,
    n_fd: usize,
    oom_kill_disable: bool,
    n_goroutines: usize,
    system_time: String,
    logging_driver: &'static str,
    cgroup_driver: &'static str,
    cgroup_version: String,
    n_events_listener: usize,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSVersion")]
    os_version: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: &'static str,
    index_server_address: &'static str,
    registry_config: Value,
    #[serde(rename = "NCPU")]
    ncpu: usize,
    mem_total: u64,
    generic_resources: Option<()>,
    docker_root_dir: String,
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    name: String,
    labels: Vec<String>,
    experimental_build: bool,
    server_version: &'static str,
    runtimes: Value,
    default_runtime: &'static str,
    swarm: Swarm,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: Value,
    runc_commit: Value,
    init_commit: Value,
    security_options: Vec<&'static str>,
    #[serde(rename = "CDISpecDirs")]
    cdi_spec_dirs: Vec<String>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Swarm {
    #[serde(rename = "NodeID")]
    node_id: String,
    node_addr: String,
    local_node_state: &'static str,
    control_available: bool,
    error: String,
    remote_managers: Option<Vec<Peer>>,
    #[serde(skip_serializing_if = "super::zero")]
    nodes: usize,
    #[serde(skip_serializing_if = "super::zero")]
    managers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterInfo>,
}

#[derive(Debug, Serialize)]
struct Peer {
    #[serde(rename = "NodeID")]
    node_id: String,
    #[serde(rename = "Addr")]
    addr: String,
}

impl Info {
    pub(crate) fn of(facts: InfoFacts<'_>) -> Self {
        let InfoFacts { system, machine, counts, swarm, balancer, warnings, now } = facts;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let commit = || json!({ "ID": env!("CARGO_PKG_VERSION") });
        let v1 = machine.cgroup_version == 1;
        let security: &[&str] =
            if v1 { &["name=seccomp,profile=builtin"] } else { &["name=seccomp,profile=builtin", "name=cgroupns"] };
        Self {
            id: system.id.clone(),
            containers: counts.running + counts.paused + counts.stopped,
            containers_running: counts.running,
            containers_paused: counts.paused,
            containers_stopped: counts.stopped,
            images: counts.images,
            driver: STORAGE_DRIVER,
            driver_status: vec![pair("Supports d_type", "true"), pair("Load Balancer", &balancer)],
            plugins: json!({
                "Volume": ["local"], "Network": ["bridge", "host", "null", "overlay"], "Authorization": null,
                "Log": skep_engine::container::LOG_DRIVERS
            }),
            memory_limit: true,
            swap_limit: machine.swap_accounting,
            cpu_cfs_period: true,
            cpu_cfs_quota: true,
            cpu_shares: true,
            cpu_set: true,
            pids_limit: true,
            ipv4_forwarding: machine.ipv4_forwarding,
            debug: system.debug,
            n_fd: 0,
            oom_kill_disable: v1,
            n_goroutines: 0,
            system_time: now.to_rfc3339(),
            logging_driver: "json-file",
            cgroup_driver: "cgroupfs",
            cgroup_version: machine.cgroup_version.to_string(),
            n_events_listener: 0,
            kernel_version: machine.kernel.clone(),
            operating_system: machine.os_name.clone(),
            os_version: machine.os_version.clone(),
            os_type: "linux",
            architecture: std::env::consts::ARCH,
            index_server_address: "https://index.docker.io/v1/",
            registry_config: registry_config(system),
            ncpu: machine.cpu_count,
            mem_total: machine.memory_bytes,
            generic_resources: None,
            docker_root_dir: system.data_root.display().to_string(),
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: String::new(),
            name: system.hostname.clone(),
            labels: system.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            experimental_build: false,
            server_version: SERVER_VERSION,
            runtimes: json!({ "skep": { "path": "skep" } }),
            default_runtime: "skep",
            swarm: Swarm::of(swarm),
            // Containers always outlive the daemon.
            live_restore_enabled: true,
            isolation: "",
            init_binary: "skep",
            containerd_commit: commit(),
            runc_commit: commit(),
            init_commit: commit(),
            security_options: security.to_vec(),
            cdi_spec_dirs: vec![],
            warnings: super::list_or_null(warnings),
        }
    }
}

impl Swarm {
    fn of(section: SwarmSection) -> Self {
        let SwarmSection { status, cluster, nodes, managers } = section;
        let peers = status.remote_managers.into_iter();
        let peers = peers.map(|(node_id, addr)| Peer { node_id: node_id.to_string(), addr });
        Self {
            node_id: status.node_id.to_string(),
            node_addr: status.node_addr,
            local_node_state: state_word(status.state),
            control_available: status.control_available,
            error: status.error,
            remote_managers: super::list_or_null(peers.collect()),
            nodes,
            managers,
            cluster,
        }
    }
}

pub(crate) fn state_word(state: LocalNodeState) -> &'static str {
    match state {
        LocalNodeState::Inactive => "inactive",
        LocalNodeState::Pending => "pending",
        LocalNodeState::Active => "active",
        LocalNodeState::Error => "error",
        LocalNodeState::Locked => "locked",
    }
}

/// The `Swarm` header of `/_ping`, by which clients show or hide commands.
pub(crate) fn swarm_header(status: &SwarmStatus) -> &'static str {
    match (status.state, status.control_available) {
        (LocalNodeState::Active, true) => "active/manager",
        (LocalNodeState::Active, false) => "active/worker",
        (state, _) => state_word(state),
    }
}

fn registry_config(system: &SystemInfo) -> Value {
    let (mut cidrs, mut indexes) = (vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()], serde_json::Map::new());
    for registry in &system.insecure_registries {
        if registry.parse::<ipnet::IpNet>().is_ok() {
            cidrs.push(registry.clone());
        } else {
            let index = json!({ "Name": registry, "Mirrors": [], "Secure": false, "Official": false });
            indexes.insert(registry.clone(), index);
        }
    }
    let mirrors = &system.registry_mirrors;
    let hub = json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true });
    indexes.insert("docker.io".into(), hub);
    json!({ "InsecureRegistryCIDRs": cidrs, "IndexConfigs": indexes, "Mirrors": mirrors })
}

/// Body of `/auth`. No `Debug`: it holds a password.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthBody {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) identitytoken: Option<String>,
    pub(crate) serveraddress: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_machine_are_parsed() {
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n";
        assert_eq!(parse_os_release(text), ("Debian GNU/Linux 12 (bookworm)".into(), "12".into()));
        assert_eq!(parse_os_release(""), ("Linux".into(), String::new()));
        assert_eq!(parse_memory_total("MemTotal:       24684092 kB\nMemFree: 1 kB\n"), 24_684_092 * 1024);
        assert_eq!(parse_memory_total("x"), 0);
        assert!(Machine::read().memory_bytes > 0);
    }

    fn facts<'a>(system: &'a SystemInfo, machine: &'a Machine, swarm: SwarmSection) -> InfoFacts<'a> {
        let counts = Counts { running: 2, paused: 0, stopped: 1, images: 3 };
        let balancer = "nftables".to_owned();
        InfoFacts { system, machine, counts, swarm, balancer, warnings: vec![], now: Timestamp(1) }
    }

    #[test]
    fn info_says_what_the_cli_prints() {
        let system = SystemInfo {
            insecure_registries: vec!["10.0.0.0/8".into(), "r:5000".into()],
            labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            ..SystemInfo::default()
        };
        let machine = Machine { cgroup_version: 1, ..Machine::default() };
        let wire = serde_json::to_value(Info::of(facts(&system, &machine, SwarmSection::default()))).unwrap();
        assert_eq!((&wire["Containers"], &wire["NCPU"], &wire["CgroupVersion"]), (&json!(3), &json!(0), &json!("1")));
        assert!(wire["DriverStatus"].as_array().unwrap().contains(&json!(["Load Balancer", "nftables"])));
        assert_eq!(wire["RegistryConfig"]["IndexConfigs"]["r:5000"]["Secure"], json!(false));
        assert_eq!(wire["RegistryConfig"]["InsecureRegistryCIDRs"][2], "10.0.0.0/8");
        assert_eq!(wire["Labels"], json!(["disk=ssd"]));
        assert_eq!(
            wire["Swarm"],
            json!({"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
                   "RemoteManagers": null})
        );
        assert_eq!(wire["Warnings"], json!(null));
    }

    #[test]
    fn the_ping_header_tells_the_role() {
        let status = |state, control_available| SwarmStatus { state, control_available, ..SwarmStatus::default() };
        assert_eq!(swarm_header(&status(LocalNodeState::Active, true)), "active/manager");
        assert_eq!(swarm_header(&status(LocalNodeState::Active, false)), "active/worker");
        assert_eq!(swarm_header(&status(LocalNodeState::Locked, false)), "locked");
    }

    #[test]
    fn version_names_the_engine_component() {
        let wire = serde_json::to_value(Version::of(&Machine::default())).unwrap();
        assert_eq!((&wire["ApiVersion"], &wire["MinAPIVersion"]), (&json!("1.50"), &json!("1.24")));
        assert_eq!(wire["Components"][0]["Name"], "Engine");
    }
}
