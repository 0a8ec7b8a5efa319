//! Verbs on images.

use super::{InspectFlags, ListFlags, PruneFlags};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Image {
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// Show the history of an image
    History(History),
    /// Create an image from a root filesystem tarball
    Import(Import),
    /// Show everything known of images
    Inspect(InspectFlags),
    /// Load images from a tar archive or standard input
    Load(Load),
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Remove unused images
    Prune(PruneFlags),
    /// Download an image from a registry
    Pull(Pull),
    /// Upload an image to a registry
    Push(Push),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Rmi),
    /// Save images to a tar archive
    Save(Save),
    /// Give an image another name
    Tag(Tag),
}

#[derive(Args, Debug)]
pub(crate) struct Build {
    /// Name of the image (name:tag, repeatable)
    #[arg(short, long)]
    pub(crate) tag: Vec<String>,
    /// Dockerfile (default: Dockerfile in the context)
    #[arg(short, long)]
    pub(crate) file: Option<String>,
    /// Value of an ARG
    #[arg(long)]
    pub(crate) build_arg: Vec<String>,
    /// Set a label
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Stop at this stage
    #[arg(long, default_value = "")]
    pub(crate) target: String,
    /// Run every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Take the steps of this image where they are the same (repeatable)
    #[arg(long)]
    pub(crate) cache_from: Vec<String>,
    /// Secret for RUN --mount=type=secret (id=NAME,src=FILE or id=NAME,env=VARIABLE; repeatable)
    #[arg(long)]
    pub(crate) secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh (default, or ID=SOCKET; repeatable)
    #[arg(long)]
    pub(crate) ssh: Vec<String>,
    /// How steps are shown: auto, plain, tty or classic
    #[arg(long, default_value = "auto")]
    pub(crate) progress: String,
    /// Pull base images even when they are here
    #[arg(long)]
    pub(crate) pull: bool,
    /// Print only the image's id
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Network of RUN steps
    #[arg(long, default_value = "")]
    pub(crate) network: String,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long)]
    pub(crate) add_host: Vec<String>,
    /// Write the image's id to this file
    #[arg(long)]
    pub(crate) iidfile: Option<String>,
    /// Platform of the image (os/arch)
    #[arg(long, default_value = "")]
    pub(crate) platform: String,
    /// Memory limit of RUN steps
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Size of /dev/shm of RUN steps
    #[arg(long)]
    pub(crate) shm_size: Option<String>,
    /// Folder of the build context, or - for a tar on standard input
    pub(crate) context: String,
}

#[derive(Args, Debug)]
pub(crate) struct Pull {
    /// Every tag of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform of the image (os/arch)
    #[arg(long, default_value = "")]
    pub(crate) platform: String,
    pub(crate) image: String,
}

#[derive(Args, Debug)]
pub(crate) struct Push {
    /// Every tag of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    pub(crate) image: String,
}

#[derive(Args)]
pub(crate) struct Login {
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password; others can read it in the list of processes
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Registry (host[:port])
    #[arg(default_value = "")]
    pub(crate) server: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Args, Debug)]
pub(crate) struct Logout {
    /// Registry (host[:port])
    #[arg(default_value = "")]
    pub(crate) server: String,
}

#[derive(Args, Debug)]
pub(crate) struct Images {
    /// Intermediate images too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Only this repository (name or name:tag)
    pub(crate) repository: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct History {
    /// Readable sizes and times
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) human: bool,
    /// "table", "json" or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    pub(crate) image: String,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Dockerfile instruction for the image's config (repeatable)
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Platform of the image (os/arch)
    #[arg(long, default_value = "")]
    pub(crate) platform: String,
    /// Tar file, or - for standard input
    pub(crate) file: String,
    /// Name of the image
    pub(crate) reference: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Load {
    /// Tar file instead of standard input
    #[arg(short, long)]
    pub(crate) input: Option<String>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Save {
    /// File instead of standard output
    #[arg(short, long)]
    pub(crate) output: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rmi {
    /// Even when containers or other names refer to it
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Tag {
    pub(crate) source: String,
    pub(crate) target: String,
}

#[derive(Args, Debug)]
pub(crate) struct Search {
    /// At most so many
    #[arg(long, default_value_t = 25)]
    pub(crate) limit: u32,
    pub(crate) term: String,
}
