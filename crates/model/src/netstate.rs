//! The desired network state of one node: the contract between those who decide
//! (the engine for local networks, the agent for the swarm's) and netd, which
//! makes the kernel equal to it.
//!
//! The state has two sections with one owner each. The *local* section (networks,
//! endpoints) is edited object by object by the engine; the *cluster* section is
//! replaced as a whole by the agent, with a generation number that never goes back.
//! An endpoint of a swarm task sits in the local section and refers to a network of
//! the cluster section.

use crate::id::{ContainerId, EndpointId, NetworkId, ServiceId, TaskId};
use crate::network::Protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// How a network is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// A bridge in the host's namespace; outgoing traffic is masqueraded unless internal.
    Bridge {
        /// Kernel name, at most 15 bytes (`docker0`, `br-0123456789ab`).
        bridge: String,
        /// Containers on it may talk to each other.
        inter_container: bool,
        masquerade: bool,
    },
    /// A VXLAN-carried bridge in a namespace of its own.
    Overlay {
        vni: u32,
        /// UDP port of the tunnel.
        vxlan_port: u16,
    },
    /// The tunnel in the host's namespace that carries published ports' connections
    /// from the node they came to, to the node that runs a task.
    Mesh {
        vni: u32,
        /// UDP port of the tunnel.
        vxlan_port: u16,
    },
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub net: IpNet,
    pub gateway: Option<IpAddr>,
}

/// A network that must exist on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredNetwork {
    pub id: NetworkId,
    pub name: String,
    pub kind: NetworkKind,
    pub subnets: Vec<Subnet>,
    /// No way out of the network.
    pub internal: bool,
    /// 0 is the kind's default (1500, 1450 for overlays).
    pub mtu: u32,
    /// Name resolution by container and service name (off on the default bridge only).
    pub dns: bool,
}

/// A host port that leads to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DesiredPort {
    /// `None` is every address of the host, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// One container's leg on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredEndpoint {
    pub id: EndpointId,
    pub network: NetworkId,
    pub container: ContainerId,
    /// Path of the container's network namespace (a bind mount made by the engine).
    pub netns: PathBuf,
    /// Name inside the namespace (`eth0`).
    pub interface: String,
    pub addresses: Vec<IpNet>,
    pub mac: [u8; 6],
    /// This leg carries the default route.
    pub default_route: bool,
    /// Names answered with this leg's addresses on its network.
    pub dns_names: Vec<String>,
    /// Ports published through this leg.
    pub ports: Vec<DesiredPort>,
    /// `net.*` sysctls to set inside the namespace.
    pub sysctls: BTreeMap<String, String>,
}

/// The embedded resolver of one namespace (127.0.0.11), present when any leg's network has `dns`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolverConfig {
    /// Servers for names that are not ours; empty is the host's own.
    pub upstream: Vec<IpAddr>,
}

/// One running task behind a service's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    pub task: TaskId,
    pub address: IpAddr,
    /// Also resolvable by this name (`web.1.<task id>`), empty for none.
    pub name: String,
    /// 0 while draining: keeps open connections, takes no new one.
    pub weight: u16,
}

/// A service's name, VIP and backends on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredService {
    pub id: ServiceId,
    pub name: String,
    pub aliases: Vec<String>,
    pub network: NetworkId,
    /// `None` in `dnsrr` mode: the name resolves to the backends themselves.
    pub vip: Option<IpAddr>,
    /// Beside `vip`, on networks with IPv6.
    #[serde(default)]
    pub vip_ipv6: Option<IpAddr>,
    pub backends: Vec<Backend>,
}

impl DesiredService {
    /// Its virtual addresses, at most one of each family.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.vip.into_iter().chain(self.vip_ipv6)
    }
}

/// Where a published port's connections may go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressBackend {
    /// A task on this node: the address is looked up from the endpoint that this
    /// container's id has on the gateway bridge.
    Local {
        task: TaskId,
        container: ContainerId,
        /// Told to stop: it keeps what it has and takes only what other nodes, which may
        /// not know yet, send when nobody else is here to take it.
        #[serde(default)]
        draining: bool,
    },
    /// A task elsewhere, reached through that node's ingress address.
    Remote {
        task: TaskId,
        node_address: IpAddr,
        /// It also takes connections over IPv6.
        #[serde(default)]
        ipv6: bool,
    },
}

/// A port published through the routing mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredIngress {
    pub service: ServiceId,
    pub published_port: u16,
    pub target_port: u16,
    pub protocol: Protocol,
    pub backends: Vec<IngressBackend>,
}

/// Something on a swarm network that lives on another node: a task's leg, or that
/// node's own balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub mac: [u8; 6],
    /// Where its node's end of the tunnel is.
    pub tunnel: IpAddr,
}

/// Everything the swarm wants of this node's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetState {
    pub generation: u64,
    /// Where this node's end of every tunnel is; `None` leaves it to the kernel.
    pub data_path_address: Option<IpAddr>,
    pub networks: Vec<DesiredNetwork>,
    /// What is on other nodes, of the networks above.
    pub remotes: BTreeMap<NetworkId, Vec<RemoteEndpoint>>,
    /// This node's own address on each overlay, where its balancer answers.
    pub load_balancer_addresses: BTreeMap<NetworkId, IpNet>,
    /// The same of networks with IPv6.
    pub load_balancer_addresses_ipv6: BTreeMap<NetworkId, IpNet>,
    /// Of the other nodes of the mesh, whose own connections may be led back to them.
    pub node_addresses: BTreeSet<IpAddr>,
    pub services: Vec<DesiredService>,
    pub ingress: Vec<DesiredIngress>,
}

/// Everything the engine wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalNetState {
    pub networks: Vec<DesiredNetwork>,
    pub endpoints: Vec<DesiredEndpoint>,
    /// Namespace path to its resolver.
    pub resolvers: BTreeMap<PathBuf, ResolverConfig>,
}

/// What netd is and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetdStatus {
    pub pid: u32,
    /// `ipvs` or `nftables`.
    pub balancer: String,
    pub cluster_generation: u64,
    /// Kernel objects found different from the desired state and repaired since start.
    pub repairs: u64,
    /// Objects that could not be made so, with the reason.
    pub failing: Vec<String>,
    pub counters: NetdCounters,
}

/// What containers asked, and what they were kept from doing to others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetdCounters {
    /// Since netd started.
    pub dns_queries: u64,
    /// That were no query.
    pub dns_malformed: u64,
    /// Beyond a container's share.
    pub dns_dropped: u64,
    /// Frames whose sender posed as another, of each overlay that has some, since its namespace
    /// was made.
    pub forged_frames: BTreeMap<NetworkId, u64>,
}

/// All legs of one container, attached together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    pub endpoints: Vec<DesiredEndpoint>,
    pub resolver: Option<ResolverConfig>,
}
