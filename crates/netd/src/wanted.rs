//! Desired state to what each namespace must hold: pure.

use crate::balance::Balancer;
use crate::balance::ipvs::table::Services;
use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::nft::table::Table;
use crate::plan::{
    ALIAS_PREFIX, BridgePort, DefaultRoute, FORWARDING_IPV6, Link, LinkKind, PlaceId, Port, Wanted, WantedPlace,
};
use crate::rules::ingress::IngressPort;
use crate::rules::{self, address_of};
use ipnet::IpNet;
use mesh::Mesh;
use skep_model::hash::fnv1a;
use skep_model::netstate::{DesiredEndpoint, DesiredNetwork, NetworkKind};
use skep_model::network::mac_of;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

mod ingress;
pub mod mesh;
mod overlay;

const BRIDGE_MTU: u32 = 1500;
const OVERLAY_MTU: u32 = 1450;
/// The bridge's name in an overlay's namespace.
pub const OVERLAY_BRIDGE: &str = "br0";
const LOOPBACK: &str = "lo";

/// What besides the desired state decides.
pub struct Circumstances<'a> {
    pub balancer: &'a dyn Balancer,
    /// The kernel has bridged frames pass the rules for routed ones (br_netfilter).
    pub bridges_are_filtered: bool,
    /// Where this host's end of the tunnels is; `None` when none of its links has the
    /// address that it is said to have.
    pub underlay: Option<Underlay>,
    /// The host's new links have IPv6.
    pub has_ipv6: bool,
}

/// The link that carries tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    pub address: IpAddr,
    pub mtu: u32,
}

impl Underlay {
    /// The largest packet inside of a tunnel over it.
    fn inner_mtu(self) -> u32 {
        // VXLAN 8, UDP 8, inner Ethernet 14, and the outer IP header.
        let overhead = if self.address.is_ipv4() { 50 } else { 70 };
        self.mtu.saturating_sub(overhead)
    }
}

