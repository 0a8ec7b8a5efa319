//! The grammar: every verb and flag, defined once. Help, completion and man pages come
//! from here.

pub(crate) mod builder;
pub(crate) mod compose;
pub(crate) mod container;
pub(crate) mod container_files;
pub(crate) mod container_tune;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod service;
pub(crate) mod stack;
pub(crate) mod swarm;
pub(crate) mod system;

use clap::{Args, Parser, Subcommand};

/// Containers on one machine, services on many: one small binary, docker's grammar.
#[derive(Parser, Debug)]
#[command(
    name = "skep",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Run 'skep COMMAND --help' for more on a command.\nThe daemon is started with 'skep daemon'; a first cluster with 'skep swarm init'."
)]
pub(crate) struct Skep {
    /// Daemon to talk to, before the verb: unix:///path or tcp://address:port
    // Not global: verbs have a `--host` of their own, which would be taken for this one.
    #[arg(short = 'H', long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    // everyday verbs
    /// Create and run a new container from an image
    Run(Box<container::Run>),
    /// Run a command in a running container
    Exec(container::Exec),
    /// List containers
    Ps(container::Ps),
    /// Build an image from a Dockerfile
    Build(Box<image::Build>),
    /// Download an image from a registry
    Pull(image::Pull),
    /// Upload an image to a registry
    Push(image::Push),
    /// List images
    Images(image::Images),
    /// Show version information
    Version(FormatOnly),
    /// Show what this daemon and machine are
    Info(FormatOnly),

    // groups
    /// Manage projects of compose files on this machine
    Compose(Box<compose::Compose>),
    /// Manage containers
    #[command(subcommand)]
    Container(container::Container),
    /// Manage images
    #[command(subcommand)]
    Image(image::Image),
    /// Manage builds
    #[command(subcommand)]
    Builder(builder::Builder),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Network),
    /// Manage volumes
    #[command(subcommand)]
    Volume(network::Volume),
    /// Manage the swarm
    #[command(subcommand)]
    Swarm(swarm::Swarm),
    /// Manage swarm nodes
    #[command(subcommand)]
    Node(swarm::Node),
    /// Manage services
    #[command(subcommand)]
    Service(service::Service),
    /// Manage stacks of services
    #[command(subcommand)]
    Stack(stack::Stack),
    /// Manage secrets
    #[command(subcommand)]
    Secret(swarm::Secret),
    /// Manage configs
    #[command(subcommand)]
    Config(swarm::Config),
    /// Manage the system
    #[command(subcommand)]
    System(system::System),

    // the rest of docker's top level
    /// Attach to a running container
    Attach(container::Attach),
    /// Make an image of a container's changes
    Commit(container_files::Commit),
    /// Copy files between a container and this machine
    Cp(container_files::Cp),
    /// Create a new container without starting it
    Create(Box<container::Create>),
    /// List what changed in a container's filesystem
    Diff(container_files::Diff),
    /// Write a container's filesystem as a tar archive
    Export(container_files::Export),
    /// Show events as they happen
    Events(system::Events),
    /// Show the history of an image
    History(image::History),
    /// Create an image from a root filesystem tarball
    Import(image::Import),
    /// Show everything known of an object
    Inspect(system::Inspect),
    /// Kill running containers
    Kill(container::Kill),
    /// Load images from a tar archive or standard input
    Load(image::Load),
    /// Log in to a registry
    Login(image::Login),
    /// Log out from a registry
    Logout(image::Logout),
    /// Show the logs of a container
    Logs(container::Logs),
    /// Pause all processes of containers
    Pause(Names),
    /// List port mappings of a container
    Port(container::Port),
    /// Rename a container
    Rename(container::Rename),
    /// Restart containers
    Restart(container::Stop),
    /// Remove containers
    Rm(container::Rm),
    /// Remove images
    Rmi(image::Rmi),
    /// Save images to a tar archive
    Save(image::Save),
    /// Search a registry for images
    Search(image::Search),
    /// Start stopped containers
    Start(container::Start),
    /// Show what containers use, as it changes
    Stats(container_tune::Stats),
    /// Stop running containers
    Stop(container::Stop),
    /// Give an image another name
    Tag(image::Tag),
    /// Show the processes of a container
    Top(container::Top),
    /// Continue all processes of containers
    Unpause(Names),
    /// Change limits of containers
    Update(Box<container_tune::Update>),
    /// Wait until containers stop and print their exit codes
    Wait(Names),
    /// Print a completion script for a shell
    Completion(system::Completion),
    /// Write man pages into a folder
    Man(system::Man),
}

/// One or more objects.
#[derive(Args, Debug)]
pub(crate) struct Names {
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct FormatOnly {
    /// Go template, or "json"
    #[arg(short, long, default_value = "")]
    pub(crate) format: String,
}

/// Flags every list has.
#[derive(Args, Debug)]
pub(crate) struct ListFlags {
    /// Only what matches key=value (repeatable)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// "table", "table TEMPLATE", "json" or a Go template
    #[arg(long, default_value = "")]
    pub(crate) format: String,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids and texts
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// `inspect` of one kind.
#[derive(Args, Debug)]
pub(crate) struct InspectFlags {
    /// Go template, or "json"
    #[arg(short, long, default_value = "")]
    pub(crate) format: String,
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// Removal of one kind.
#[derive(Args, Debug)]
pub(crate) struct RemoveFlags {
    /// Also what is in use, where that is possible
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// Removal of what is unused.
#[derive(Args, Debug)]
pub(crate) struct PruneFlags {
    /// All that is unused, not only what has no name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only what matches key=value (repeatable)
    #[arg(long)]
    pub(crate) filter: Vec<String>,
}
