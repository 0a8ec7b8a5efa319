//! Containers: the create body and `inspect`.

use super::config::Config;
use super::endpoint::EndpointSettings;
use super::host_config::{HostConfig, PortBinding, write_bindings};
use super::mount::MountPoint;
use super::wire;
use crate::version::ApiVersion;
use serde::{Deserialize, Serialize};
use skep_model::container::{
    ContainerInfo, ContainerSpec, ContainerStatus, EndpointConfig, HealthStatus, RestartPolicy,
};
use skep_model::network::PortKey;
use skep_model::{Error, Result};
use std::collections::BTreeMap;

/// The network that containers get when they ask for none.
const DEFAULT_NETWORK: &str = "bridge";
/// Name of the storage driver that clients know for stacked overlay mounts.
pub(crate) const STORAGE_DRIVER: &str = "overlayfs";

/// Body of `create`: a `Config` with two siblings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CreateBody {
    #[serde(flatten)]
    pub(crate) config: Config,
    #[serde(rename = "HostConfig", deserialize_with = "super::null_is_default")]
    pub(crate) host_config: HostConfig,
    #[serde(rename = "NetworkingConfig", deserialize_with = "super::null_is_default")]
    pub(crate) networking: NetworkingConfig,
}

wire!(
    NetworkingConfig {
        // A network may be named with no wishes at all: `null`.
        endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
    }
);

impl CreateBody {
    /// The wish for the engine, and warnings about what was dropped.
    ///
    /// # Errors
    /// The first field that is malformed or unsupported.
    pub(crate) fn into_spec(self, name: &str) -> Result<(ContainerSpec, Vec<String>)> {
        let mut warnings = Vec::new();
        let name = name.strip_prefix('/').unwrap_or(name);
        if !name.is_empty() {
            super::check_name("container", name)?;
        }
        let links = self.host_config.links.clone().unwrap_or_default();
        let config = self.config.into_model()?;
        if config.image.is_empty() {
            return Err(Error::invalid("config cannot be empty in order to create a container: no image was given"));
        }
        let host = self.host_config.into_model(&mut warnings)?;
        let mut networks = BTreeMap::new();
        for (network, settings) in self.networking.endpoints_config {
            networks.insert(network, settings.unwrap_or_default().into_model()?);
        }
        if !links.is_empty() {
            add_links(&host.network_mode, links, &mut networks)?;
        }
        Ok((ContainerSpec { name: name.into(), config, host, networks, files: vec![] }, warnings))
    }
}

/// Links of the host part belong to the leg of the container's own network.
fn add_links(mode: &str, links: Vec<String>, networks: &mut BTreeMap<String, EndpointConfig>) -> Result<()> {
    let network = match mode {
        "" | "default" => DEFAULT_NETWORK,
        "host" | "none" => {
            return Err(Error::invalid("conflicting options: host type networking can't be used with links"));
        }
        other if other.starts_with("container:") => {
            return Err(Error::invalid(
                "conflicting options: container type network can't be used with links. This would result in undefined \
                 behavior",
            ));
        }
        other => other,
    };
    networks.entry(network.to_owned()).or_default().links.extend(links);
    Ok(())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    pub(crate) id: String,
    pub(crate) warnings: Vec<String>,
}

/// Body of `update`: limits and restart policy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UpdateBody {
    #[serde(flatten)]
    limits: HostConfig,
    #[serde(rename = "RestartPolicy")]
    restart: Option<super::host_config::RestartPolicy>,
}

impl UpdateBody {
    pub(crate) fn into_model(mut self) -> Result<(skep_model::container::Resources, Option<RestartPolicy>)> {
        // An absent policy keeps what the container has; so does one without a name.
        let restart = self.restart.take().filter(|policy| !policy.name.is_empty());
        let mut warnings = vec![];
        let host = self.limits.into_model(&mut warnings)?;
        Ok((host.resources, restart.map(super::host_config::RestartPolicy::into_model).transpose()?))
    }
}

