//! A container's legs: planned before its shim exists, attached before its process
//! runs, released when it ended.

use crate::container::create::SHORT_ID_LENGTH;
use crate::container::inner::{Inner, new_id};
use crate::container::registry::Container;
use crate::network::text::{self, Wishes};
use crate::network::{GATEWAY_NETWORK, Networks, State, has_dns, host_resolv_conf};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use skep_model::container::{ContainerInfo, EndpointConfig, EndpointInfo};
use skep_model::id::EndpointId;
use skep_model::netstate::{AttachRequest, DesiredEndpoint, DesiredPort, ResolverConfig};
use skep_model::network::{
    NetworkContainer, NetworkInfo, NetworkScope, PortBinding, PortKey, Protocol, mac_of, mac_text,
};
use skep_model::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// What a start needs of the network, all reserved.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) new_namespace: bool,
    pub(crate) endpoints: BTreeMap<String, EndpointInfo>,
    pub(crate) ports: BTreeMap<PortKey, Vec<PortBinding>>,
    #[serde(skip)]
    pub(crate) resolv_conf: String,
    #[serde(skip)]
    pub(crate) hosts: String,
}

/// The legs a new container is to have, by network name, with what the user wants of each.
/// `mac_address` is the container's, as older clients ask for it: that of its first leg.
///
/// # Errors
/// A network that does not exist, or an address no network could give.
pub(crate) fn leg_wishes(
    networks: &Networks,
    mode: &str,
    wanted: BTreeMap<String, EndpointConfig>,
    mac_address: &str,
) -> Result<BTreeMap<String, EndpointInfo>> {
    let mut out = BTreeMap::new();
    if mode.starts_with("container:") {
        return Ok(out);
    }
    let mut wanted: Vec<(String, EndpointConfig)> = wanted
        .into_iter()
        .map(|(name, config)| (if name == "default" { "bridge".to_owned() } else { name }, config))
        .collect();
    // The mode names the first leg, unless it is named by a different word below.
    let main = networks.find(mode)?;
    let mut named = false;
    for (name, config) in wanted.drain(..) {
        let network = networks.find(&name)?;
        named |= network.id == main.id;
        check_address(&network, &config)?;
        out.insert(network.spec.name.clone(), leg(&network, config));
    }
    if !named {
        out.insert(main.spec.name.clone(), leg(&main, EndpointConfig::default()));
    }
    if let Some(first) = out.get_mut(&main.spec.name).filter(|leg| leg.config.mac_address.is_empty()) {
        mac_address.clone_into(&mut first.config.mac_address);
    }
    Ok(out)
}

fn leg(network: &NetworkInfo, config: EndpointConfig) -> EndpointInfo {
    EndpointInfo { network_id: network.id.clone(), config, ..EndpointInfo::default() }
}

/// A fixed address needs a network that is the user's own and contains it.
pub(crate) fn check_address(network: &NetworkInfo, config: &EndpointConfig) -> Result<()> {
    let Some(address) = config.ipv4_address.or(config.ipv6_address) else { return Ok(()) };
    if !has_dns(network) && network.spec.name != GATEWAY_NETWORK {
        return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
    }
    let subnets = network.spec.ipam.iter().filter_map(|config| config.subnet);
    if network.scope == NetworkScope::Local && !subnets.into_iter().any(|net| net.contains(&address)) {
        return Err(Error::invalid(format!(
            "invalid config for network {}: no configured subnet contains IP address {address}",
            network.spec.name
        )));
    }
    Ok(())
}

/// What remains of a leg when its container does not run: the wishes.
pub(crate) fn clear_leg(leg: &mut EndpointInfo) {
    *leg = EndpointInfo { network_id: leg.network_id.clone(), config: leg.config.clone(), ..EndpointInfo::default() };
}

/// Whether a mode brings endpoints with it.
fn has_legs(mode: &str) -> bool {
    mode != "host" && mode != "none" && !mode.starts_with("container:")
}

