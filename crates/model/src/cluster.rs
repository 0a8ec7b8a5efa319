//! The swarm itself: its one settings object, and what every stored object carries.

use crate::id::ClusterId;
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
        }
    }
}

/// The root certificate and the tokens that let nodes join.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootCa {
    pub cert_pem: String,
    /// PKCS#8; only managers ever hold it.
    pub key_pem: String,
    pub worker_token: String,
    pub manager_token: String,
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootCa { .. }")
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
}
