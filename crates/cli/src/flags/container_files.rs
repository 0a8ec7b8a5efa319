//! Verbs on what is in containers: cp, diff, export, commit.

use clap::Args;

#[derive(Args, Debug)]
#[command(
    override_usage = "skep cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       skep cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
)]
pub(crate) struct Cp {
    /// Keep owners and groups
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a symbolic link at the source leads to
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Do not say what was copied
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// CONTAINER:PATH, a path, or - for a tar archive on standard input
    pub(crate) source: String,
    /// CONTAINER:PATH, a path, or - for a tar archive on standard output
    pub(crate) destination: String,
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// File to write instead of standard output
    #[arg(short, long)]
    pub(crate) output: Option<String>,
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Commit {
    /// Author of the image
    #[arg(short, long, default_value = "")]
    pub(crate) author: String,
    /// Apply a Dockerfile instruction (repeatable)
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Pause the container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) pause: bool,
    pub(crate) container: String,
    /// REPOSITORY[:TAG]
    pub(crate) reference: Option<String>,
}