impl State {
    /// Reserves addresses for one leg.
    pub(crate) fn reserve_leg(
        &mut self,
        info: &ContainerInfo,
        name: &str,
        wish: &EndpointInfo,
    ) -> Result<EndpointInfo> {
        let network = self.find(&wish.network_id.0).or_else(|_| self.find(name))?;
        let mut leg = EndpointInfo {
            network_id: network.id.clone(),
            endpoint_id: EndpointId(new_id()),
            config: wish.config.clone(),
            ..EndpointInfo::default()
        };
        let pools = self.pools.get_mut(&network.id).map(Vec::as_mut_slice).unwrap_or_default();
        for (pool, config) in pools.iter_mut().zip(&network.spec.ipam) {
            let is_v4 = matches!(pool.net(), IpNet::V4(_));
            let wanted = if is_v4 { wish.config.ipv4_address } else { wish.config.ipv6_address };
            // The swarm's addresses are the manager's to give.
            let wanted = wanted.filter(|address| pool.net().contains(address));
            let taken = if is_v4 { leg.ip_address.is_some() } else { leg.ipv6_address.is_some() };
            if taken || (network.scope == NetworkScope::Swarm && wanted.is_none()) {
                continue;
            }
            let address = match wanted {
                Some(address) if pool.claim(address) => address,
                Some(_) => return Err(Error::forbidden("Address already in use")),
                None => pool.allocate().ok_or_else(|| {
                    Error::internal(format!(
                        "no available {} addresses on this network's address pools: {} ({}): {}",
                        if is_v4 { "IPv4" } else { "IPv6" },
                        network.spec.name,
                        network.id,
                        pool.net()
                    ))
                })?,
            };
            if is_v4 {
                (leg.ip_address, leg.ip_prefix_len, leg.gateway) =
                    (Some(address), pool.net().prefix_len(), config.gateway);
            } else {
                (leg.ipv6_address, leg.ipv6_prefix_len, leg.ipv6_gateway) =
                    (Some(address), pool.net().prefix_len(), config.gateway);
            }
        }
        let Some(address) = leg.ip_address.or(leg.ipv6_address) else {
            return Err(Error::internal(format!("network {} gave no address", network.spec.name)));
        };
        leg.mac_address = if wish.config.mac_address.is_empty() {
            mac_text(mac_of(address))
        } else {
            wish.config.mac_address.clone()
        };
        leg.dns_names = if has_dns(&network) { dns_names(info, &leg.config) } else { Vec::new() };
        self.note_leg(info, &leg);
        Ok(leg)
    }

    /// Marks what a leg uses as used.
    fn note_leg(&mut self, info: &ContainerInfo, leg: &EndpointInfo) {
        let net = |address: Option<IpAddr>, prefix: u8| address.and_then(|address| IpNet::new(address, prefix).ok());
        let entry = NetworkContainer {
            name: info.name.clone(),
            endpoint_id: leg.endpoint_id.clone(),
            mac_address: leg.mac_address.clone(),
            ipv4: net(leg.ip_address, leg.ip_prefix_len),
            ipv6: net(leg.ipv6_address, leg.ipv6_prefix_len),
        };
        self.legs.entry(leg.network_id.clone()).or_default().insert(info.id.clone(), entry);
    }

    /// Gives back what a leg uses.
    pub(crate) fn release_leg(&mut self, info: &ContainerInfo, leg: &EndpointInfo) {
        for address in leg.ip_address.iter().chain(&leg.ipv6_address) {
            for pool in self.pools.get_mut(&leg.network_id).into_iter().flatten() {
                pool.release(*address);
            }
        }
        if let Some(legs) = self.legs.get_mut(&leg.network_id) {
            legs.remove(&info.id);
        }
    }

    fn adopt_leg(&mut self, info: &ContainerInfo, leg: &EndpointInfo) {
        for address in leg.ip_address.iter().chain(&leg.ipv6_address) {
            for pool in self.pools.get_mut(&leg.network_id).into_iter().flatten() {
                pool.claim(*address);
            }
        }
        self.note_leg(info, leg);
    }
}

fn dns_names(info: &ContainerInfo, config: &EndpointConfig) -> Vec<String> {
    let mut names = vec![info.name.clone()];
    names.extend(config.aliases.iter().cloned());
    names.push(info.id.0[..SHORT_ID_LENGTH.min(info.id.0.len())].to_owned());
    names.dedup();
    names
}

