//! Desired state to what each namespace must hold: pure.

use crate::balance::Balancer;
use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::nft::table::Table;
use crate::plan::{
    ALIAS_PREFIX, BridgePort, DefaultRoute, Link, LinkKind, OVERLAY_TUNNEL, PlaceId, Port, Wanted, WantedPlace,
};
use crate::rules::host::IngressPort;
use crate::rules::{self, address_of};
use ipnet::IpNet;
use skep_model::netstate::{
    DesiredEndpoint, DesiredIngress, DesiredNetwork, DesiredService, IngressBackend, NetworkKind,
};
use skep_model::network::mac_of;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

const BRIDGE_MTU: u32 = 1500;
const OVERLAY_MTU: u32 = 1450;
const OVERLAY_BRIDGE: &str = "br0";
const LOOPBACK: &str = "lo";

/// What besides the desired state decides.
pub struct Circumstances<'a> {
    pub balancer: &'a dyn Balancer,
    /// The kernel has bridged frames pass the rules for routed ones (br_netfilter).
    pub bridges_are_filtered: bool,
}

/// All of it.
pub fn wanted(desired: &Desired, circumstances: &Circumstances<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    for network in desired.networks() {
        match &network.kind {
            NetworkKind::Bridge { bridge, .. } => add_bridge(network, bridge, &mut wanted),
            NetworkKind::Overlay { vni, vxlan_port } => {
                add_overlay(desired, network, (*vni, *vxlan_port), circumstances, &mut wanted)
            }
        }
    }
    for endpoint in &desired.local.endpoints {
        match desired.network(&endpoint.network) {
            Some(network) => add_endpoint(desired, endpoint, network, circumstances, &mut wanted),
            // The swarm's network came or went in another order than its tasks.
            None => wanted.impossible.push(format!("endpoint {}: no network {}", endpoint.id, endpoint.network)),
        }
    }
    let ingress = ingress_ports(desired, &mut wanted.impossible);
    let targets = ingress.iter().flat_map(|port| port.backends.iter().copied());
    let published = published(desired).flat_map(|endpoint| endpoint.addresses.iter().map(IpNet::addr));
    wanted.backends.extend(targets.chain(published).map(|address| (PlaceId::Host, address)));
    if let Some(table) = rules::host::table(desired.networks(), self::published(desired), &ingress) {
        wanted.places.entry(PlaceId::Host).or_default().table = Some(table);
    }
    wanted
}

/// The host's table alone, which is all that published ports need.
pub fn host_rules(desired: &Desired) -> Option<Table> {
    let ingress = ingress_ports(desired, &mut Vec::new());
    rules::host::table(desired.networks(), published(desired), &ingress)
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

fn add_bridge(network: &DesiredNetwork, bridge: &str, wanted: &mut Wanted) {
    let host = wanted.places.entry(PlaceId::Host).or_default();
    host.links.insert(bridge.to_owned(), bridge_link(network));
    for address in gateway_addresses(network) {
        host.addresses.insert((bridge.to_owned(), address));
        match Family::of(address.addr()) {
            Family::V4 => host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into()),
            Family::V6 => {
                // Until the kernel has checked its link-local address for duplicates, a
                // second or two, it could not ask for containers' addresses.
                for key in ["accept_dad", "dad_transmits"] {
                    host.optional_sysctls.insert(format!("net/ipv6/conf/{bridge}/{key}"), "0".into());
                }
                host.sysctls.insert("net.ipv6.conf.all.forwarding".into(), "1".into())
            }
        };
    }
    host.sysctls.insert(format!("net/ipv4/conf/{bridge}/route_localnet"), "1".into());
}

fn bridge_link(network: &DesiredNetwork) -> Link {
    let gateway = network.subnets.iter().find_map(|subnet| subnet.gateway);
    let mac = gateway.map_or([0x02, 0x42, 0, 0, 0, 1], mac_of);
    Link { kind: LinkKind::Bridge { mac }, mtu: mtu(network), alias: alias("network", network.id.as_str()), port: None }
}

fn mtu(network: &DesiredNetwork) -> u32 {
    match (network.mtu, &network.kind) {
        (0, NetworkKind::Bridge { .. }) => BRIDGE_MTU,
        (0, NetworkKind::Overlay { .. }) => OVERLAY_MTU,
        (mtu, _) => mtu,
    }
}

fn alias(kind: &str, id: &str) -> String {
    format!("{ALIAS_PREFIX}{kind} {id}")
}

fn gateway_addresses(network: &DesiredNetwork) -> impl Iterator<Item = IpNet> {
    network.subnets.iter().filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.net.prefix_len()).ok())
}

