//! Verbs on what containers use: stats, update.

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// Stopped containers too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// "table", "table TEMPLATE", "json" or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// One reading only
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Containers; all that run when none is named
    pub(crate) containers: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Weight of block IO (10 to 1000)
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// CPU period, microseconds
    #[arg(long)]
    pub(crate) cpu_period: Option<i64>,
    /// CPU quota, microseconds
    #[arg(long)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long)]
    pub(crate) cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) cpus: Option<String>,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Soft memory limit
    #[arg(long)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory plus swap; -1 is unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Limit of processes; -1 is unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// no, always, unless-stopped or on-failure[:N]
    #[arg(long)]
    pub(crate) restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}