/// `GET /containers/ID/json`, in Docker's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: State,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'static str,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<MountPoint>,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: &'static str,
    failing_streak: u32,
    log: Vec<HealthProbe>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthProbe {
    start: String,
    end: String,
    exit_code: i32,
    output: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GraphDriver {
    pub(crate) data: BTreeMap<&'static str, String>,
    pub(crate) name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<()>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<()>,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: BTreeMap<String, EndpointSettings>,
}

impl Inspect {
    /// `size` are the bytes of the writable layer and of the whole root, where asked for.
    pub(crate) fn of(info: &ContainerInfo, size: Option<(u64, u64)>, version: ApiVersion) -> Self {
        Self {
            id: info.id.to_string(),
            created: info.created.to_rfc3339(),
            path: info.path.clone(),
            args: info.args.clone(),
            state: State::of(info),
            image: info.image_id.clone(),
            resolv_conf_path: info.resolv_conf_path.clone(),
            hostname_path: info.hostname_path.clone(),
            hosts_path: info.hosts_path.clone(),
            log_path: info.log_path.clone(),
            name: format!("/{}", info.name),
            restart_count: info.restart_count,
            driver: STORAGE_DRIVER,
            platform: "linux",
            mount_label: "",
            process_label: "",
            app_armor_profile: "",
            exec_ids: super::list_or_null(info.exec_ids.clone()),
            host_config: HostConfig::of(&info.host),
            graph_driver: graph_driver(info),
            size_rw: size.map(|(writable, _)| writable),
            size_root_fs: size.map(|(_, root)| root),
            mounts: info.mounts.iter().map(MountPoint::of).collect(),
            config: Config::of_container(&info.config),
            network_settings: NetworkSettings::of(info, version),
        }
    }
}

impl State {
    fn of(info: &ContainerInfo) -> Self {
        let state = &info.state;
        Self {
            status: state.status.as_str(),
            running: state.status.is_running(),
            paused: state.status == ContainerStatus::Paused,
            restarting: state.status == ContainerStatus::Restarting,
            oom_killed: state.oom_killed,
            dead: state.status == ContainerStatus::Dead,
            pid: state.pid,
            exit_code: state.exit_code,
            error: state.error.clone(),
            started_at: state.started_at.to_rfc3339(),
            finished_at: state.finished_at.to_rfc3339(),
            health: state.health.as_ref().map(|health| Health {
                status: health_word(health.status),
                failing_streak: health.failing_streak,
                log: health
                    .log
                    .iter()
                    .map(|probe| HealthProbe {
                        start: probe.start.to_rfc3339(),
                        end: probe.end.to_rfc3339(),
                        exit_code: probe.exit_code,
                        output: probe.output.clone(),
                    })
                    .collect(),
            }),
        }
    }
}

pub(crate) fn health_word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::None => "none",
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

fn graph_driver(info: &ContainerInfo) -> GraphDriver {
    let data = [
        ("ID", info.id.to_string()),
        ("LowerDir", info.lower_dir.clone()),
        ("MergedDir", info.merged_dir.clone()),
        ("UpperDir", info.upper_dir.clone()),
        ("WorkDir", info.work_dir.clone()),
    ];
    GraphDriver { data: data.into_iter().collect(), name: STORAGE_DRIVER }
}

impl NetworkSettings {
    fn of(info: &ContainerInfo, version: ApiVersion) -> Self {
        let networks: BTreeMap<String, EndpointSettings> = info
            .endpoints
            .iter()
            .map(|(name, leg)| {
                let mut settings = EndpointSettings::of(leg);
                if !version.at_least(44) {
                    settings.dns_names = None;
                }
                (name.clone(), settings)
            })
            .collect();
        // The top level repeats the leg on the default bridge.
        let first = networks.get(DEFAULT_NETWORK).cloned().unwrap_or_default();
        Self {
            bridge: "",
            sandbox_id: info.sandbox_key.rsplit('/').next().unwrap_or_default().to_owned(),
            sandbox_key: info.sandbox_key.clone(),
            ports: port_map(info),
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            endpoint_id: first.endpoint_id,
            gateway: first.gateway,
            global_ipv6_address: first.global_ipv6_address,
            global_ipv6_prefix_len: first.global_ipv6_prefix_len,
            ip_address: first.ip_address,
            ip_prefix_len: first.ip_prefix_len,
            ipv6_gateway: first.ipv6_gateway,
            mac_address: first.mac_address,
            networks,
        }
    }
}

/// Published ports, and `null` for those only exposed; empty while nothing runs.
fn port_map(info: &ContainerInfo) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    if !info.state.status.is_running() {
        return BTreeMap::new();
    }
    let exposed = info.config.exposed_ports.iter().map(|port: &PortKey| (port.to_string(), None));
    let bound = write_bindings(&info.ports, "0.0.0.0").into_iter().map(|(port, list)| (port, Some(list)));
    exposed.chain(bound).collect()
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
