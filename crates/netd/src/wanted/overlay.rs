//! An overlay's namespace: bridge, tunnel, balancer, and the way to what other nodes have.

use super::{Circumstances, LOOPBACK, OVERLAY_BRIDGE, Underlay, alias, existing_link, gateway_addresses, mtu};
use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::plan::{
    BridgePort, FORWARDING_IPV6, Forwarding, Link, LinkKind, OVERLAY_TUNNEL, PlaceId, Tunnel, Wanted, WantedPlace,
};
use crate::rules;
use ipnet::IpNet;
use skep_model::netstate::{DesiredNetwork, DesiredService, RemoteEndpoint};
use skep_model::network::mac_of;
use std::net::IpAddr;

/// A MAC address for a bridge that has no address to derive it from.
const NAMELESS_MAC: [u8; 6] = [0x02, 0x42, 0, 0, 0, 1];

pub(super) fn add(
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
    place.links.insert(OVERLAY_BRIDGE.into(), bridge_link(network, own, circumstances));
    let local = circumstances.underlay.map(|underlay| underlay.address);
    let tunnel = Link {
        kind: LinkKind::Vxlan(Tunnel { vni, port, local, mac: None }),
        mtu: mtu(network, circumstances),
        alias: alias("network", network.id.as_str()),
        // Who is behind the tunnel is told, not learned: nobody there can pose as another.
        port: Some(BridgePort { bridge: OVERLAY_BRIDGE.into(), hairpin: false, isolated: false, learning: false }),
    };
    place.links.insert(OVERLAY_TUNNEL.into(), tunnel);
    if let Some(room) = circumstances.underlay.map(Underlay::inner_mtu).filter(|room| network.mtu > *room) {
        let text =
            format!("network {}: an MTU of {} does not fit, this node's link takes {room}", network.name, network.mtu);
        wanted.impossible.push(text);
    }
    for remote in desired.cluster.remotes.get(&network.id).into_iter().flatten() {
        add_remote(remote, local, &mut place, &mut wanted.impossible);
    }
    let own_ipv6 = desired.cluster.load_balancer_addresses_ipv6.get(&network.id).copied();
    let own_addresses = || own.into_iter().chain(own_ipv6);
    for address in gateway_addresses(network).chain(own_addresses()) {
        place.addresses.insert((OVERLAY_BRIDGE.into(), address));
    }
    for vip in services.iter().flat_map(|service| service.vips()) {
        place.addresses.insert((OVERLAY_BRIDGE.into(), IpNet::from(vip)));
    }
    add_settings(network, &mut place);
    let gateways = gateway_addresses(network).map(|address| address.addr());
    let sources: Vec<IpAddr> = own_addresses().map(|address| address.addr()).chain(gateways).collect();
    let per_family = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| sources.iter().copied().find(|address| Family::of(*address) == family));
    place.table = Some(circumstances.balancer.rules(&services, &per_family.collect::<Vec<_>>()));
    let legs = desired.local.endpoints.iter().filter(|endpoint| endpoint.network == network.id);
    place.guard = Some(rules::guard::table(legs));
    place.balanced = circumstances.balancer.balanced(&services);
    let settings = circumstances.balancer.settings().iter();
    place.sysctls.extend(settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let backends = services.iter().flat_map(|service| &service.backends);
    wanted.backends.extend(backends.map(|backend| (id.clone(), backend.address, None)));
    wanted.places.insert(id, place);
}

/// The bridge answers for this node's balancer, so its MAC address is that one's: the
/// gateway's address is the same on every node.
fn bridge_link(network: &DesiredNetwork, own: Option<IpNet>, circumstances: &Circumstances<'_>) -> Link {
    let gateway = || network.subnets.iter().find_map(|subnet| subnet.gateway);
    let mac = own.map(|own| own.addr()).or_else(gateway).map_or(NAMELESS_MAC, mac_of);
    Link {
        kind: LinkKind::Bridge { mac },
        mtu: mtu(network, circumstances),
        alias: alias("network", network.id.as_str()),
        port: None,
    }
}

fn add_remote(remote: &RemoteEndpoint, local: Option<IpAddr>, place: &mut WantedPlace, impossible: &mut Vec<String>) {
    let (mac, node) = (remote.mac, remote.tunnel);
    if local.is_some_and(|local| local.is_ipv4() != node.is_ipv4()) {
        impossible.push(format!("node {node} is not reached from this one: their addresses are of different families"));
        return;
    }
    let link = || OVERLAY_TUNNEL.to_owned();
    place.forwarding.insert(Forwarding::Tunnel { link: link(), mac, node });
    place.forwarding.insert(Forwarding::Bridge { link: link(), mac });
    for address in &remote.addresses {
        place.forwarding.insert(Forwarding::Neighbour { link: link(), address: *address, mac });
    }
}

fn add_settings(network: &DesiredNetwork, place: &mut WantedPlace) {
    if network.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()) {
        place.sysctls.insert(FORWARDING_IPV6.into(), "1".into());
        for link in [OVERLAY_BRIDGE, OVERLAY_TUNNEL] {
            super::add_link_settings_ipv6(link, place);
        }
    }

    let settings = [
        ("net.ipv4.ip_forward", "1"),
        // The balancer sends a packet out where it came from; nobody needs to be told.
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.br0.send_redirects", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
    ];
    place.sysctls.extend(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
    // Bridged frames must not pass the balancer's rules as if they were routed.
    for key in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        place.optional_sysctls.insert(key.into(), "0".into());
    }
}