impl Inner {
    /// Reserves addresses and ports, and writes the texts that name them.
    pub(crate) fn plan_network(&self, info: &ContainerInfo) -> Result<Plan> {
        let mode = info.host.network_mode.as_str();
        let mut plan = Plan { new_namespace: mode != "host" && !mode.starts_with("container:"), ..Plan::default() };
        if has_legs(mode) && !info.config.network_disabled {
            self.reserve(info, &mut plan)?;
        }
        let with_dns = plan.endpoints.values().any(|leg| !leg.dns_names.is_empty());
        let wishes = self.resolver_wishes(info);
        let host_file = host_resolv_conf();
        plan.resolv_conf = if with_dns {
            text::resolv_conf_embedded(&host_file, &wishes)
        } else {
            text::resolv_conf_of_host(&host_file, &wishes, mode != "host")
        };
        plan.hosts = self.hosts_of(info, &plan);
        if let Some(other) = mode.strip_prefix("container:") {
            // One namespace, one set of names.
            let other = self.registry.find(other)?.info();
            plan.resolv_conf = std::fs::read_to_string(&other.resolv_conf_path).unwrap_or(plan.resolv_conf);
            plan.hosts = std::fs::read_to_string(&other.hosts_path).unwrap_or(plan.hosts);
        } else if mode == "host" {
            plan.hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in text::extra_hosts(&info.host, self.bridge_gateway()) {
                plan.hosts.push_str(&format!("{address}\t{name}\n"));
            }
        }
        Ok(plan)
    }

    fn reserve(&self, info: &ContainerInfo, plan: &mut Plan) -> Result<()> {
        let mut state = self.networks.lock();
        let mut reserve_all = || -> Result<()> {
            for (name, wish) in &info.endpoints {
                let leg = state.reserve_leg(info, name, wish)?;
                plan.endpoints.insert(name.clone(), leg);
            }
            let endpoint =
                main_leg(info, &plan.endpoints).map(|(_, leg)| leg.endpoint_id.0.clone()).unwrap_or_default();
            plan.ports = state.ports.reserve(info, &is_free).map_err(|taken| {
                Error::internal(format!(
                    "driver failed programming external connectivity on endpoint {} ({endpoint}): {}",
                    info.name, taken.0
                ))
            })?;
            Ok(())
        };
        let result = reserve_all();
        if result.is_err() {
            for leg in plan.endpoints.values() {
                state.release_leg(info, leg);
            }
            plan.endpoints.clear();
        }
        result
    }

    fn resolver_wishes(&self, info: &ContainerInfo) -> Wishes {
        let or = |own: &Vec<String>, default: &Vec<String>| if own.is_empty() { default.clone() } else { own.clone() };
        Wishes {
            servers: if info.host.dns.is_empty() { self.config.dns.clone() } else { info.host.dns.clone() },
            search: or(&info.host.dns_search, &self.config.dns_search),
            options: or(&info.host.dns_options, &self.config.dns_options),
        }
    }

    /// `resolv.conf` of a container that asks the host's servers, and of one that asks us.
    pub(crate) fn resolver_texts(&self, info: &ContainerInfo) -> (String, String) {
        let (wishes, host_file) = (self.resolver_wishes(info), host_resolv_conf());
        (text::resolv_conf_of_host(&host_file, &wishes, true), text::resolv_conf_embedded(&host_file, &wishes))
    }

    fn bridge_gateway(&self) -> Option<IpAddr> {
        self.networks.find("bridge").ok()?.spec.ipam.first()?.gateway
    }

    fn hosts_of(&self, info: &ContainerInfo, plan: &Plan) -> String {
        let mut extra = text::extra_hosts(&info.host, self.bridge_gateway());
        for leg in info.endpoints.values() {
            for link in &leg.config.links {
                let (name, alias) = link.split_once(':').unwrap_or((link, link));
                let Ok(other) = self.registry.find(name) else { continue };
                let other = other.info();
                let address =
                    other.endpoints.values().find(|l| l.network_id == leg.network_id).and_then(|l| l.ip_address);
                if let Some(address) = address {
                    extra.push((format!("{} {} {}", alias, other.config.hostname, other.name), address.to_string()));
                }
            }
        }
        let own: Vec<IpAddr> =
            plan.endpoints.values().flat_map(|leg| leg.ip_address.into_iter().chain(leg.ipv6_address)).collect();
        text::hosts(&extra, &own, &info.config.hostname, &info.config.domainname)
    }

