//! Verbs on containers.

use super::{InspectFlags, ListFlags, Names, PruneFlags};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Container {
    /// Attach to a running container
    Attach(Attach),
    /// Make an image of a container's changes
    Commit(super::container_files::Commit),
    /// Copy files between a container and this machine
    Cp(super::container_files::Cp),
    /// Create a new container without starting it
    Create(Box<Create>),
    /// List what changed in a container's filesystem
    Diff(super::container_files::Diff),
    /// Run a command in a running container
    Exec(Exec),
    /// Write a container's filesystem as a tar archive
    Export(super::container_files::Export),
    /// Show everything known of containers
    Inspect(InspectFlags),
    /// Kill running containers
    Kill(Kill),
    /// Show the logs of a container
    Logs(Logs),
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(Ps),
    /// Pause all processes of containers
    Pause(Names),
    /// List port mappings of a container
    Port(Port),
    /// Remove all stopped containers
    Prune(PruneFlags),
    /// Rename a container
    Rename(Rename),
    /// Restart containers
    Restart(Stop),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Create and run a new container from an image
    Run(Box<Run>),
    /// Start stopped containers
    Start(Start),
    /// Show what containers use, as it changes
    Stats(super::container_tune::Stats),
    /// Stop running containers
    Stop(Stop),
    /// Show the processes of a container
    Top(Top),
    /// Continue all processes of containers
    Unpause(Names),
    /// Change limits of containers
    Update(Box<super::container_tune::Update>),
    /// Wait until containers stop and print their exit codes
    Wait(Names),
}

#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Run {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Key sequence that detaches
    #[arg(long, default_value = "")]
    pub(crate) detach_keys: String,
    /// Pass signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    #[command(flatten)]
    pub(crate) create: CreateFlags,
}

#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Create {
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) create: CreateFlags,
}

/// What `run` and `create` share.
#[derive(Args, Debug, Default)]
pub(crate) struct CreateFlags {
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    pub(crate) help: Option<bool>,

    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Attach to stdin, stdout or stderr (repeatable)
    #[arg(short, long)]
    pub(crate) attach: Vec<String>,
    /// Name of the container
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Set an environment variable (KEY=value, or KEY from here)
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    pub(crate) env_file: Vec<String>,
    /// Replace the image's entrypoint
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Working directory
    #[arg(short, long, default_value = "")]
    pub(crate) workdir: String,
    /// User (name|uid[:group|gid])
    #[arg(short, long, default_value = "")]
    pub(crate) user: String,
    /// Additional groups
    #[arg(long)]
    pub(crate) group_add: Vec<String>,
    /// Run a small init as process 1
    #[arg(long)]
    pub(crate) init: bool,
    /// no, always, unless-stopped or on-failure[:N]
    #[arg(long, default_value = "no")]
    pub(crate) restart: String,
    /// Signal that stops it
    #[arg(long, default_value = "")]
    pub(crate) stop_signal: String,
    /// Seconds between the stop signal and SIGKILL
    #[arg(long)]
    pub(crate) stop_timeout: Option<i64>,
    /// Pull before creating: always, missing or never
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// Platform of the image (os/arch)
    #[arg(long, default_value = "")]
    pub(crate) platform: String,
    /// Do not show pull progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the id to this file
    #[arg(long)]
    pub(crate) cidfile: Option<String>,
    /// Set a label
    #[arg(short, long)]
    pub(crate) label: Vec<String>,
    /// Set an annotation
    #[arg(long)]
    pub(crate) annotation: Vec<String>,

    /// Publish a port ([[ip:]host:]container[/protocol])
    #[arg(short, long)]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports on free host ports
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port
    #[arg(long)]
    pub(crate) expose: Vec<String>,
    /// Connect to a network (repeatable; name, host, none, container:NAME, or name=..,alias=..,ip=..)
    #[arg(long, visible_alias = "net")]
    pub(crate) network: Vec<String>,
    /// Another name on its network
    #[arg(long, visible_alias = "net-alias")]
    pub(crate) network_alias: Vec<String>,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// MAC address
    #[arg(long, default_value = "")]
    pub(crate) mac_address: String,
    /// DNS server
    #[arg(long)]
    pub(crate) dns: Vec<String>,
    /// DNS option
    #[arg(long)]
    pub(crate) dns_option: Vec<String>,
    /// DNS search domain
    #[arg(long)]
    pub(crate) dns_search: Vec<String>,
    /// Add a line to /etc/hosts (name:ip)
    #[arg(long)]
    pub(crate) add_host: Vec<String>,
    /// Host name
    #[arg(short = 'h', long, default_value = "")]
    pub(crate) hostname: String,
    /// NIS domain name
    #[arg(long, default_value = "")]
    pub(crate) domainname: String,

