//! The path of a service's packets on one node, with what the kernel counted along it.

use crate::id::{NetworkId, ServiceId, TaskId};
use crate::network::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// All paths that one node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceTrace {
    /// Empty when the node knows no such service.
    pub id: ServiceId,
    pub name: String,
    /// `ipvs` or `nftables`.
    pub balancer: String,
    pub networks: Vec<NetworkTrace>,
    pub ports: Vec<PortTrace>,
}

/// From a name on one network to its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTrace {
    pub network: NetworkId,
    pub name: String,
    /// The namespace that balances, as it is entered by name.
    pub namespace: String,
    /// `None` where the name leads to the tasks' own addresses.
    pub vip: Option<IpAddr>,
    /// The source that tasks see of what was balanced here.
    pub balancer_address: Option<IpAddr>,
    /// Bridge and tunnel, by name.
    pub links: BTreeMap<String, LinkCounters>,
    /// Frames of tasks here that posed as another.
    pub forged_frames: u64,
    pub backends: Vec<BackendTrace>,
    /// What is not as wanted in the namespace, a line each.
    pub problems: Vec<String>,
}

/// One task behind a name or a published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTrace {
    pub task: TaskId,
    /// `web.1.<task id>`, empty where it is not known.
    pub name: String,
    /// Where the balancer leads to; port 0 keeps the one that was asked for.
    pub target: SocketAddr,
    /// Takes no new connection.
    pub draining: bool,
    pub way: Way,
    /// That this node balanced and its kernel still tracks: open, or over for less than two
    /// minutes. Those to one node's tasks by a published port cannot be told apart.
    pub connections: u64,
}

/// How a packet gets from the balancer to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By a port of the bridge.
    Here { link: String, counters: LinkCounters },
    /// By the tunnel to a node's end of it.
    Tunnel { node: IpAddr },
    /// This node does not know where the address is.
    Nowhere,
}

/// A port of the routing mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTrace {
    pub published_port: u16,
    pub target_port: u16,
    pub protocol: Protocol,
    /// The tunnel to other nodes.
    pub links: BTreeMap<String, LinkCounters>,
    pub backends: Vec<BackendTrace>,
    /// What is not as wanted on the host, a line each.
    pub problems: Vec<String>,
}

/// What a link has carried, as its own end counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkCounters {
    pub received_packets: u64,
    pub sent_packets: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Both directions, errors included.
    pub dropped_packets: u64,
}