    /// Attaches the planned legs to the shim's namespace.
    pub(crate) async fn attach_network(&self, info: &ContainerInfo, plan: &Plan, shim_pid: u32) -> Result<()> {
        if plan.endpoints.is_empty() {
            return Ok(());
        }
        let mut with_plan = info.clone();
        with_plan.endpoints.clone_from(&plan.endpoints);
        with_plan.ports.clone_from(&plan.ports);
        let request = self.attach_request(&with_plan, Path::new(&namespace_of(shim_pid)));
        self.attach.attach(request).await.map_err(|error| match error.kind {
            ErrorKind::Conflict => {
                let endpoint = main_leg(info, &plan.endpoints).map(|(_, leg)| leg.endpoint_id.0.clone());
                Error::internal(format!(
                    "driver failed programming external connectivity on endpoint {} ({}): {}",
                    info.name,
                    endpoint.unwrap_or_default(),
                    error.message
                ))
            }
            _ => error,
        })?;
        for leg in plan.endpoints.values() {
            self.emit_network("connect", info, leg);
        }
        Ok(())
    }

    pub(crate) fn emit_network(&self, action: &str, info: &ContainerInfo, leg: &EndpointInfo) {
        let network = self.networks.find(&leg.network_id.0).unwrap_or_default();
        let attributes = [
            ("container", info.id.0.as_str()),
            ("name", network.spec.name.as_str()),
            ("type", network.spec.driver.as_str()),
        ];
        self.emit_object("network", action, &leg.network_id.0, &attributes);
    }

    /// Legs, in the order of their interfaces, as netd wants them.
    pub(crate) fn attach_request(&self, info: &ContainerInfo, netns: &Path) -> AttachRequest {
        let order = leg_order(info, &info.endpoints);
        let main = main_leg(info, &info.endpoints).map(|(name, _)| name.to_owned());
        let endpoints: Vec<DesiredEndpoint> = order
            .iter()
            .enumerate()
            .filter_map(|(number, name)| {
                let leg = info.endpoints.get(*name)?;
                let is_main = main.as_deref() == Some(*name);
                Some(desired_endpoint(info, leg, netns, format!("eth{number}"), is_main))
            })
            .collect();
        let resolver = endpoints
            .iter()
            .any(|leg| !leg.dns_names.is_empty())
            .then(|| ResolverConfig { upstream: self.resolver_wishes(info).servers });
        AttachRequest { endpoints, resolver }
    }

    /// Makes a plan that was carried out part of what the container is.
    pub(crate) fn adopt_plan(&self, container: &Container, plan: &Plan, shim_pid: u32) {
        container.change(|info| {
            for (name, leg) in &plan.endpoints {
                info.endpoints.insert(name.clone(), leg.clone());
            }
            info.ports.clone_from(&plan.ports);
            info.sandbox_key = if plan.new_namespace { namespace_of(shim_pid) } else { String::new() };
        });
    }

    /// After a failed start.
    pub(crate) async fn undo_network(&self, info: &ContainerInfo, plan: &Plan) {
        if !plan.endpoints.is_empty()
            && let Err(error) = self.attach.detach(&info.id).await
        {
            tracing::warn!(id = %info.id, %error, "cannot detach after a failed start");
        }
        self.release_reservations(info, &plan.endpoints);
    }

    /// After the end of a process. An address is given back only once it is detached.
    pub(crate) async fn release_network(self: &Arc<Self>, info: &ContainerInfo) {
        let attached: Vec<&EndpointInfo> = info.endpoints.values().filter(|leg| !leg.endpoint_id.is_empty()).collect();
        if attached.is_empty() {
            return;
        }
        if let Err(error) = self.attach.detach(&info.id).await {
            tracing::warn!(id = %info.id, %error, "cannot detach");
        }
        for leg in attached {
            self.emit_network("disconnect", info, leg);
        }
        self.release_reservations(info, &info.endpoints);
    }

