//! What one network namespace must hold, as plain values: the common language of
//! desired and observed, so that comparing is one pure function.

use crate::balance::ipvs::table::{SeenBalancing, Services};
use crate::nft::table::Table;
use ipnet::IpNet;
use skep_model::id::NetworkId;
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
    /// The tunnel of an overlay.
    Vxlan { vni: u32, port: u16 },
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

/// How a link is plugged into a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePort {
    pub bridge: String,
    /// A frame may leave by the port it came from.
    pub hairpin: bool,
    /// No traffic with other isolated ports.
    pub isolated: bool,
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
    pub sysctls: BTreeMap<String, String>,
    /// Only set where the kernel has them.
    pub optional_sysctls: BTreeMap<String, String>,
    pub table: Option<Table>,
    /// What IPVS balances here, if it does.
    pub balanced: Option<Services>,
}

/// Everything wanted on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub places: BTreeMap<PlaceId, WantedPlace>,
    /// What the desired state asks for and cannot be had, a line each.
    pub impossible: Vec<String>,
    /// Addresses that connections were translated to by name of their place: those
    /// that vanish need their connections flushed.
    pub backends: BTreeSet<(PlaceId, IpAddr)>,
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
}

/// One namespace as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenPlace {
    pub links: BTreeMap<String, SeenLink>,
    pub addresses: BTreeSet<(String, IpNet)>,
    pub routes: BTreeSet<DefaultRoute>,
    /// Only the keys that were asked for.
    pub sysctls: BTreeMap<String, String>,
    pub table: Option<Table>,
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

/// Starts every alias of a link that is ours.
pub const ALIAS_PREFIX: &str = "skep ";

impl SeenLink {
    /// Whether netd made this link.
    pub fn is_ours(&self) -> bool {
        self.alias.starts_with(ALIAS_PREFIX)
    }
}
