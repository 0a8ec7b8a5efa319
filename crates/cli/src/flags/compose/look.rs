//! Verbs that look at a project and change nothing, and copying.

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Config {
    /// yaml or json
    #[arg(long, default_value = "yaml")]
    pub(crate) format: String,
    /// The hash of each service, of all with "*"
    #[arg(long)]
    pub(crate) hash: Option<String>,
    /// Only the images' names
    #[arg(long)]
    pub(crate) images: bool,
    /// Leave variables as they are
    #[arg(long)]
    pub(crate) no_interpolate: bool,
    /// Write to this file
    #[arg(short, long)]
    pub(crate) output: Option<String>,
    /// Only the profiles' names
    #[arg(long)]
    pub(crate) profiles: bool,
    /// Only check
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only the services' names
    #[arg(long)]
    pub(crate) services: bool,
    /// Only the volumes' names
    #[arg(long)]
    pub(crate) volumes: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Cp {
    /// Keep owners and groups
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a symbolic link at the source leads to
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Number of the container
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u64,
    /// SERVICE:PATH or a path
    pub(crate) source: String,
    /// SERVICE:PATH or a path
    pub(crate) destination: String,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Since (a time, or a span such as 10m)
    #[arg(long, default_value = "")]
    pub(crate) since: String,
    /// Until
    #[arg(long, default_value = "")]
    pub(crate) until: String,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Images {
    /// table or json
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Go on as lines are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of the container
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u64,
    /// No colours
    #[arg(long)]
    pub(crate) no_color: bool,
    /// No names before the lines
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
    /// Only since (a time, or a span such as 10m)
    #[arg(long, default_value = "")]
    pub(crate) since: String,
    /// Last lines only, or "all"
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Show times
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only until
    #[arg(long, default_value = "")]
    pub(crate) until: String,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Stopped ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// table or json
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Only names
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Port {
    /// Number of the container
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u64,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    pub(crate) protocol: String,
    pub(crate) service: String,
    pub(crate) private_port: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    /// Stopped ones and one-off runs too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only status=STATE
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// table, json or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only the services' names
    #[arg(long)]
    pub(crate) services: bool,
    /// Only those in this state (repeatable)
    #[arg(long)]
    pub(crate) status: Vec<String>,
    #[arg(value_name = "SERVICE")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// "table", "table TEMPLATE", "json" or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// One reading only
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}
