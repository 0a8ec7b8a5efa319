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
    Forwarding, Link, LinkKind, MESH_TUNNEL, PlaceId, PolicyRule, RuleAction, TableRoute, Tunnel, Wanted, WantedPlace,
};
use ipnet::{IpNet, Ipv4Net};
use skep_model::netstate::{DesiredNetwork, NetworkKind};
use skep_model::network::mac_of;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Of the range for measurements inside of networks (RFC 2544), which no network uses.
const HOPS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const HOPS_PREFIX: u8 = 16;

/// Marks of connections from the tunnel; the lower half is the node's number.
pub const MARK: u32 = 0x7946_0000;
pub const MARK_MASK: u32 = 0xffff_0000;
const TABLE: u32 = 79_460_000;
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
        Some(Self { network, vni, port, own, number: number_of(network, own)?, peers: peers.collect() })
    }

    /// The hop addresses of all other nodes.
    pub fn hops(&self) -> Vec<IpAddr> {
        self.peers.iter().map(|peer| hop(peer.number).into()).collect()
    }

    /// The hop address of the node with this address on the mesh's network, if it is known.
    pub fn hop_of(&self, node_address: IpAddr) -> Option<IpAddr> {
        let number = number_of(self.network, node_address)?;
        self.peers.iter().any(|peer| peer.number == number).then(|| hop(number).into())
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

fn hop(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    let [first, second, _, _] = HOPS.octets();
    Ipv4Addr::new(first, second, high, low)
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
    if let Ok(net) = Ipv4Net::new(hop(mesh.number), HOPS_PREFIX) {
        host.addresses.insert((MESH_TUNNEL.into(), net.into()));
    }
    host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    for (key, value) in [
        // Clients' addresses come out of the tunnel, which lead elsewhere by the routes.
        ("rp_filter", "2"),
        // The host's own connections to its loopback may lead into the tunnel.
        ("route_localnet", "1"),
        ("send_redirects", "0"),
    ] {
        host.sysctls.insert(format!("net/ipv4/conf/{MESH_TUNNEL}/{key}"), value.into());
    }
    add_skip(host);
    for peer in &mesh.peers {
        if local.is_some_and(|local| local.is_ipv4() != peer.node.is_ipv4()) {
            let reason = "is not reached from this one: their addresses are of different families";
            wanted.impossible.push(format!("node {} {reason}", peer.node));
            continue;
        }
        add_peer(host, peer);
    }
}

/// Packets without a mark of ours need not pass a rule for each node.
fn add_skip(host: &mut WantedPlace) {
    let rule = |priority, mark, mask, action| PolicyRule { family: Family::V4, priority, mark, mask, action };
    host.policy_rules.insert(rule(PRIORITY_SKIP, MARK, MARK_MASK, RuleAction::OthersGoto(PRIORITY_END)));
    host.policy_rules.insert(rule(PRIORITY_END, 0, 0, RuleAction::Nothing));
}

fn add_peer(host: &mut WantedPlace, peer: &Peer) {
    let link = || MESH_TUNNEL.to_owned();
    let gateway: IpAddr = hop(peer.number).into();
    host.forwarding.insert(Forwarding::Tunnel { link: link(), mac: peer.mac, node: peer.node });
    host.forwarding.insert(Forwarding::Neighbour { link: link(), address: gateway, mac: peer.mac });
    let table = TABLE + u32::from(peer.number);
    host.table_routes.insert(TableRoute { table, interface: link(), gateway });
    host.policy_rules.insert(PolicyRule {
        family: Family::V4,
        priority: PRIORITY_NODES,
        mark: MARK | u32::from(peer.number),
        mask: u32::MAX,
        action: RuleAction::Table(table),
    });
}
