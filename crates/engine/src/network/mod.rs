//! Local networks and the addresses of their endpoints. Records live in
//! `<data root>/network/networks.json`; the kernel's side is netd's.

mod create;
pub(crate) mod endpoints;
mod ipam;
mod live;
mod ports;
mod text;

use crate::config::EngineConfig;
use crate::container::inner::{Inner, new_id};
use crate::container::record::write_atomically;
use crate::container::registry::lock;
use crate::container::shim::now;
use ipam::Pool;
use ports::PortTable;
use skep_model::id::{ContainerId, NetworkId};
use skep_model::netstate::{DesiredNetwork, LocalNetState, NetworkKind, Subnet};
use skep_model::network::{IpamConfig, NetworkContainer, NetworkInfo, NetworkScope, NetworkSpec};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Networks that always exist and cannot be removed.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];
/// The bridge by which tasks reach the world and published ports reach tasks.
pub const GATEWAY_NETWORK: &str = "docker_gwbridge";
const DEFAULT_BRIDGE: &str = "docker0";
const DEFAULT_BRIDGE_NET: &str = "172.17.0.1/16";

const OPTION_BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const OPTION_INTER_CONTAINER: &str = "com.docker.network.bridge.enable_icc";
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(crate) const OPTION_MTU: &str = "com.docker.network.driver.mtu";

/// All networks known here.
#[derive(Debug)]
pub(crate) struct Networks {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    records: BTreeMap<NetworkId, NetworkInfo>,
    pools: BTreeMap<NetworkId, Vec<Pool>>,
    legs: BTreeMap<NetworkId, BTreeMap<ContainerId, NetworkContainer>>,
    ports: PortTable,
}

impl Networks {
    /// Reads the records; makes the predefined networks at first.
    pub(crate) fn open(config: &EngineConfig) -> Result<Self> {
        let path = config.data_root.join("network/networks.json");
        let records: Vec<NetworkInfo> = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Error::internal(format!("{}: {e}", path.display())))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let networks = Self { path, state: Mutex::default() };
        {
            let mut state = lock(&networks.state);
            for record in records {
                state.insert(record);
            }
            for name in PREDEFINED {
                if !state.records.values().any(|record| record.spec.name == name) {
                    state.insert(predefined(name, config)?);
                }
            }
            networks.save(&state)?;
        }
        Ok(networks)
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// By id, name or unique id prefix.
    pub(crate) fn find(&self, name: &str) -> Result<NetworkInfo> {
        self.lock().find(name)
    }

    pub(crate) fn list(&self) -> Vec<NetworkInfo> {
        let state = self.lock();
        state.records.keys().filter_map(|id| state.info(id)).collect()
    }

    /// Writes local networks down; those of the swarm come again from the manager.
    fn save(&self, state: &State) -> Result<()> {
        let local: Vec<&NetworkInfo> =
            state.records.values().filter(|record| record.scope == NetworkScope::Local).collect();
        let bytes = serde_json::to_vec(&local).map_err(|e| Error::internal(e.to_string()))?;
        write_atomically(&self.path, &bytes, true)
    }
}

impl State {
    pub(crate) fn find(&self, name: &str) -> Result<NetworkInfo> {
        let not_found = || Error::not_found(format!("network {name} not found"));
        if let Some(info) = self.info(&NetworkId(name.to_owned())) {
            return Ok(info);
        }
        if let Some(record) = self.records.values().find(|record| record.spec.name == name) {
            return self.info(&record.id).ok_or_else(not_found);
        }
        let mut found = self.records.keys().filter(|id| !name.is_empty() && id.0.starts_with(name));
        match (found.next(), found.next()) {
            (Some(id), None) => self.info(id).ok_or_else(not_found),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {name} is ambiguous (2 matches found based on ID prefix)")))
            }
            _ => Err(not_found()),
        }
    }

    /// The record with the legs of running containers.
    fn info(&self, id: &NetworkId) -> Option<NetworkInfo> {
        let mut info = self.records.get(id)?.clone();
        info.containers = self.legs.get(id).cloned().unwrap_or_default();
        Some(info)
    }

    fn insert(&mut self, record: NetworkInfo) {
        let pools = record.spec.ipam.iter().filter_map(pool_of).collect();
        self.pools.insert(record.id.clone(), pools);
        self.records.insert(record.id.clone(), record);
    }

    fn remove(&mut self, id: &NetworkId) {
        self.records.remove(id);
        self.pools.remove(id);
        self.legs.remove(id);
    }

    /// Subnets in use by any network.
    fn subnets(&self) -> Vec<ipnet::IpNet> {
        self.pools.values().flatten().map(Pool::net).collect()
    }
}

