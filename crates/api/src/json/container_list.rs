//! `GET /containers/json`: which containers, and how they are summed up.

use super::container::health_word;
use super::endpoint::EndpointSettings;
use super::mount::MountPoint;
use super::{human_duration, zero};
use crate::filters::Filters;
use serde::Serialize;
use skep_model::container::{ContainerInfo, ContainerStatus, HealthStatus};
use skep_model::image::ImageInfo;
use skep_model::network::{PortBinding, PortKey};
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys the list knows.
pub(crate) const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATUSES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
/// Containers of swarm tasks carry it.
const TASK_LABEL: &str = "com.docker.swarm.task";

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    id: String,
    names: Vec<String>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "zero")]
    size_rw: u64,
    #[serde(skip_serializing_if = "zero")]
    size_root_fs: u64,
    labels: BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: SummaryHost,
    network_settings: SummaryNetworks,
    mounts: Vec<MountPoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHost {
    network_mode: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks {
    networks: BTreeMap<String, EndpointSettings>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", skip_serializing_if = "zero")]
    ip: String,
    private_port: u16,
    #[serde(skip_serializing_if = "zero")]
    public_port: u16,
    #[serde(rename = "Type")]
    kind: &'static str,
}

impl Summary {
    pub(crate) fn of(info: &ContainerInfo, size: Option<(u64, u64)>, now: Timestamp) -> Self {
        let (size_rw, size_root_fs) = size.unwrap_or_default();
        let mode = &info.host.network_mode;
        Self {
            id: info.id.to_string(),
            names: vec![format!("/{}", info.name)],
            image: info.config.image.clone(),
            image_id: info.image_id.clone(),
            command: command(info),
            created: info.created.as_secs(),
            ports: ports(info),
            size_rw,
            size_root_fs,
            labels: info.config.labels.clone(),
            state: info.state.status.as_str(),
            status: status_text(info, now),
            host_config: SummaryHost { network_mode: if mode.is_empty() { "default".into() } else { mode.clone() } },
            network_settings: SummaryNetworks {
                networks: info.endpoints.iter().map(|(name, leg)| (name.clone(), EndpointSettings::of(leg))).collect(),
            },
            mounts: info.mounts.iter().map(MountPoint::of).collect(),
        }
    }
}

/// The command line; words with spaces are quoted.
fn command(info: &ContainerInfo) -> String {
    let quoted = info.args.iter().map(|arg| if arg.contains(' ') { format!("'{arg}'") } else { arg.clone() });
    std::iter::once(info.path.clone()).chain(quoted).collect::<Vec<_>>().join(" ")
}

fn ports(info: &ContainerInfo) -> Vec<Port> {
    if !info.state.status.is_running() {
        return vec![];
    }
    let exposed =
        |key: &PortKey| Port { ip: String::new(), private_port: key.port, public_port: 0, kind: key.protocol.as_str() };
    let bound = |key: &PortKey, binding: &PortBinding| Port {
        ip: binding.host_ip.map_or_else(|| "0.0.0.0".into(), |ip| ip.to_string()),
        public_port: binding.host_port,
        ..exposed(key)
    };
    let only_exposed = info.config.exposed_ports.iter().filter(|key| !info.ports.contains_key(key)).map(exposed);
    let published = info.ports.iter().flat_map(|(key, list)| list.iter().map(|binding| bound(key, binding)));
    let mut all: Vec<Port> = only_exposed.chain(published).collect();
    all.sort();
    all
}

/// `Up 2 minutes (healthy)`, `Exited (0) 3 hours ago`, ...
pub(crate) fn status_text(info: &ContainerInfo, now: Timestamp) -> String {
    let state = &info.state;
    let since = |at: Timestamp| human_duration(now.since(at));
    match state.status {
        ContainerStatus::Created => "Created".into(),
        ContainerStatus::Running => {
            let health = match state.health.as_ref().map(|health| health.status) {
                None | Some(HealthStatus::None) => String::new(),
                Some(HealthStatus::Starting) => " (health: starting)".into(),
                Some(other) => format!(" ({})", health_word(other)),
            };
            format!("Up {}{health}", since(state.started_at))
        }
        ContainerStatus::Paused => format!("Up {} (Paused)", since(state.started_at)),
        ContainerStatus::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        ContainerStatus::Removing => "Removal In Progress".into(),
        ContainerStatus::Dead => "Dead".into(),
        ContainerStatus::Exited if !state.finished_at.is_set() => "Created".into(),
        ContainerStatus::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

/// What a list asks for.
#[derive(Debug, Default)]
pub(crate) struct ListRequest {
    pub(crate) all: bool,
    pub(crate) limit: Option<usize>,
    pub(crate) filters: Filters,
}

/// Picks from `containers`, newest first. `image_of` resolves an ancestor's name.
///
/// # Errors
/// Filter values that mean nothing, or name a container that does not exist.
pub(crate) fn select(
    containers: &[Arc<ContainerInfo>],
    request: &ListRequest,
    image_of: impl Fn(&str) -> Option<ImageInfo>,
) -> Result<Vec<Arc<ContainerInfo>>> {
    let filters = &request.filters;
    check_values(filters)?;
    let bound = |key: &str| filters.values(key).next().map(|name| find(containers, name)).transpose();
    let (before, since) = (bound("before")?, bound("since")?);
    let ancestors: Vec<String> =
        filters.values("ancestor").filter_map(|name| image_of(name).map(|image| image.id)).collect();
    let is_task = filters.boolean("is-task")?;
    let all = request.all
        || request.limit.is_some()
        || ["status", "exited", "before", "since"].iter().any(|key| filters.has(key));
    let chosen = containers.iter().filter(|info| {
        (all || info.state.status.is_running())
            && before.as_ref().is_none_or(|other| info.created < other.created)
            && since.as_ref().is_none_or(|other| info.created > other.created)
            && (!filters.has("ancestor") || ancestors.contains(&info.image_id))
            && is_task.is_none_or(|wanted| info.config.labels.contains_key(TASK_LABEL) == wanted)
            && matches(info, filters)
    });
    Ok(chosen.take(request.limit.unwrap_or(usize::MAX)).cloned().collect())
}

fn check_values(filters: &Filters) -> Result<()> {
    for status in filters.values("status") {
        if !STATUSES.contains(&status) {
            return Err(Error::invalid(format!(
                "invalid value for status filter ({status}): must be one of {}",
                STATUSES.join(", ")
            )));
        }
    }
    for health in filters.values("health") {
        if !matches!(health, "none" | "starting" | "healthy" | "unhealthy") {
            return Err(Error::invalid(format!(
                "invalid value for health filter ({health}): must be one of none, starting, unhealthy, healthy"
            )));
        }
    }
    for code in filters.values("exited") {
        code.parse::<i32>().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}'")))?;
    }
    for key in ["publish", "expose"] {
        for value in filters.values(key) {
            port_range(value)?;
        }
    }
    Ok(())
}

fn find<'a>(containers: &'a [Arc<ContainerInfo>], name: &str) -> Result<&'a Arc<ContainerInfo>> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let by_name = containers.iter().find(|info| info.name == bare || info.id.as_str() == bare);
    by_name
        .or_else(|| containers.iter().find(|info| !bare.is_empty() && info.id.as_str().starts_with(bare)))
        .ok_or_else(|| Error::not_found(format!("No such container: {name}")))
}

