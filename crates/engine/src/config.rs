//! What the engine must be told at start.

use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Survives a reboot: images, containers, volumes, networks.
    pub data_root: PathBuf,
    /// Does not: run directories of shims, sockets.
    pub exec_root: PathBuf,
    /// The skep binary, run as `<program> shim <run directory>`.
    pub program: PathBuf,
    /// `host[:port]` or CIDR of registries spoken to over plain HTTP or without
    /// verifying certificates. Loopback always is.
    pub insecure_registries: Vec<String>,
    /// Tried before docker.io, as URLs.
    pub registry_mirrors: Vec<String>,
    /// cgroup below which containers live; `docker` by habit of the clients is `/docker`, ours `/skep`.
    pub cgroup_parent: String,
    /// Default for containers that set none.
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Address range of the default bridge, `172.17.0.1/16` unless set.
    pub bridge_address: Option<ipnet::IpNet>,
}