fn pool_of(config: &IpamConfig) -> Option<Pool> {
    let reserved = config.gateway.into_iter().chain(config.aux_addresses.values().copied());
    Some(Pool::new(config.subnet?, config.ip_range, reserved))
}

fn predefined(name: &str, config: &EngineConfig) -> Result<NetworkInfo> {
    let mut spec = NetworkSpec { name: name.to_owned(), ipam_driver: "default".into(), ..NetworkSpec::default() };
    let mut bridge = String::new();
    if name == "bridge" {
        let default = || DEFAULT_BRIDGE_NET.parse().map_err(|_| Error::internal("default bridge address"));
        let address: ipnet::IpNet = config.bridge_address.map_or_else(default, Ok)?;
        bridge = DEFAULT_BRIDGE.to_owned();
        spec.driver = "bridge".into();
        spec.ipam = vec![IpamConfig {
            subnet: Some(address.trunc()),
            ip_range: None,
            gateway: Some(address.addr()),
            aux_addresses: BTreeMap::new(),
        }];
        for (key, value) in [
            ("com.docker.network.bridge.default_bridge", "true"),
            (OPTION_INTER_CONTAINER, "true"),
            (OPTION_MASQUERADE, "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            (OPTION_BRIDGE_NAME, DEFAULT_BRIDGE),
            (OPTION_MTU, "1500"),
        ] {
            spec.options.insert(key.into(), value.into());
        }
    } else {
        spec.driver = if name == "none" { "null".into() } else { name.to_owned() };
    }
    Ok(NetworkInfo { id: NetworkId(new_id()), created: now(), spec, bridge, ..NetworkInfo::default() })
}

/// What netd is to make of a network; `None` where there is nothing to make here.
pub(crate) fn desired(info: &NetworkInfo) -> Option<DesiredNetwork> {
    if info.scope != NetworkScope::Local || info.spec.driver != "bridge" {
        return None;
    }
    let option = |key: &str| info.spec.options.get(key).map(String::as_str);
    let enabled = |key: &str| !matches!(option(key), Some("false" | "0"));
    Some(DesiredNetwork {
        id: info.id.clone(),
        name: info.spec.name.clone(),
        kind: NetworkKind::Bridge {
            bridge: info.bridge.clone(),
            inter_container: enabled(OPTION_INTER_CONTAINER),
            masquerade: enabled(OPTION_MASQUERADE),
        },
        subnets: info
            .spec
            .ipam
            .iter()
            .filter_map(|config| Some(Subnet { net: config.subnet?, gateway: config.gateway }))
            .collect(),
        internal: info.spec.internal,
        mtu: option(OPTION_MTU).and_then(|mtu| mtu.parse().ok()).unwrap_or(0),
        dns: has_dns(info),
    })
}

/// Containers find each other by name everywhere but on the default bridge.
pub(crate) fn has_dns(info: &NetworkInfo) -> bool {
    !PREDEFINED.contains(&info.spec.name.as_str()) && info.spec.name != GATEWAY_NETWORK
}

/// The host's resolver configuration, behind systemd-resolved's stub if there is one.
fn host_resolv_conf() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let text = read("/etc/resolv.conf");
    let only_stub = text.lines().filter(|line| line.trim().starts_with("nameserver")).all(|l| l.contains("127.0.0.53"));
    let behind = read("/run/systemd/resolve/resolv.conf");
    if only_stub && !behind.is_empty() { behind } else { text }
}

impl Inner {
    /// Tells netd everything that is wanted of it.
    pub(crate) async fn sync_network(self: &Arc<Self>) -> Result<()> {
        let mut state = LocalNetState {
            networks: self.networks.list().iter().filter_map(desired).collect(),
            ..LocalNetState::default()
        };
        for container in self.registry.all() {
            let info = container.info();
            if !info.state.status.is_running() || info.sandbox_key.is_empty() {
                continue;
            }
            let request = self.attach_request(&info, Path::new(&info.sandbox_key));
            if let (Some(resolver), Some(leg)) = (request.resolver, request.endpoints.first()) {
                state.resolvers.insert(leg.netns.clone(), resolver);
            }
            state.endpoints.extend(request.endpoints);
        }
        self.attach.sync(state).await
    }
}
