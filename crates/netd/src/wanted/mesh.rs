//! The routing mesh's way between nodes: a tunnel in the host's namespace.
//!
//! The node that a connection came to translates its destination to the *hop* address
//! of a node with a task and leaves the client's address alone. The task's node marks the
//! connection with the number of the node it came through, and the answers take the
//! routing table of that number back through the tunnel.
//!
//! Hop addresses are the tunnel's own, outside of every range that networks use: the
//! mesh's network is often the same as the one that the hosts are in.

use super::{Circumstances, alias, mtu};
use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::plan::{
    FORWARDING_IPV6, Forwarding, Link, LinkKind, MESH_TUNNEL, PlaceId, PolicyRule, RuleAction, TableRoute, Tunnel,
    Wanted, WantedPlace,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::netstate::{DesiredNetwork, NetworkKind};
use skep_model::network::mac_of;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the range for measurements inside of networks (RFC 2544), which no network uses.
const HOPS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const HOPS_PREFIX: u8 = 16;

/// A unique local range of ours (RFC 4193), made of the letters `skep-mesh`.
const HOPS_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6b65, 0x702d, 0x6d65, 0x7368, 0, 0, 0);
const HOPS_PREFIX_IPV6: u8 = 112;

/// Marks of connections from the tunnel; the lower half is the node's number.
pub const MARK: u32 = 0x7946_0000;
pub const MARK_MASK: u32 = 0xffff_0000;
const TABLE: u32 = 79_460_000;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const PRIORITY_SKIP: u32 = 980;
const PRIORITY_NODES: u32 = 981;
const PRIORITY_END: u32 = 982;

/// Another node of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub number: u16,
    pub mac: [u8; 6],
    /// Where its end of the tunnel is.
    pub node: IpAddr,
}

/// This node's view of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh<'a> {
    network: &'a DesiredNetwork,
    vni: u32,
    port: u16,
    own: IpAddr,
    number: u16,
    pub peers: BTreeSet<Peer>,
    /// By which other nodes' own connections are known.
    pub node_addresses: BTreeSet<IpAddr>,
}

impl<'a> Mesh<'a> {
    /// The mesh, once this node has its address on it.
    pub fn of(desired: &'a Desired) -> Option<Self> {
        let networks = &desired.cluster.networks;
        let (network, vni, port) = networks.iter().find_map(|network| match network.kind {
            NetworkKind::Mesh { vni, vxlan_port } => Some((network, vni, vxlan_port)),
            NetworkKind::Bridge { .. } | NetworkKind::Overlay { .. } => None,
        })?;
        let own = desired.cluster.load_balancer_addresses.get(&network.id)?.addr();
        let remotes = desired.cluster.remotes.get(&network.id).into_iter().flatten();
        let peers = remotes.filter_map(|remote| {
            let number = number_of(network, *remote.addresses.first()?)?;
            Some(Peer { number, mac: remote.mac, node: remote.tunnel })
        });
        let peers: BTreeSet<Peer> = peers.collect();
        let node_addresses = peers.iter().map(|peer| peer.node).chain(desired.cluster.node_addresses.clone()).collect();
        Some(Self { network, vni, port, own, number: number_of(network, own)?, peers, node_addresses })
    }

    /// The hop addresses of all other nodes.
    pub fn hops(&self) -> Vec<IpAddr> {
        self.peers.iter().flat_map(|peer| FAMILIES.map(|family| hop(family, peer.number))).collect()
    }

    /// The hop address of the node with this address on the mesh's network, if it is known.
    pub fn hop_of(&self, node_address: IpAddr, family: Family) -> Option<IpAddr> {
        let number = number_of(self.network, node_address)?;
        self.peers.iter().any(|peer| peer.number == number).then(|| hop(family, number))
    }

    /// Where the tunnel of the node with this address on the mesh's network ends.
    pub fn node_of(&self, node_address: IpAddr) -> Option<IpAddr> {
        let number = number_of(self.network, node_address)?;
        self.peers.iter().find(|peer| peer.number == number).map(|peer| peer.node)
    }
}

