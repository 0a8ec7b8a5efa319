//! A member of the swarm.

use crate::cluster::Meta;
use crate::id::{NetworkId, NodeId};
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Worker,
    Manager,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }

    /// The organisational unit in the node's certificate.
    pub fn certificate_unit(self) -> &'static str {
        match self {
            Self::Worker => "swarm-worker",
            Self::Manager => "swarm-manager",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    /// Keeps what it runs, gets nothing new.
    Pause,
    /// Runs nothing.
    Drain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Not heard of since the leader changed.
    #[default]
    Unknown,
    Down,
    Ready,
    Disconnected,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub role: Role,
    pub availability: Availability,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `x86_64`
    pub architecture: String,
    pub os: String,
}

/// What the node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDescription {
    pub hostname: String,
    pub platform: Platform,
    pub nano_cpus: i64,
    pub memory_bytes: i64,
    /// Kind to how many there are.
    pub generic_resources: BTreeMap<String, i64>,
    /// Kind to the names of those that differ, such as the ids of GPUs. A kind is
    /// either counted or named.
    pub named_resources: BTreeMap<String, BTreeSet<String>>,
    pub engine_version: String,
    /// Those of its links that others may know it by, of both families.
    pub addresses: BTreeSet<IpAddr>,
    pub engine_labels: BTreeMap<String, String>,
    /// (type, name), e.g. `("Volume", "local")`.
    pub plugins: Vec<(String, String)>,
    /// PEM of the root this node trusts.
    pub trust_root_pem: String,
    pub cert_issuer_subject_der: Vec<u8>,
    pub cert_issuer_public_key_der: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    /// Address the managers see.
    pub address: String,
    /// When `state` last changed. Set by the store.
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagerStatus {
    pub raft_id: u64,
    /// `host:port`
    pub address: String,
    pub leader: bool,
    pub reachable: bool,
}

/// What the managers know of the certificate they gave a node last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeCertificate {
    /// Digest of the root that signed it.
    pub issuer: String,
    /// SHA-256 of its public key, in hex.
    pub key_digest: String,
    pub not_after: Timestamp,
    /// The node is to ask for another one now.
    pub renewal_due: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    pub manager_status: Option<ManagerStatus>,
    /// Role its certificate may say; follows `spec.role`, a demotion once it is out of Raft.
    pub role: Role,
    /// This node's own balancer address on each overlay it runs tasks on.
    pub attachments: BTreeMap<NetworkId, IpNet>,
    /// The same of those with IPv6, beside the IPv4 address.
    pub attachments_ipv6: BTreeMap<NetworkId, IpNet>,
    /// `host` part of the address peers reach its data path at.
    pub data_path_address: String,
    pub certificate: NodeCertificate,
}
