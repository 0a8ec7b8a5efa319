//! The swarm itself: its one settings object, and what every stored object carries.

use crate::id::{ClusterId, NodeId};
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Version and times of a stored object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Raft index of the last change; updates must name it.
    pub version: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Settings of the swarm, changed by `swarm update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSpec {
    /// Always `default`.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Dead tasks kept per slot; negative keeps all.
    pub task_history_retention_limit: i64,
    pub heartbeat_period: Duration,
    pub node_cert_expiry: Duration,
    /// Log entries between snapshots.
    pub snapshot_interval: u64,
    pub keep_old_snapshots: u64,
    pub log_entries_for_slow_followers: u64,
    pub election_tick: u32,
    pub heartbeat_tick: u32,
    pub auto_lock_managers: bool,
    /// Bumped by `swarm ca --rotate`.
    pub ca_force_rotate: u64,
    /// Endpoints that sign instead of the managers, in the order in which they are asked.
    pub external_cas: Vec<ExternalCa>,
    /// Root certificate that the user gave; its key, if any, is in [`RootCa`] only.
    pub signing_ca_cert: String,
    /// Its key, PEM. Only in a request: it is never stored here.
    #[serde(skip)]
    pub signing_ca_key: SecretBytes,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: "default".into(),
            labels: BTreeMap::new(),
            task_history_retention_limit: 5,
            heartbeat_period: Duration::from_secs(5),
            node_cert_expiry: Duration::from_secs(90 * 24 * 3600),
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
            auto_lock_managers: false,
            ca_force_rotate: 0,
            external_cas: Vec::new(),
            signing_ca_cert: String::new(),
            signing_ca_key: SecretBytes::default(),
        }
    }
}

/// An endpoint outside of the swarm that signs nodes' certificates, by the protocol of CFSSL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalCa {
    /// `https://host[:port]/path` of its `sign` call.
    pub url: String,
    /// Kept and shown as the user gave them.
    pub options: BTreeMap<String, String>,
    /// The root certificate (PEM) that it signs for; empty: the swarm's present one.
    pub ca_cert: String,
}

/// The root certificate and the tokens that let nodes join.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootCa {
    pub cert_pem: String,
    /// PKCS#8; only managers ever hold it. Empty when external CAs alone sign.
    pub key_pem: String,
    pub worker_token: String,
    pub manager_token: String,
    /// Digest of `cert_pem`, as join tokens carry it. Empty in a store of an older version.
    pub digest: String,
    /// The root that is to replace this one.
    pub rotation: Option<RootRotation>,
    /// `ClusterSpec::ca_force_rotate` that was last obeyed.
    pub last_forced_rotation: u64,
}

impl RootCa {
    /// Digest of the root that signs at present.
    pub fn signing_digest(&self) -> &str {
        self.rotation.as_ref().map_or(&self.digest, |rotation| &rotation.digest)
    }

    /// The root that signs at present.
    pub fn signing_pem(&self) -> &str {
        self.rotation.as_ref().map_or(&self.cert_pem, |rotation| &rotation.cert_pem)
    }

    /// The key of that root; empty when external CAs alone sign.
    pub fn signing_key_pem(&self) -> &str {
        self.rotation.as_ref().map_or(&self.key_pem, |rotation| &rotation.key_pem)
    }

    /// What nodes are to trust: the root, and with it the one that is to replace it.
    pub fn trust_pem(&self) -> String {
        match &self.rotation {
            Some(rotation) => format!("{}\n{}", self.cert_pem.trim_end(), rotation.cert_pem),
            None => self.cert_pem.clone(),
        }
    }

    /// Without what only managers may know.
    pub fn without_keys(mut self) -> Self {
        self.key_pem.clear();
        if let Some(rotation) = &mut self.rotation {
            rotation.key_pem.clear();
        }
        self
    }
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootCa { .. }")
    }
}

/// A root certificate on its way to replace the present one. New certificates are signed by
/// it already; who trusts only the present one is convinced by `cross_signed_pem`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootRotation {
    pub cert_pem: String,
    pub key_pem: String,
    pub digest: String,
    /// The new root's name and key, certified by the present root.
    pub cross_signed_pem: String,
}

impl std::fmt::Debug for RootRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootRotation").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretBytes(pub Vec<u8>);

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes { .. }")
    }
}

/// The one cluster object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    pub id: ClusterId,
    pub meta: Meta,
    pub spec: ClusterSpec,
    pub root_ca: RootCa,
    pub default_address_pools: Vec<IpNet>,
    /// Prefix length of each overlay subnet.
    pub subnet_size: u8,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// Key that unlocks managers after a restart; empty: they are not locked.
    pub unlock_key: SecretBytes,
    /// Counts the changes of `unlock_key`.
    pub unlock_key_version: u64,
    /// Nodes that were removed, until no certificate of theirs can still hold.
    pub removed_nodes: BTreeMap<NodeId, Timestamp>,
}
