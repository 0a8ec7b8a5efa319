//! What one network namespace must hold, as plain values: the common language of
//! desired and observed, so that comparing is one pure function.

use crate::balance::ipvs::table::{SeenBalancing, Services};
use crate::nft::expression::Family;
use crate::nft::table::Table;
use ipnet::IpNet;
use skep_model::id::NetworkId;
use skep_model::network::mac_text;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// A network namespace netd acts in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaceId {
    /// The one netd runs in.
    Host,
    /// The one that carries an overlay's bridge and balancer.
    Overlay(NetworkId),
    /// A container's.
    Container(PathBuf),
}

impl fmt::Display for PlaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Overlay(network) => write!(f, "overlay {network}"),
            Self::Container(path) => write!(f, "namespace {}", path.display()),
        }
    }
}

/// The part of a link that netd cares about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// With a fixed address, so that it does not change with the ports that come and go.
    Bridge { mac: [u8; 6] },
    /// The host's end of a container's leg.
    Port(Port),
    /// One end of an overlay's tunnel.
    Vxlan(Tunnel),
    /// The container's end; comes into being with its [`Port`].
    Leg { mac: [u8; 6] },
    /// Present before us (loopback).
    Existing,
}

/// The host's end of a veth pair and what is created with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub namespace: PathBuf,
    pub interface: String,
    pub mac: [u8; 6],
}

/// What makes a tunnel, none of which can be changed later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnel {
    pub vni: u32,
    /// UDP port of both ends.
    pub port: u16,
    /// The outer source address; `None` leaves the choice to the kernel.
    pub local: Option<IpAddr>,
    /// Where no bridge gives the frames' source.
    pub mac: Option<[u8; 6]>,
}

/// A fixed answer to where frames go; nothing about other nodes is ever learned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forwarding {
    /// Frames for a station leave the tunnel at a node.
    Tunnel { link: String, mac: [u8; 6], node: IpAddr },
    /// Frames for a station leave the bridge by this port, and no other may claim it.
    Bridge { link: String, mac: [u8; 6] },
    /// Who asks for an address on this link is told the station.
    Neighbour { link: String, address: IpAddr, mac: [u8; 6] },
}

impl Forwarding {
    /// What there can be only one entry for.
    pub fn place(&self) -> (u8, &str, Option<IpAddr>, Option<[u8; 6]>) {
        match self {
            Self::Tunnel { link, mac, .. } => (0, link, None, Some(*mac)),
            Self::Bridge { link, mac } => (1, link, None, Some(*mac)),
            Self::Neighbour { link, address, .. } => (2, link, Some(*address), None),
        }
    }

    /// The link it belongs to, and goes with.
    pub fn link(&self) -> &str {
        match self {
            Self::Tunnel { link, .. } | Self::Bridge { link, .. } | Self::Neighbour { link, .. } => link,
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel { link, mac, node } => write!(f, "{} on {link} to node {node}", mac_text(*mac)),
            Self::Bridge { link, mac } => write!(f, "{} by bridge port {link}", mac_text(*mac)),
            Self::Neighbour { link, address, mac } => write!(f, "{address} at {} on {link}", mac_text(*mac)),
        }
    }
}

/// A rule that says which routing table a packet's mark leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRule {
    pub family: Family,
    pub priority: u32,
    pub mark: u32,
    pub mask: u32,
    pub action: RuleAction,
}

/// What a rule leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// A routing table.
    Table(u32),
    /// The rule of that priority, for all packets without the mark: they need not pass
    /// the rules between.
    OthersGoto(u32),
    /// Where such a jump ends.
    Nothing,
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for mark {:#x}/{:#x}: ", self.priority, self.mark, self.mask)?;
        match self.action {
            RuleAction::Table(table) => write!(f, "table {table}"),
            RuleAction::OthersGoto(priority) => write!(f, "others to {priority}"),
            RuleAction::Nothing => f.write_str("nothing"),
        }
    }
}

/// The default route of a table of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRoute {
    pub table: u32,
    pub interface: String,
    pub gateway: IpAddr,
}