    fn release_reservations(&self, info: &ContainerInfo, endpoints: &BTreeMap<String, EndpointInfo>) {
        let mut state = self.networks.lock();
        for leg in endpoints.values() {
            state.release_leg(info, leg);
        }
        state.ports.release(&info.id);
    }

    /// Of a container found running.
    pub(crate) fn adopt_network(&self, info: &ContainerInfo) {
        let mut state = self.networks.lock();
        for leg in info.endpoints.values().filter(|leg| !leg.endpoint_id.is_empty()) {
            state.adopt_leg(info, leg);
        }
        state.ports.adopt(&info.id, &info.ports);
    }
}

/// The shim lives in its container's network.
fn namespace_of(shim_pid: u32) -> String {
    format!("/proc/{shim_pid}/ns/net")
}

/// Interface order: the leg the mode names, others by name, the gateway bridge last.
fn leg_order<'a>(info: &ContainerInfo, legs: &'a BTreeMap<String, EndpointInfo>) -> Vec<&'a str> {
    let mut names: Vec<&str> = legs.keys().map(String::as_str).collect();
    let mode = info.host.network_mode.as_str();
    let is_main = |name: &str| name == mode || legs.get(name).is_some_and(|leg| leg.network_id.0 == mode);
    names.sort_by_key(|&name| (name == GATEWAY_NETWORK, !is_main(name)));
    names
}

/// The leg with the default route and the published ports: the gateway bridge, else the
/// first leg that has a way out.
fn main_leg<'a>(info: &ContainerInfo, legs: &'a BTreeMap<String, EndpointInfo>) -> Option<(&'a str, &'a EndpointInfo)> {
    if let Some((name, leg)) = legs.get_key_value(GATEWAY_NETWORK) {
        return Some((name, leg));
    }
    let order = leg_order(info, legs);
    let with_gateway = order.iter().find(|&&name| legs.get(name).is_some_and(|leg| leg.gateway.is_some()));
    let name = with_gateway.or_else(|| order.first()).copied()?;
    legs.get_key_value(name).map(|(name, leg)| (name.as_str(), leg))
}

fn desired_endpoint(
    info: &ContainerInfo,
    leg: &EndpointInfo,
    netns: &Path,
    interface: String,
    is_main: bool,
) -> DesiredEndpoint {
    let net = |address: Option<IpAddr>, prefix: u8| address.and_then(|address| IpNet::new(address, prefix).ok());
    let addresses =
        net(leg.ip_address, leg.ip_prefix_len).into_iter().chain(net(leg.ipv6_address, leg.ipv6_prefix_len));
    let port = |key: &PortKey, binding: &PortBinding| DesiredPort {
        host_ip: binding.host_ip,
        host_port: binding.host_port,
        container_port: key.port,
        protocol: key.protocol,
    };
    let ports = info.ports.iter().flat_map(|(key, bindings)| bindings.iter().map(move |binding| port(key, binding)));
    DesiredEndpoint {
        id: leg.endpoint_id.clone(),
        network: leg.network_id.clone(),
        container: info.id.clone(),
        netns: netns.to_owned(),
        interface,
        addresses: addresses.collect(),
        mac: parse_mac(&leg.mac_address)
            .unwrap_or_else(|| leg.ip_address.or(leg.ipv6_address).map(mac_of).unwrap_or_default()),
        default_route: is_main,
        dns_names: leg.dns_names.clone(),
        ports: if is_main { ports.collect() } else { Vec::new() },
        sysctls: BTreeMap::new(),
    }
}

pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Whether a host process already listens on a port we would choose.
fn is_free(port: u16, protocol: Protocol) -> bool {
    let address = (std::net::Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        Protocol::Tcp => std::net::TcpListener::bind(address).is_ok(),
        Protocol::Udp => std::net::UdpSocket::bind(address).is_ok(),
        Protocol::Sctp => true,
    }
}