    /// Mount a volume or a folder (source:target[:options])
    #[arg(short, long)]
    pub(crate) volume: Vec<String>,
    /// Mount, long form (type=..,source=..,target=..)
    #[arg(long)]
    pub(crate) mount: Vec<String>,
    /// Mount a tmpfs (target[:options])
    #[arg(long)]
    pub(crate) tmpfs: Vec<String>,
    /// Mount the volumes of another container
    #[arg(long)]
    pub(crate) volumes_from: Vec<String>,
    /// Root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Size of /dev/shm
    #[arg(long)]
    pub(crate) shm_size: Option<String>,

    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Soft memory limit
    #[arg(long)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory plus swap; -1 is unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0)]
    pub(crate) cpu_shares: i64,
    /// CPU period, microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_period: i64,
    /// CPU quota, microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_quota: i64,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long, default_value = "")]
    pub(crate) cpuset_cpus: String,
    /// Memory nodes to use
    #[arg(long, default_value = "")]
    pub(crate) cpuset_mems: String,
    /// Limit of processes; -1 is unlimited
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) pids_limit: i64,
    /// Limit of the process (name=soft[:hard])
    #[arg(long)]
    pub(crate) ulimit: Vec<String>,
    /// Do not kill it when memory runs out
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// How readily it is killed when memory runs out (-1000 to 1000)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: i32,
    /// cgroup below which it lives
    #[arg(long, default_value = "")]
    pub(crate) cgroup_parent: String,

    /// All capabilities and devices
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set)]
    pub(crate) privileged: bool,
    /// Add a capability
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Add a device (host[:container[:rwm]])
    #[arg(long)]
    pub(crate) device: Vec<String>,
    /// Security option
    #[arg(long)]
    pub(crate) security_opt: Vec<String>,
    /// Kernel setting of its namespaces (net.x=1)
    #[arg(long)]
    pub(crate) sysctl: Vec<String>,
    /// User namespace
    #[arg(long, default_value = "")]
    pub(crate) userns: String,
    /// PID namespace (host, container:NAME)
    #[arg(long, default_value = "")]
    pub(crate) pid: String,
    /// IPC namespace
    #[arg(long, default_value = "")]
    pub(crate) ipc: String,
    /// UTS namespace
    #[arg(long, default_value = "")]
    pub(crate) uts: String,
    /// cgroup namespace (host, private)
    #[arg(long, default_value = "")]
    pub(crate) cgroupns: String,
    /// Runtime
    #[arg(long, default_value = "")]
    pub(crate) runtime: String,

    #[command(flatten)]
    pub(crate) health: HealthFlags,
    /// Log driver
    #[arg(long, default_value = "")]
    pub(crate) log_driver: String,
    /// Log driver option
    #[arg(long)]
    pub(crate) log_opt: Vec<String>,

    /// Image, command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug, Default)]
pub(crate) struct HealthFlags {
    /// Command that tells whether it is healthy
    #[arg(long)]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks
    #[arg(long)]
    pub(crate) health_interval: Option<String>,
    /// Time one check may take
    #[arg(long)]
    pub(crate) health_timeout: Option<String>,
    /// Failures until it is unhealthy
    #[arg(long)]
    pub(crate) health_retries: Option<u32>,
    /// Time to start in which failures do not count
    #[arg(long)]
    pub(crate) health_start_period: Option<String>,
    /// Time between checks during the start period
    #[arg(long)]
    pub(crate) health_start_interval: Option<String>,
    /// Switch the image's health check off
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Key sequence that detaches
    #[arg(long, default_value = "")]
    pub(crate) detach_keys: String,
    /// Set an environment variable
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    pub(crate) env_file: Vec<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// All capabilities
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set)]
    pub(crate) privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User (name|uid[:group|gid])
    #[arg(short, long, default_value = "")]
    pub(crate) user: String,
    /// Working directory
    #[arg(short, long, default_value = "")]
    pub(crate) workdir: String,
    /// Container, command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    /// Stopped ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The newest N, whatever their state
    #[arg(short = 'n', long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) last: i64,
    /// The newest one
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Show sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Args, Debug)]
pub(crate) struct Attach {
    /// Key sequence that detaches
    #[arg(long, default_value = "")]
    pub(crate) detach_keys: String,
    /// Do not attach standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Attach to its output
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Attach to its input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// Signal to send instead of its own
    #[arg(short, long, default_value = "")]
    pub(crate) signal: String,
    /// Seconds before SIGKILL; -1 waits for ever
    #[arg(short, long, visible_alias = "timeout", allow_hyphen_values = true)]
    pub(crate) time: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Kill {
    /// Signal
    #[arg(short, long, default_value = "KILL")]
    pub(crate) signal: String,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// Running ones too
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Anonymous volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Remove a link (not supported)
    #[arg(short, long)]
    pub(crate) link: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Go on as lines are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Extra attributes of each line
    #[arg(long)]
    pub(crate) details: bool,
    /// Only since (a time, or a span such as 10m)
    #[arg(long, default_value = "")]
    pub(crate) since: String,
    /// Only until
    #[arg(long, default_value = "")]
    pub(crate) until: String,
    /// Last lines only, or "all"
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Show times
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Port {
    pub(crate) container: String,
    /// Only this port (80 or 80/udp)
    pub(crate) port: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rename {
    pub(crate) container: String,
    pub(crate) new_name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Top {
    pub(crate) container: String,
    /// Options for ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}