/// All of it.
pub fn wanted(desired: &Desired, circumstances: &Circumstances<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    for network in desired.networks() {
        match &network.kind {
            NetworkKind::Bridge { bridge, .. } => add_bridge(network, bridge, circumstances, &mut wanted),
            NetworkKind::Overlay { vni, vxlan_port } => {
                overlay::add(desired, network, (*vni, *vxlan_port), circumstances, &mut wanted)
            }
            // Below: there is one at most.
            NetworkKind::Mesh { .. } => {}
        }
    }
    for endpoint in &desired.local.endpoints {
        match desired.network(&endpoint.network) {
            Some(network) => add_endpoint(desired, endpoint, network, circumstances, &mut wanted),
            // The swarm's network came or went in another order than its tasks.
            None => wanted.impossible.push(format!("endpoint {}: no network {}", endpoint.id, endpoint.network)),
        }
    }
    let mesh = Mesh::of(desired);
    if let Some(mesh) = &mesh {
        mesh::add(mesh, circumstances, &mut wanted);
    }
    let ingress = ingress::ports(desired, mesh.as_ref(), &mut wanted.impossible);
    let targets = ingress.iter().flat_map(|port| port.everywhere.iter().chain(&port.here));
    wanted.backends.extend(targets.map(|target| (PlaceId::Host, target.address, Some(target.port))));
    let published = published(desired).flat_map(|endpoint| endpoint.addresses.iter().map(IpNet::addr));
    wanted.backends.extend(published.map(|address| (PlaceId::Host, address, None)));
    let Circumstances { balancer, bridges_are_filtered, .. } = *circumstances;
    let (table, balanced) = host_table(desired, mesh.as_ref(), &ingress, balancer, bridges_are_filtered);
    if let Some(table) = table {
        let host = wanted.places.entry(PlaceId::Host).or_default();
        host.table = Some(table);
        if balanced.is_some() {
            let settings = circumstances.balancer.settings().iter();
            host.sysctls.extend(settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        }
        host.balanced = balanced;
    }
    wanted
}

/// The host's rules and what IPVS balances there alone, which is all that published
/// ports need.
pub fn host_rules(
    desired: &Desired,
    balancer: &dyn Balancer,
    bridges_are_filtered: bool,
) -> (Option<Table>, Option<Services>) {
    let mesh = Mesh::of(desired);
    let ingress = ingress::ports(desired, mesh.as_ref(), &mut Vec::new());
    host_table(desired, mesh.as_ref(), &ingress, balancer, bridges_are_filtered)
}

fn host_table(
    desired: &Desired,
    mesh: Option<&Mesh<'_>>,
    ingress: &[IngressPort],
    balancer: &dyn Balancer,
    bridges_are_filtered: bool,
) -> (Option<Table>, Option<Services>) {
    let hops = mesh.map(Mesh::hops).unwrap_or_default();
    // Without a published port the host's IPVS is left to others.
    let balanced = if ingress.is_empty() { None } else { balancer.mesh(ingress, &hops) };
    let facts =
        rules::host::Facts { ingress, mesh, marked: balanced.is_some(), refuses_loopback_ipv6: bridges_are_filtered };
    let table = rules::host::table(desired.networks(), published(desired), &facts);
    (table, balanced)
}

fn published(desired: &Desired) -> impl Iterator<Item = &DesiredEndpoint> {
    desired.local.endpoints.iter().filter(|endpoint| !endpoint.ports.is_empty())
}

/// Only the endpoints in some namespaces: their ports, and the whole of the containers'
/// side. The rules of the other places are not part of it.
pub fn containers(desired: &Desired, circumstances: &Circumstances<'_>, namespaces: &BTreeSet<PathBuf>) -> Wanted {
    let mut wanted = Wanted::default();
    for endpoint in desired.local.endpoints.iter().filter(|endpoint| namespaces.contains(&endpoint.netns)) {
        if let Some(network) = desired.network(&endpoint.network) {
            add_endpoint(desired, endpoint, network, circumstances, &mut wanted);
        }
    }
    wanted
}

fn add_bridge(network: &DesiredNetwork, bridge: &str, circumstances: &Circumstances<'_>, wanted: &mut Wanted) {
    let host = wanted.places.entry(PlaceId::Host).or_default();
    host.links.insert(bridge.to_owned(), bridge_link(network, circumstances));
    for address in gateway_addresses(network) {
        host.addresses.insert((bridge.to_owned(), address));
        match Family::of(address.addr()) {
            Family::V4 => host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into()),
            Family::V6 => {
                add_link_settings_ipv6(bridge, host);
                host.loopback_routes.insert(bridge.to_owned());
                host.sysctls.insert(FORWARDING_IPV6.into(), "1".into())
            }
        };
    }
    host.sysctls.insert(format!("net/ipv4/conf/{bridge}/route_localnet"), "1".into());
}

/// How a link of ours has to behave: nobody there is a router that we do not know.
fn add_link_settings_ipv6(link: &str, place: &mut WantedPlace) {
    // Until the kernel has checked its link-local address for duplicates, a second or two, it
    // could not ask for others' addresses.
    for key in ["accept_dad", "dad_transmits", "accept_ra", "accept_redirects"] {
        place.optional_sysctls.insert(format!("net/ipv6/conf/{link}/{key}"), "0".into());
    }
}

fn bridge_link(network: &DesiredNetwork, circumstances: &Circumstances<'_>) -> Link {
    let gateway = network.subnets.iter().find_map(|subnet| subnet.gateway);
    let mac = gateway.map_or([0x02, 0x42, 0, 0, 0, 1], mac_of);
    Link {
        kind: LinkKind::Bridge { mac },
        mtu: mtu(network, circumstances),
        alias: alias("network", network.id.as_str()),
        port: None,
    }
}