/// A node's number: the part of its address that tells it from others on the network.
fn number_of(network: &DesiredNetwork, address: IpAddr) -> Option<u16> {
    let subnet = network.subnets.iter().find(|subnet| subnet.net.contains(&address))?.net;
    let (IpAddr::V4(address), IpNet::V4(subnet)) = (address, subnet) else { return None };
    let [_, _, high, low] = (u32::from(address) - u32::from(subnet.network())).to_be_bytes();
    Some(u16::from_be_bytes([high, low]))
}

fn hop(family: Family, number: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::from(HOPS) | u32::from(number)).into(),
        Family::V6 => Ipv6Addr::from(u128::from(HOPS_IPV6) | u128::from(number)).into(),
    }
}

/// The tunnel's own addresses.
fn own_hops(number: u16, families: &[Family]) -> impl Iterator<Item = IpNet> {
    let net = move |family: &Family| match hop(*family, number) {
        IpAddr::V4(hop) => Ipv4Net::new(hop, HOPS_PREFIX).ok().map(IpNet::V4),
        IpAddr::V6(hop) => Ipv6Net::new(hop, HOPS_PREFIX_IPV6).ok().map(IpNet::V6),
    };
    families.iter().filter_map(net)
}

pub(super) fn add(mesh: &Mesh<'_>, circumstances: &Circumstances<'_>, wanted: &mut Wanted) {
    let local = circumstances.underlay.map(|underlay| underlay.address);
    let host = wanted.places.entry(PlaceId::Host).or_default();
    let tunnel = Tunnel { vni: mesh.vni, port: mesh.port, local, mac: Some(mac_of(mesh.own)) };
    let link = Link {
        kind: LinkKind::Vxlan(tunnel),
        mtu: mtu(mesh.network, circumstances),
        alias: alias("network", mesh.network.id.as_str()),
        port: None,
    };
    host.links.insert(MESH_TUNNEL.into(), link);
    let families = if circumstances.has_ipv6 { &FAMILIES[..] } else { &FAMILIES[..1] };
    host.addresses.extend(own_hops(mesh.number, families).map(|net| (MESH_TUNNEL.to_owned(), net)));
    host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    if circumstances.has_ipv6 {
        super::add_link_settings_ipv6(MESH_TUNNEL, host);
        host.loopback_routes.insert(MESH_TUNNEL.into());
        host.sysctls.insert(FORWARDING_IPV6.into(), "1".into());
    }
    for (key, value) in [
        // Clients' addresses come out of the tunnel, which lead elsewhere by the routes.
        ("rp_filter", "2"),
        // The host's own connections to its loopback may lead into the tunnel.
        ("route_localnet", "1"),
        ("send_redirects", "0"),
    ] {
        host.sysctls.insert(format!("net/ipv4/conf/{MESH_TUNNEL}/{key}"), value.into());
    }
    families.iter().for_each(|family| add_skip(host, *family));
    for peer in &mesh.peers {
        if local.is_some_and(|local| local.is_ipv4() != peer.node.is_ipv4()) {
            let reason = "is not reached from this one: their addresses are of different families";
            wanted.impossible.push(format!("node {} {reason}", peer.node));
            continue;
        }
        let link = || MESH_TUNNEL.to_owned();
        host.forwarding.insert(Forwarding::Tunnel { link: link(), mac: peer.mac, node: peer.node });
        families.iter().for_each(|family| add_peer(host, peer, *family));
    }
}

/// Packets without a mark of ours need not pass a rule for each node.
fn add_skip(host: &mut WantedPlace, family: Family) {
    let rule = |priority, mark, mask, action| PolicyRule { family, priority, mark, mask, action };
    host.policy_rules.insert(rule(PRIORITY_SKIP, MARK, MARK_MASK, RuleAction::OthersGoto(PRIORITY_END)));
    host.policy_rules.insert(rule(PRIORITY_END, 0, 0, RuleAction::Nothing));
}

fn add_peer(host: &mut WantedPlace, peer: &Peer, family: Family) {
    let link = || MESH_TUNNEL.to_owned();
    let gateway = hop(family, peer.number);
    host.forwarding.insert(Forwarding::Neighbour { link: link(), address: gateway, mac: peer.mac });
    let table = TABLE + u32::from(peer.number);
    host.table_routes.insert(TableRoute { table, interface: link(), gateway });
    host.policy_rules.insert(PolicyRule {
        family,
        priority: PRIORITY_NODES,
        mark: MARK | u32::from(peer.number),
        mask: u32::MAX,
        action: RuleAction::Table(table),
    });
}
