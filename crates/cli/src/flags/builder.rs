//! Verbs on builds.

use super::image::Build;
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Builder {
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// Remove build caches
    Prune(Prune),
}

#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// Also forget the results of steps, and images only they keep
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what matches key=value (until, id; repeatable)
    #[arg(long)]
    pub(crate) filter: Vec<String>,
    /// Keep so much of what was used last
    #[arg(long)]
    pub(crate) keep_storage: Option<String>,
}
