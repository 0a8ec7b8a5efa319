//! Verbs on services.

use super::container::HealthFlags;
use super::swarm::PrettyInspect;
use super::{ListFlags, Names};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Service {
    /// Create a service
    Create(Box<Create>),
    /// Show everything known of services
    Inspect(PrettyInspect),
    /// Show the logs of a service or a task
    Logs(Logs),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// List the tasks of services
    Ps(Ps),
    /// Even out where the tasks of services run
    Rebalance(Rebalance),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Names),
    /// Undo the last update of a service
    Rollback(Rollback),
    /// Change how many replicas services have (SERVICE=REPLICAS ...)
    Scale(Scale),
    /// Change a service
    Update(Box<Update>),
    /// Say what a service or task waits for
    Why(WhyFlags),
}

#[derive(Args, Debug)]
pub(crate) struct Rebalance {
    /// All services, and the whole load of the nodes
    #[arg(long)]
    pub(crate) all: bool,
    /// Only say what would be moved
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct WhyFlags {
    /// "json" instead of text for people
    #[arg(long, default_value = "", value_parser = ["", "json"])]
    pub(crate) format: String,
    /// A service's or a task's name or id
    pub(crate) name: String,
}

/// How a verb that changes tasks ends.
#[derive(Args, Debug, Default)]
pub(crate) struct Convergence {
    /// Do not wait for the tasks
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) convergence: Convergence,
    /// Name of the service
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// replicated, global, replicated-job or global-job
    #[arg(long, default_value = "replicated")]
    pub(crate) mode: String,
    /// Number of tasks
    #[arg(long)]
    pub(crate) replicas: Option<u64>,
    /// Tasks of a job at a time
    #[arg(long)]
    pub(crate) max_concurrent: Option<u64>,
    /// Set a label of the service
    #[arg(short, long)]
    pub(crate) label: Vec<String>,
    /// Set a label of its containers
    #[arg(long)]
    pub(crate) container_label: Vec<String>,
    /// Set an environment variable
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    pub(crate) env_file: Vec<String>,
    /// Where tasks may run (node.labels.x==y, repeatable)
    #[arg(long)]
    pub(crate) constraint: Vec<String>,
    /// Spread over a label (spread=node.labels.x, repeatable)
    #[arg(long)]
    pub(crate) placement_pref: Vec<String>,
    /// Reserve resources that nodes declare (kind=count, repeatable)
    #[arg(long)]
    pub(crate) generic_resource: Vec<String>,
    /// Attach to a network (repeatable)
    #[arg(long)]
    pub(crate) network: Vec<String>,
    /// Publish a port (published:target[/protocol] or published=..,target=..,mode=..)
    #[arg(short, long)]
    pub(crate) publish: Vec<String>,
    /// Mount (type=..,source=..,target=..)
    #[arg(long)]
    pub(crate) mount: Vec<String>,
    /// Give it a secret (name or source=..,target=..,mode=..)
    #[arg(long)]
    pub(crate) secret: Vec<String>,
    /// Give it a config (name or source=..,target=..,mode=..)
    #[arg(long)]
    pub(crate) config: Vec<String>,
    /// Add a line to /etc/hosts (name:ip)
    #[arg(long)]
    pub(crate) host: Vec<String>,
    /// DNS server
    #[arg(long)]
    pub(crate) dns: Vec<String>,
    /// DNS option
    #[arg(long)]
    pub(crate) dns_option: Vec<String>,
    /// DNS search domain
    #[arg(long)]
    pub(crate) dns_search: Vec<String>,
    /// Additional groups
    #[arg(long)]
    pub(crate) group: Vec<String>,
    /// Add a capability
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Kernel setting of its namespaces
    #[arg(long)]
    pub(crate) sysctl: Vec<String>,
    /// Limit of the process (name=soft[:hard])
    #[arg(long)]
    pub(crate) ulimit: Vec<String>,
    /// Do not look the image's digest up in its registry
    #[arg(long)]
    pub(crate) no_resolve_image: bool,
    /// Send registry credentials to the nodes
    #[arg(long)]
    pub(crate) with_registry_auth: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Image, command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

/// Flags with the same meaning in `create` and `update`.
#[derive(Args, Debug, Default)]
pub(crate) struct Common {
    /// vip or dnsrr
    #[arg(long)]
    pub(crate) endpoint_mode: Option<String>,
    /// Replace the image's entrypoint
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Host name (templates such as {{.Task.Slot}} allowed)
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Run a small init as process 1
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) init: Option<bool>,
    /// Give it a terminal
    #[arg(short, long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) tty: Option<bool>,
    /// Root filesystem read-only
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) read_only: Option<bool>,
    /// User (name|uid[:group|gid])
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    pub(crate) workdir: Option<String>,
    /// Signal that stops it
    #[arg(long)]
    pub(crate) stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL
    #[arg(long)]
    pub(crate) stop_grace_period: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) limit_cpu: Option<String>,
    /// Memory limit
    #[arg(long)]
    pub(crate) limit_memory: Option<String>,
    /// Limit of processes
    #[arg(long)]
    pub(crate) limit_pids: Option<i64>,
    /// CPUs to reserve
    #[arg(long)]
    pub(crate) reserve_cpu: Option<String>,
    /// Memory to reserve
    #[arg(long)]
    pub(crate) reserve_memory: Option<String>,
    /// Tasks on one node at most
    #[arg(long)]
    pub(crate) replicas_max_per_node: Option<u64>,
    /// none, on-failure or any
    #[arg(long)]
    pub(crate) restart_condition: Option<String>,
    /// Time before a task is replaced
    #[arg(long)]
    pub(crate) restart_delay: Option<String>,
    /// Replacements at most (0: no limit)
    #[arg(long)]
    pub(crate) restart_max_attempts: Option<u64>,
    /// Time in which replacements are counted
    #[arg(long)]
    pub(crate) restart_window: Option<String>,
    /// Tasks updated at a time (0: all)
    #[arg(long)]
    pub(crate) update_parallelism: Option<u64>,
    /// Time between updates
    #[arg(long)]
    pub(crate) update_delay: Option<String>,
    /// pause, continue or rollback
    #[arg(long)]
    pub(crate) update_failure_action: Option<String>,
    /// Time a task is watched after its update
    #[arg(long)]
    pub(crate) update_monitor: Option<String>,
    /// Share of failures that is tolerated
    #[arg(long)]
    pub(crate) update_max_failure_ratio: Option<f32>,
    /// stop-first or start-first
    #[arg(long)]
    pub(crate) update_order: Option<String>,
    /// Tasks rolled back at a time (0: all)
    #[arg(long)]
    pub(crate) rollback_parallelism: Option<u64>,
    /// Time between rollbacks
    #[arg(long)]
    pub(crate) rollback_delay: Option<String>,
    /// pause or continue
    #[arg(long)]
    pub(crate) rollback_failure_action: Option<String>,
    /// Time a task is watched after its rollback
    #[arg(long)]
    pub(crate) rollback_monitor: Option<String>,
    /// Share of failures that is tolerated
    #[arg(long)]
    pub(crate) rollback_max_failure_ratio: Option<f32>,
    /// stop-first or start-first
    #[arg(long)]
    pub(crate) rollback_order: Option<String>,
    /// Log driver
    #[arg(long)]
    pub(crate) log_driver: Option<String>,
    /// Log driver option
    #[arg(long)]
    pub(crate) log_opt: Vec<String>,
    /// How readily it is killed when memory runs out
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i32>,
    #[command(flatten)]
    pub(crate) health: HealthFlags,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    #[command(flatten)]
    pub(crate) convergence: Convergence,
    /// Image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Command and arguments
    #[arg(long)]
    pub(crate) args: Option<String>,
    /// Do not look the image's digest up in its registry
    #[arg(long)]
    pub(crate) no_resolve_image: bool,
    /// Send registry credentials to the nodes
    #[arg(long)]
    pub(crate) with_registry_auth: bool,
    /// Number of tasks
    #[arg(long)]
    pub(crate) replicas: Option<u64>,
    /// Tasks of a job at a time
    #[arg(long)]
    pub(crate) max_concurrent: Option<u64>,
    /// Add a placement preference, the last one decides least (spread=node.labels.x)
    #[arg(long)]
    pub(crate) placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long)]
    pub(crate) placement_pref_rm: Vec<String>,
    /// Reserve resources that nodes declare (kind=count)
    #[arg(long)]
    pub(crate) generic_resource_add: Vec<String>,
    /// Stop reserving a kind of resource
    #[arg(long)]
    pub(crate) generic_resource_rm: Vec<String>,
    /// Replace every task even if nothing changed
    #[arg(long)]
    pub(crate) force: bool,
    /// Go back to the previous state
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Add or change a label of the service
    #[arg(long)]
    pub(crate) label_add: Vec<String>,
    /// Remove a label of the service
    #[arg(long)]
    pub(crate) label_rm: Vec<String>,
    /// Add or change a label of its containers
    #[arg(long)]
    pub(crate) container_label_add: Vec<String>,
    /// Remove a label of its containers
    #[arg(long)]
    pub(crate) container_label_rm: Vec<String>,
    /// Add or change an environment variable
    #[arg(long)]
    pub(crate) env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long)]
    pub(crate) env_rm: Vec<String>,
    /// Add a placement constraint
    #[arg(long)]
    pub(crate) constraint_add: Vec<String>,
    /// Remove a placement constraint
    #[arg(long)]
    pub(crate) constraint_rm: Vec<String>,
    /// Attach to a network
    #[arg(long)]
    pub(crate) network_add: Vec<String>,
    /// Detach from a network
    #[arg(long)]
    pub(crate) network_rm: Vec<String>,
    /// Publish a port
    #[arg(long)]
    pub(crate) publish_add: Vec<String>,
    /// Stop publishing a target port
    #[arg(long)]
    pub(crate) publish_rm: Vec<String>,
    /// Add a mount
    #[arg(long)]
    pub(crate) mount_add: Vec<String>,
    /// Remove a mount by its target
    #[arg(long)]
    pub(crate) mount_rm: Vec<String>,
    /// Add a secret
    #[arg(long)]
    pub(crate) secret_add: Vec<String>,
    /// Remove a secret
    #[arg(long)]
    pub(crate) secret_rm: Vec<String>,
    /// Add a config
    #[arg(long)]
    pub(crate) config_add: Vec<String>,
    /// Remove a config
    #[arg(long)]
    pub(crate) config_rm: Vec<String>,
    #[command(flatten)]
    pub(crate) common: Common,
    pub(crate) service: String,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Go on as lines are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only since (a time, or a span such as 10m)
    #[arg(long, default_value = "")]
    pub(crate) since: String,
    /// Last lines only, or "all"
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Show times
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Do not say which task wrote a line
    #[arg(long)]
    pub(crate) raw: bool,
    /// Ids instead of the names of service and node
    #[arg(long)]
    pub(crate) no_resolve: bool,
    /// Without the task's id
    #[arg(long)]
    pub(crate) no_task_ids: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// A service's or a task's name or id
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Ids instead of names
    #[arg(long)]
    pub(crate) no_resolve: bool,
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) convergence: Convergence,
    pub(crate) service: String,
}

#[derive(Args, Debug)]
pub(crate) struct Scale {
    /// Do not wait for the tasks
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    pub(crate) targets: Vec<String>,
}
