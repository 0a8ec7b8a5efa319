//! Verbs on stacks.

use super::{ListFlags, Names};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Stack {
    /// Print the merged compose file
    Config(Config),
    /// Deploy a new stack or update one
    #[command(visible_alias = "up")]
    Deploy(Deploy),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the tasks of a stack
    Ps(Ps),
    /// Remove stacks
    #[command(visible_aliases = ["down", "remove"])]
    Rm(Rm),
    /// List the services of a stack
    Services(Services),
}

/// Which files to read, and how.
#[derive(Args, Debug)]
pub(crate) struct Files {
    /// Compose file, or - for standard input (repeatable; later ones win)
    #[arg(short = 'c', long = "compose-file", required = true)]
    pub(crate) compose_file: Vec<String>,
    /// Services of this profile too (repeatable; also COMPOSE_PROFILES)
    #[arg(long)]
    pub(crate) profile: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Leave variables as they are
    #[arg(long)]
    pub(crate) skip_interpolation: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Do not wait for the tasks (services still wait for what they depend on)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) detach: bool,
    /// Remove services that the files no longer name
    #[arg(long)]
    pub(crate) prune: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Look the images' digests up in their registries: always, changed or never
    #[arg(long, default_value = "always")]
    pub(crate) resolve_image: String,
    /// Send registry credentials to the nodes
    #[arg(long)]
    pub(crate) with_registry_auth: bool,
    pub(crate) stack: String,
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// "table", "table TEMPLATE", "json" or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Ids instead of names
    #[arg(long)]
    pub(crate) no_resolve: bool,
    pub(crate) stack: String,
}

#[derive(Args, Debug)]
pub(crate) struct Services {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    pub(crate) stack: String,
}

#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// Do not wait until everything is gone
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) stacks: Names,
}
