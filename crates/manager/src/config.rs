//! What a manager is told at start.

use ipnet::IpNet;
use skep_identity::{CertStore, Vault};
use skep_model::cluster::ClusterSpec;
use skep_model::node::{Availability, NodeDescription};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const DATA_KEY_FILE: &str = "data.key";

/// Where a manager keeps its state and is reached.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Holds `certificates/` (see [`skep_identity::CertStore`]) and `raft/`; mode 0700.
    pub state_dir: PathBuf,
    /// Where to listen for nodes; port 0 takes a free one.
    pub listen_addr: SocketAddr,
    /// `host:port` other nodes reach this manager at. Empty, or with port 0: the address listened on.
    pub advertise_addr: String,
    /// Keeps the key of all that lies in `state_dir`; see [`ManagerConfig::vault_of`].
    pub vault: Vault,
}

impl ManagerConfig {
    /// The folder of this node's certificates.
    pub fn certificates_dir(&self) -> PathBuf {
        self.state_dir.join("certificates")
    }

    /// The vault of a manager with that state directory. One for the whole life of a process:
    /// it remembers the unlock key it was told.
    pub fn vault_of(state_dir: &Path) -> Vault {
        Vault::new(raft_dir(state_dir).join(DATA_KEY_FILE))
    }

    /// This node's certificates, the private key of which the vault may protect.
    pub fn certificates(&self) -> CertStore {
        CertStore::with_vault(self.certificates_dir(), self.vault.clone())
    }

    pub(crate) fn raft_dir(&self) -> PathBuf {
        raft_dir(&self.state_dir)
    }
}

pub(crate) fn raft_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("raft")
}

/// What a new swarm starts with.
#[derive(Debug, Clone)]
pub struct SwarmInit {
    pub spec: ClusterSpec,
    /// Pools that overlay subnets are cut from; empty is the default, 10.0.0.0/8.
    pub default_address_pools: Vec<IpNet>,
    /// Prefix length of each overlay subnet; 0 is the default, 24.
    pub subnet_size: u8,
    /// UDP port of VXLAN; 0 is the default, 4789.
    pub data_path_port: u16,
    /// `host` part peers reach this node's data path at; empty is that of the advertised address.
    pub data_path_address: String,
    pub availability: Availability,
    /// What this node tells of itself, as its agent will.
    pub description: NodeDescription,
}

impl Default for SwarmInit {
    fn default() -> Self {
        Self {
            spec: ClusterSpec::default(),
            default_address_pools: Vec::new(),
            subnet_size: 0,
            data_path_port: 0,
            data_path_address: String::new(),
            availability: Availability::Active,
            description: NodeDescription::default(),
        }
    }
}