fn mtu(network: &DesiredNetwork, circumstances: &Circumstances<'_>) -> u32 {
    match (network.mtu, &network.kind) {
        (0, NetworkKind::Bridge { .. }) => BRIDGE_MTU,
        // Never more than usual: the other end's path may be narrower than ours.
        (0, NetworkKind::Overlay { .. } | NetworkKind::Mesh { .. }) => {
            circumstances.underlay.map_or(OVERLAY_MTU, |underlay| OVERLAY_MTU.min(underlay.inner_mtu()))
        }
        (mtu, _) => mtu,
    }
}

fn alias(kind: &str, id: &str) -> String {
    format!("{ALIAS_PREFIX}{kind} {id}")
}

fn gateway_addresses(network: &DesiredNetwork) -> impl Iterator<Item = IpNet> {
    network.subnets.iter().filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.net.prefix_len()).ok())
}

fn existing_link() -> Link {
    Link { kind: LinkKind::Existing, mtu: 0, alias: String::new(), port: None }
}

fn add_endpoint(
    desired: &Desired,
    endpoint: &DesiredEndpoint,
    network: &DesiredNetwork,
    circumstances: &Circumstances<'_>,
    wanted: &mut Wanted,
) {
    // Where bridged frames pass our rules these keep containers apart. Isolating the
    // ports as well would cut the way from one container to another's published port,
    // which the kernel then shortens to the bridge.
    let isolate = !circumstances.bridges_are_filtered;
    let (place, bridge, isolated) = match &network.kind {
        NetworkKind::Bridge { bridge, inter_container, .. } => {
            (PlaceId::Host, bridge.clone(), !inter_container && isolate)
        }
        NetworkKind::Overlay { .. } => (PlaceId::Overlay(network.id.clone()), OVERLAY_BRIDGE.to_owned(), false),
        NetworkKind::Mesh { .. } => {
            wanted.impossible.push(format!("endpoint {}: network {} takes no containers", endpoint.id, network.name));
            return;
        }
    };
    let port = Port { namespace: endpoint.netns.clone(), interface: endpoint.interface.clone(), mac: endpoint.mac };
    let link = Link {
        kind: LinkKind::Port(port),
        mtu: mtu(network, circumstances),
        alias: alias("endpoint", endpoint.id.as_str()),
        // A published port may lead a container back to itself.
        port: Some(BridgePort { bridge, hairpin: true, isolated, learning: true }),
    };
    wanted.places.entry(place).or_default().links.insert(port_name(endpoint), link);
    let container = wanted.places.entry(PlaceId::Container(endpoint.netns.clone())).or_default();
    add_leg(desired, endpoint, network, circumstances, container);
}

fn add_leg(
    desired: &Desired,
    endpoint: &DesiredEndpoint,
    network: &DesiredNetwork,
    circumstances: &Circumstances<'_>,
    container: &mut WantedPlace,
) {
    container.links.insert(LOOPBACK.into(), existing_link());
    let leg = Link {
        kind: LinkKind::Leg { mac: endpoint.mac },
        mtu: mtu(network, circumstances),
        alias: String::new(),
        port: None,
    };
    container.links.insert(endpoint.interface.clone(), leg);
    container.addresses.extend(endpoint.addresses.iter().map(|address| (endpoint.interface.clone(), *address)));
    if address_of(&endpoint.addresses, Family::V6).is_some() {
        add_link_settings_ipv6(&endpoint.interface, container);
    }
    container.sysctls.extend(endpoint.sysctls.clone());
    if endpoint.default_route && !network.internal {
        for gateway in network.subnets.iter().filter_map(|subnet| subnet.gateway) {
            if address_of(&endpoint.addresses, Family::of(gateway)).is_some() {
                container.routes.insert(DefaultRoute { interface: endpoint.interface.clone(), gateway });
            }
        }
    }
    let port = desired.resolver_ports.get(&endpoint.netns).filter(|_| desired.wants_resolver(&endpoint.netns));
    container.table = port.map(|port| rules::resolver::table(*port));
}

/// The host's name for an endpoint's port: the same for the same endpoint, always.
pub fn port_name(endpoint: &DesiredEndpoint) -> String {
    format!("veth{:011x}", fnv1a(endpoint.id.as_str()) & 0xfff_ffff_ffff)
}