fn matches(info: &ContainerInfo, filters: &Filters) -> bool {
    let health = info.state.health.as_ref().map_or(HealthStatus::None, |health| health.status);
    let exited = info.state.status == ContainerStatus::Exited && info.state.finished_at.is_set();
    filters.any("name", |wanted| {
        let one = Filters::single("name", wanted);
        one.pattern("name", &format!("/{}", info.name)) || one.pattern("name", &info.name)
    }) && filters.prefix("id", info.id.as_str())
        && filters.labels("label", &info.config.labels)
        && filters.exact("status", info.state.status.as_str())
        && filters.exact("health", health_word(health))
        && filters.any("exited", |code| exited && code.parse() == Ok(info.state.exit_code))
        && filters.any("network", |wanted| {
            info.endpoints.iter().any(|(name, leg)| name == wanted || leg.network_id.as_str() == wanted)
        })
        && filters.any("volume", |wanted| {
            info.mounts
                .iter()
                .any(|mount| mount.name == wanted || mount.destination == wanted || mount.source == wanted)
        })
        && filters.any("publish", |wanted| {
            info.ports.iter().filter(|(_, list)| !list.is_empty()).any(|(key, list)| {
                in_range(wanted, key.port, key.protocol.as_str())
                    || list.iter().any(|binding| in_range(wanted, binding.host_port, key.protocol.as_str()))
            })
        })
        && filters.any("expose", |wanted| {
            info.config.exposed_ports.iter().any(|key| in_range(wanted, key.port, key.protocol.as_str()))
        })
        && filters.any("isolation", |wanted| matches!(wanted, "" | "default"))
}

/// First and last port and protocol of `80`, `80-90` or `80/udp`.
fn port_range(text: &str) -> Result<(u16, u16, &str)> {
    let bad = || Error::invalid(format!("invalid port specification: \"{text}\""));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last { Err(bad()) } else { Ok((first, last, protocol)) }
}

fn in_range(wanted: &str, port: u16, protocol: &str) -> bool {
    port_range(wanted).is_ok_and(|(first, last, p)| p == protocol && (first..=last).contains(&port))
}

#[cfg(test)]
#[path = "container_list_tests.rs"]
mod tests;
