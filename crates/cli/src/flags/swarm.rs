//! Verbs on the swarm, its nodes, secrets and configs.

use super::{ListFlags, RemoveFlags};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub(crate) enum Swarm {
    /// Write the whole swarm, encrypted, to a file
    Backup(Backup),
    /// Show the swarm's root certificate, or replace it
    Ca(Ca),
    /// Start a new swarm
    Init(Box<Init>),
    /// Join a swarm
    Join(Join),
    /// Show and rotate join tokens
    JoinToken(JoinToken),
    /// Leave the swarm
    Leave(Leave),
    /// Start a swarm of one manager from a backup
    Restore(Restore),
    /// Unlock this node's manager
    Unlock,
    /// Show and rotate the key that unlocks managers
    UnlockKey(UnlockKey),
    /// Change settings of the swarm
    Update(Update),
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// File with the passphrase; without it, the swarm's unlock key is used if there is one
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// File to write
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// File with the passphrase or unlock key of the backup
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Address other nodes reach this one at
    #[arg(long, default_value = "")]
    pub(crate) advertise_addr: String,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:2377")]
    pub(crate) listen_addr: String,
    /// Address or interface for traffic between containers
    #[arg(long, default_value = "")]
    pub(crate) data_path_addr: String,
    /// File to read
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Ca {
    /// Replace the root certificate; without a certificate of yours a new one is made
    #[arg(long)]
    pub(crate) rotate: bool,
    /// File with the root certificate to use from now on (PEM)
    #[arg(long)]
    pub(crate) ca_cert: Option<PathBuf>,
    /// File with the key of that certificate (PEM)
    #[arg(long)]
    pub(crate) ca_key: Option<PathBuf>,
    /// Validity of node certificates
    #[arg(long)]
    pub(crate) cert_expiry: Option<String>,
    /// Signing endpoint outside the swarm (protocol=cfssl,url=https://host/sign[,cacert=FILE])
    #[arg(long)]
    pub(crate) external_ca: Vec<String>,
    /// Do not wait until every node has moved
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct UnlockKey {
    /// Make a new key; the old one stops working
    #[arg(long)]
    pub(crate) rotate: bool,
    /// Only the key
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Address other nodes reach this one at (address or interface[:port])
    #[arg(long, default_value = "")]
    pub(crate) advertise_addr: String,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:2377")]
    pub(crate) listen_addr: String,
    /// Address or interface for traffic between containers
    #[arg(long, default_value = "")]
    pub(crate) data_path_addr: String,
    /// UDP port for traffic between containers
    #[arg(long, default_value_t = 0)]
    pub(crate) data_path_port: u16,
    /// Address pool of overlay networks (CIDR)
    #[arg(long)]
    pub(crate) default_addr_pool: Vec<String>,
    /// Prefix length of each subnet
    #[arg(long, default_value_t = 24)]
    pub(crate) default_addr_pool_mask_length: u8,
    /// active, pause or drain
    #[arg(long, default_value = "active")]
    pub(crate) availability: String,
    /// Make a new cluster of this node's state alone
    #[arg(long)]
    pub(crate) force_new_cluster: bool,
    /// Lock managers: their keys need an unlock key after a restart
    #[arg(long)]
    pub(crate) autolock: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What `init` and `update` share.
#[derive(Args, Debug)]
pub(crate) struct Settings {
    /// Validity of node certificates
    #[arg(long)]
    pub(crate) cert_expiry: Option<String>,
    /// Period of heartbeats
    #[arg(long)]
    pub(crate) dispatcher_heartbeat: Option<String>,
    /// Old snapshots to keep
    #[arg(long)]
    pub(crate) max_snapshots: Option<u64>,
    /// Log entries between snapshots
    #[arg(long)]
    pub(crate) snapshot_interval: Option<u64>,
    /// Old tasks to keep for each slot
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) task_history_limit: Option<i64>,
    /// Signing endpoint outside the swarm (protocol=cfssl,url=https://host/sign[,cacert=FILE])
    #[arg(long)]
    pub(crate) external_ca: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Join token (it says whether the node becomes a worker or a manager)
    #[arg(long)]
    pub(crate) token: String,
    /// Address other nodes reach this one at
    #[arg(long, default_value = "")]
    pub(crate) advertise_addr: String,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:2377")]
    pub(crate) listen_addr: String,
    /// Address or interface for traffic between containers
    #[arg(long, default_value = "")]
    pub(crate) data_path_addr: String,
    /// active, pause or drain
    #[arg(long, default_value = "active")]
    pub(crate) availability: String,
    /// A manager's address
    pub(crate) remote: String,
}

#[derive(Args, Debug)]
pub(crate) struct JoinToken {
    /// Make a new token; the old one stops working
    #[arg(long)]
    pub(crate) rotate: bool,
    /// Only the token
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// worker or manager
    #[arg(value_parser = ["worker", "manager"])]
    pub(crate) role: String,
}

#[derive(Args, Debug)]
pub(crate) struct Leave {
    /// Even when this is a manager
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Whether managers are locked after a restart
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) autolock: Option<bool>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Node {
    /// Make managers workers
    Demote(super::Names),
    /// Show everything known of nodes
    Inspect(PrettyInspect),
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Make workers managers
    Promote(super::Names),
    /// List the tasks of nodes
    Ps(NodePs),
    /// Remove nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
    /// Change a node
    Update(NodeUpdate),
}

#[derive(Args, Debug)]
pub(crate) struct PrettyInspect {
    /// Go template, or "json"
    #[arg(short, long, default_value = "")]
    pub(crate) format: String,
    /// For people
    #[arg(long)]
    pub(crate) pretty: bool,
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct NodePs {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Nodes; self when none is named
    pub(crate) nodes: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct NodeUpdate {
    /// active, pause or drain
    #[arg(long)]
    pub(crate) availability: Option<String>,
    /// Add a label (key=value)
    #[arg(long)]
    pub(crate) label_add: Vec<String>,
    /// Remove a label
    #[arg(long)]
    pub(crate) label_rm: Vec<String>,
    /// worker or manager
    #[arg(long)]
    pub(crate) role: Option<String>,
    pub(crate) node: String,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Secret {
    /// Create a secret from a file or standard input
    Create(CreateFile),
    /// Show what is known of secrets (never their content)
    Inspect(PrettyInspect),
    /// List secrets
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Remove secrets
    #[command(visible_alias = "remove")]
    Rm(super::Names),
    /// Give a secret new content; services that use it are restarted one by one
    Update(UpdateFile),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Create a config from a file or standard input
    Create(CreateFile),
    /// Show everything known of configs
    Inspect(PrettyInspect),
    /// List configs
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Remove configs
    #[command(visible_alias = "remove")]
    Rm(super::Names),
    /// Give a config new content; services that use it are restarted one by one
    Update(UpdateFile),
}

#[derive(Args, Debug)]
pub(crate) struct UpdateFile {
    /// Add or change a label
    #[arg(long)]
    pub(crate) label_add: Vec<String>,
    /// Remove a label
    #[arg(long)]
    pub(crate) label_rm: Vec<String>,
    pub(crate) name: String,
    /// File, or - for standard input; without it only labels change
    #[arg(required_unless_present_any = ["label_add", "label_rm"])]
    pub(crate) file: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CreateFile {
    /// Set a label
    #[arg(short, long)]
    pub(crate) label: Vec<String>,
    /// The content is a template of this language (golang), filled in for each task
    #[arg(long)]
    pub(crate) template_driver: Option<String>,
    /// Driver that keeps the content (secrets only)
    #[arg(short, long)]
    pub(crate) driver: Option<String>,
    pub(crate) name: String,
    /// File, or - for standard input
    pub(crate) file: Option<String>,
}