/// How a link is plugged into a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePort {
    pub bridge: String,
    /// A frame may leave by the port it came from.
    pub hairpin: bool,
    /// No traffic with other isolated ports.
    pub isolated: bool,
    /// The bridge learns from frames which stations are behind the port.
    pub learning: bool,
}

/// A link as it must be or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    pub mtu: u32,
    /// Marks the link as ours in the kernel (`ip link` shows it as alias); empty on
    /// links that we only use.
    pub alias: String,
    pub port: Option<BridgePort>,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    pub interface: String,
    pub gateway: IpAddr,
}

/// Everything wanted in one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedPlace {
    pub links: BTreeMap<String, Link>,
    pub addresses: BTreeSet<(String, IpNet)>,
    pub routes: BTreeSet<DefaultRoute>,
    pub forwarding: BTreeSet<Forwarding>,
    pub policy_rules: BTreeSet<PolicyRule>,
    pub table_routes: BTreeSet<TableRoute>,
    /// Links by which answers come to what this host asked from `::1`. IPv6 has no
    /// `route_localnet`: that takes a route of each link.
    pub loopback_routes: BTreeSet<String>,
    pub sysctls: BTreeMap<String, String>,
    /// Only set where the kernel has them.
    pub optional_sysctls: BTreeMap<String, String>,
    pub table: Option<Table>,
    /// What the bridge lets through.
    pub guard: Option<Table>,
    /// What IPVS balances here, if it does.
    pub balanced: Option<Services>,
}

/// Everything wanted on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub places: BTreeMap<PlaceId, WantedPlace>,
    /// What the desired state asks for and cannot be had, a line each.
    pub impossible: Vec<String>,
    /// Addresses, with their port where only that one is meant, that connections in a
    /// place are translated to: the flows to those that vanish need to be forgotten.
    pub backends: BTreeSet<(PlaceId, IpAddr, Option<u16>)>,
}

/// A link seen in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenLink {
    pub index: u32,
    /// `bridge`, `veth`, `vxlan`, empty for others.
    pub kind: String,
    pub up: bool,
    pub mtu: u32,
    pub mac: Vec<u8>,
    pub alias: String,
    /// Name of the bridge.
    pub bridge: String,
    pub hairpin: bool,
    pub isolated: bool,
    pub learning: bool,
    /// Of a tunnel only; its `mac` is not filled in.
    pub tunnel: Option<Tunnel>,
}

/// One namespace as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenPlace {
    pub links: BTreeMap<String, SeenLink>,
    pub addresses: BTreeSet<(String, IpNet)>,
    pub routes: BTreeSet<DefaultRoute>,
    /// The fixed entries, whoever made them.
    pub forwarding: BTreeSet<Forwarding>,
    /// Only those that netd made.
    pub policy_rules: BTreeSet<PolicyRule>,
    /// Only those that netd made.
    pub table_routes: BTreeSet<TableRoute>,
    /// Only those that netd made.
    pub loopback_routes: BTreeSet<String>,
    /// Only the keys that were asked for.
    pub sysctls: BTreeMap<String, String>,
    pub table: Option<Table>,
    /// Of an overlay only.
    pub guard: Option<Table>,
    /// `None` where the kernel has no IPVS or nobody looked.
    pub balanced: Option<SeenBalancing>,
}

/// Everything seen; a namespace that is gone is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub places: BTreeMap<PlaceId, SeenPlace>,
    /// Places that are there but could not be read, a line each.
    pub unreadable: Vec<String>,
}

/// The tunnel's name in an overlay's namespace.
pub const OVERLAY_TUNNEL: &str = "vxlan0";

/// Makes a host lead packets of IPv6 on. Written with care for links that learn their routers.
pub const FORWARDING_IPV6: &str = "net.ipv6.conf.all.forwarding";

/// The mesh's tunnel in the host's namespace.
pub const MESH_TUNNEL: &str = "skep-ingress";

/// Starts every alias of a link that is ours.
pub const ALIAS_PREFIX: &str = "skep ";

impl SeenLink {
    /// Whether netd made this link.
    pub fn is_ours(&self) -> bool {
        self.alias.starts_with(ALIAS_PREFIX)
    }
}