fn add_overlay(
    desired: &Desired,
    network: &DesiredNetwork,
    (vni, port): (u32, u16),
    circumstances: &Circumstances<'_>,
    wanted: &mut Wanted,
) {
    let id = PlaceId::Overlay(network.id.clone());
    let services: Vec<&DesiredService> =
        desired.cluster.services.iter().filter(|service| service.network == network.id).collect();
    let own = desired.cluster.load_balancer_addresses.get(&network.id).copied();
    let mut place = WantedPlace::default();
    place.links.insert(LOOPBACK.into(), existing_link());
    place.links.insert(OVERLAY_BRIDGE.into(), bridge_link(network));
    let tunnel = Link {
        kind: LinkKind::Vxlan { vni, port },
        mtu: mtu(network),
        alias: alias("network", network.id.as_str()),
        port: Some(BridgePort { bridge: OVERLAY_BRIDGE.into(), hairpin: false, isolated: false }),
    };
    place.links.insert(OVERLAY_TUNNEL.into(), tunnel);
    for address in gateway_addresses(network).chain(own) {
        place.addresses.insert((OVERLAY_BRIDGE.into(), address));
    }
    for vip in services.iter().filter_map(|service| service.vip) {
        place.addresses.insert((OVERLAY_BRIDGE.into(), IpNet::from(vip)));
    }
    let settings = [
        ("net.ipv4.ip_forward", "1"),
        // The balancer sends a packet out where it came from; nobody needs to be told.
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.br0.send_redirects", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
    ];
    let settings = settings.iter().chain(circumstances.balancer.settings());
    place.sysctls.extend(settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    // Bridged frames must not pass the balancer's rules as if they were routed.
    for key in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        place.optional_sysctls.insert(key.into(), "0".into());
    }
    let gateways = gateway_addresses(network).map(|address| address.addr());
    let sources: Vec<IpAddr> = own.map(|address| address.addr()).into_iter().chain(gateways).collect();
    let per_family = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| sources.iter().copied().find(|address| Family::of(*address) == family));
    place.table = Some(circumstances.balancer.rules(&services, &per_family.collect::<Vec<_>>()));
    place.balanced = circumstances.balancer.balanced(&services);
    let backends = services.iter().flat_map(|service| &service.backends);
    wanted.backends.extend(backends.map(|backend| (id.clone(), backend.address)));
    wanted.places.insert(id, place);
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
    };
    let port = Port { namespace: endpoint.netns.clone(), interface: endpoint.interface.clone(), mac: endpoint.mac };
    let link = Link {
        kind: LinkKind::Port(port),
        mtu: mtu(network),
        alias: alias("endpoint", endpoint.id.as_str()),
        // A published port may lead a container back to itself.
        port: Some(BridgePort { bridge, hairpin: true, isolated }),
    };
    wanted.places.entry(place).or_default().links.insert(port_name(endpoint), link);
    let container = wanted.places.entry(PlaceId::Container(endpoint.netns.clone())).or_default();
    add_leg(desired, endpoint, network, container);
}

fn add_leg(desired: &Desired, endpoint: &DesiredEndpoint, network: &DesiredNetwork, container: &mut WantedPlace) {
    container.links.insert(LOOPBACK.into(), existing_link());
    let leg = Link { kind: LinkKind::Leg { mac: endpoint.mac }, mtu: mtu(network), alias: String::new(), port: None };
    container.links.insert(endpoint.interface.clone(), leg);
    container.addresses.extend(endpoint.addresses.iter().map(|address| (endpoint.interface.clone(), *address)));
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
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    let hash = endpoint.id.as_str().bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    format!("veth{:011x}", hash & 0xfff_ffff_ffff)
}

fn ingress_ports(desired: &Desired, impossible: &mut Vec<String>) -> Vec<IngressPort> {
    desired.cluster.ingress.iter().map(|port| ingress_port(desired, port, impossible)).collect()
}

fn ingress_port(desired: &Desired, port: &DesiredIngress, impossible: &mut Vec<String>) -> IngressPort {
    let mut backends = Vec::new();
    for backend in &port.backends {
        let found = match backend {
            IngressBackend::Local { task, container } => local_address(desired, container).ok_or_else(|| {
                format!("ingress {}: task {task} has no leg on the gateway bridge", port.published_port)
            }),
            IngressBackend::Remote { task, .. } => Err(format!(
                "ingress {}: task {task} runs on another node, which is not supported yet",
                port.published_port
            )),
        };
        match found {
            Ok(address) => backends.push(address),
            Err(reason) => impossible.push(reason),
        }
    }
    backends.sort_unstable();
    IngressPort {
        published_port: port.published_port,
        target_port: port.target_port,
        protocol: port.protocol,
        backends,
    }
}

/// Where a task's container answers on the gateway bridge.
fn local_address(desired: &Desired, container: &skep_model::id::ContainerId) -> Option<IpAddr> {
    let on_bridge = |endpoint: &&DesiredEndpoint| {
        endpoint.container == *container
            && desired
                .network(&endpoint.network)
                .is_some_and(|network| matches!(network.kind, NetworkKind::Bridge { .. }))
    };
    desired.local.endpoints.iter().find(on_bridge).and_then(|endpoint| address_of(&endpoint.addresses, Family::V4))
}
