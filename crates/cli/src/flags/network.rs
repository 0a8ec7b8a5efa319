//! Verbs on networks and volumes.

use super::{InspectFlags, ListFlags, PruneFlags, RemoveFlags};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Network {
    /// Connect a container to a network
    Connect(Connect),
    /// Create a network
    Create(Box<NetworkCreate>),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Show everything known of networks
    Inspect(InspectFlags),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Remove unused networks
    Prune(PruneFlags),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
    /// Show the path of a service's packets, with counters
    Trace(TraceFlags),
    /// Compare the kernel with what the networks need
    Verify(VerifyFlags),
}

#[derive(Args, Debug)]
pub(crate) struct TraceFlags {
    /// Service by name or id
    pub(crate) service: String,
    /// Every node of the swarm; ask a manager
    #[arg(long)]
    pub(crate) all_nodes: bool,
    /// Output: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) format: String,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyFlags {
    /// Every node of the swarm; ask a manager
    #[arg(long)]
    pub(crate) all_nodes: bool,
    /// Output: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) format: String,
}

#[derive(Args, Debug)]
pub(crate) struct NetworkCreate {
    /// Containers may be attached to it by hand (overlay)
    #[arg(long)]
    pub(crate) attachable: bool,
    /// Driver
    #[arg(short, long, default_value = "bridge")]
    pub(crate) driver: String,
    /// Subnet (CIDR, repeatable)
    #[arg(long)]
    pub(crate) subnet: Vec<String>,
    /// Gateway of a subnet
    #[arg(long)]
    pub(crate) gateway: Vec<String>,
    /// Part of the subnet to choose addresses from
    #[arg(long)]
    pub(crate) ip_range: Vec<String>,
    /// Reserved address (name=address)
    #[arg(long)]
    pub(crate) aux_address: Vec<String>,
    /// This is the swarm's routing mesh
    #[arg(long)]
    pub(crate) ingress: bool,
    /// No way out
    #[arg(long)]
    pub(crate) internal: bool,
    /// IPv6 too
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Address driver
    #[arg(long, default_value = "default")]
    pub(crate) ipam_driver: String,
    /// Address driver option
    #[arg(long)]
    pub(crate) ipam_opt: Vec<String>,
    /// Set a label
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Driver option
    #[arg(short, long)]
    pub(crate) opt: Vec<String>,
    /// local or swarm
    #[arg(long, default_value = "")]
    pub(crate) scope: String,
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// Another name on this network
    #[arg(long)]
    pub(crate) alias: Vec<String>,
    /// IPv4 address
    #[arg(long, default_value = "")]
    pub(crate) ip: String,
    /// IPv6 address
    #[arg(long, default_value = "")]
    pub(crate) ip6: String,
    pub(crate) network: String,
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Disconnect {
    /// Even when the container is in a bad state
    #[arg(short, long)]
    pub(crate) force: bool,
    pub(crate) network: String,
    pub(crate) container: String,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Volume {
    /// Create a volume
    Create(VolumeCreate),
    /// Show everything known of volumes
    Inspect(InspectFlags),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Remove unused volumes
    Prune(PruneFlags),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
}

#[derive(Args, Debug)]
pub(crate) struct VolumeCreate {
    /// Driver
    #[arg(short, long, default_value = "local")]
    pub(crate) driver: String,
    /// Set a label
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Driver option
    #[arg(short, long)]
    pub(crate) opt: Vec<String>,
    /// Name; empty lets the daemon choose
    #[arg(default_value = "")]
    pub(crate) name: String,
}
