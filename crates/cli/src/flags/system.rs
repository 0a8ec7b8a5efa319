//! Verbs on the daemon and the machine.

use super::FormatOnly;
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum System {
    /// Show disk usage
    Df(FormatOnly),
    /// Say what this machine has and lacks, and what each lack costs
    Doctor(Doctor),
    /// Show events as they happen
    Events(Events),
    /// Show what this daemon and machine are
    Info(FormatOnly),
    /// Remove what is unused: containers, networks, images
    Prune(SystemPrune),
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// text or json
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Folder whose disk is meant (default: the daemon's)
    #[arg(long)]
    pub(crate) data_root: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SystemPrune {
    /// All unused images, not only those without a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Volumes too
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Only what matches key=value (label, until; repeatable)
    #[arg(long)]
    pub(crate) filter: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Only what matches key=value (repeatable)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Go template, or "json"
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Since (a time, or a span such as 10m)
    #[arg(long, default_value = "")]
    pub(crate) since: String,
    /// Until
    #[arg(long, default_value = "")]
    pub(crate) until: String,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// Go template, or "json"
    #[arg(short, long, default_value = "")]
    pub(crate) format: String,
    /// Show sizes of containers
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Only objects of this kind
    #[arg(long = "type", default_value = "")]
    pub(crate) kind: String,
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Folder for skep.1 and the pages of the verbs
    pub(crate) folder: String,
}

#[derive(Args, Debug)]
pub(crate) struct Completion {
    /// bash, zsh, fish, elvish or powershell
    pub(crate) shell: clap_complete::Shell,
}
