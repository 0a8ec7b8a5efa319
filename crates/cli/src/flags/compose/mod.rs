//! Verbs on projects: the containers, networks and volumes of compose files on one machine.

mod look;

use clap::{Args, Subcommand};
pub(crate) use look::{Config, Cp, Events, Images, Logs, Ls, Port, Ps, Stats};

#[derive(Args, Debug)]
pub(crate) struct Compose {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which project.
#[derive(Args, Debug, Clone)]
pub(crate) struct Files {
    /// Compose file, or - for standard input (repeatable; later ones win)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<String>,
    /// Name of the project (default: the folder's)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) project_name: Option<String>,
    /// Folder in which relative paths begin (default: the first file's)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) project_directory: Option<String>,
    /// Services of this profile too (repeatable; also COMPOSE_PROFILES)
    #[arg(long)]
    pub(crate) profile: Vec<String>,
    /// File of variables instead of .env (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Build the services' images
    Build(Build),
    /// Print the files as they are understood
    #[command(visible_alias = "convert")]
    Config(Config),
    /// Copy files between a service's container and this machine
    Cp(Cp),
    /// Make containers without starting them
    Create(Create),
    /// Stop and remove containers and networks
    Down(Down),
    /// Show events of the project's containers
    Events(Events),
    /// Run a command in a running container of a service
    Exec(Exec),
    /// List the images that the containers use
    Images(Images),
    /// Kill containers
    Kill(Kill),
    /// Show the containers' output
    Logs(Logs),
    /// List projects
    Ls(Ls),
    /// Pause services
    Pause(Services),
    /// Show where a port of a service is published
    Port(Port),
    /// List containers
    Ps(Ps),
    /// Download the services' images
    Pull(Pull),
    /// Upload the services' images
    Push(Push),
    /// Restart services
    Restart(Restart),
    /// Remove stopped containers
    Rm(Rm),
    /// Run a command in a new container of a service
    Run(Box<Run>),
    /// Change how many containers services have
    Scale(Scale),
    /// Start services
    Start(Services),
    /// Show what the containers use, as it changes
    Stats(Stats),
    /// Stop services
    Stop(Stop),
    /// Show the processes of services
    Top(Services),
    /// Continue paused services
    Unpause(Services),
    /// Make and start everything
    Up(Box<Up>),
    /// Wait until a container of the services stops
    Wait(Services),
}

/// Services; all when none is named.
#[derive(Args, Debug)]
pub(crate) struct Services {
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug, Default)]
pub(crate) struct Build {
    /// Value of an ARG (repeatable)
    #[arg(long)]
    pub(crate) build_arg: Vec<String>,
    /// Run every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Pull base images even when they are here
    #[arg(long)]
    pub(crate) pull: bool,
    /// Push the images afterwards
    #[arg(long)]
    pub(crate) push: bool,
    /// Only errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Images of the services they depend on too
    #[arg(long)]
    pub(crate) with_dependencies: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// How containers are made and replaced.
#[derive(Args, Debug, Default)]
pub(crate) struct Making {
    /// Build images first
    #[arg(long)]
    pub(crate) build: bool,
    /// Replace containers even when nothing changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub(crate) force_recreate: bool,
    /// Never build images
    #[arg(long, conflicts_with = "build")]
    pub(crate) no_build: bool,
    /// Leave containers as they are even when something changed
    #[arg(long)]
    pub(crate) no_recreate: bool,
    /// Pull first: always, missing or never
    #[arg(long)]
    pub(crate) pull: Option<String>,
    /// No progress of pulls
    #[arg(long)]
    pub(crate) quiet_pull: bool,
    /// Remove containers of services that the files no longer name
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// SERVICE=NUMBER of containers (repeatable)
    #[arg(long, value_name = "SERVICE=NUMBER")]
    pub(crate) scale: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) making: Making,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Stop all when one container stops
    #[arg(long, conflicts_with = "detach")]
    pub(crate) abort_on_container_exit: bool,
    /// Replace what others depend on even when nothing changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub(crate) always_recreate_deps: bool,
    /// Show only the output of this service (repeatable)
    #[arg(long, conflicts_with = "detach")]
    pub(crate) attach: Vec<String>,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// End with this service's exit code; implies --abort-on-container-exit
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    pub(crate) exit_code_from: Option<String>,
    /// Do not show the output of this service (repeatable)
    #[arg(long, conflicts_with = "detach")]
    pub(crate) no_attach: Vec<String>,
    /// No colours
    #[arg(long)]
    pub(crate) no_color: bool,
    /// Leave alone what the services depend on
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// No names before the lines
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
    /// Make without starting
    #[arg(long)]
    pub(crate) no_start: bool,
    /// New anonymous volumes instead of those of the containers before
    #[arg(short = 'V', long)]
    pub(crate) renew_anon_volumes: bool,
    /// Seconds before SIGKILL when containers are stopped
    #[arg(short, long)]
    pub(crate) timeout: Option<i64>,
    /// Show times
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Wait until services run and are healthy; implies --detach
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait at most
    #[arg(long)]
    pub(crate) wait_timeout: Option<u64>,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Down {
    /// Containers of services that the files no longer name too
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Images too: all, or local for those without a name of their own
    #[arg(long)]
    pub(crate) rmi: Option<String>,
    /// Seconds before SIGKILL
    #[arg(short, long)]
    pub(crate) timeout: Option<i64>,
    /// Volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Set an environment variable (repeatable)
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Number of the container
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u64,
    /// No terminal
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY")]
    pub(crate) no_tty: bool,
    /// All capabilities
    #[arg(long)]
    pub(crate) privileged: bool,
    /// User (name|uid[:group|gid])
    #[arg(short, long, default_value = "")]
    pub(crate) user: String,
    /// Working directory
    #[arg(short, long, default_value = "")]
    pub(crate) workdir: String,
    /// Service, command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_names = ["SERVICE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Kill {
    /// Containers of services that the files no longer name too
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Signal
    #[arg(short, long, default_value = "SIGKILL")]
    pub(crate) signal: String,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Pull {
    /// Go on when one cannot be pulled
    #[arg(long)]
    pub(crate) ignore_pull_failures: bool,
    /// Not those that can be built
    #[arg(long)]
    pub(crate) ignore_buildable: bool,
    /// Images of the services they depend on too
    #[arg(long)]
    pub(crate) include_deps: bool,
    /// missing or always
    #[arg(long, default_value = "always")]
    pub(crate) policy: String,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Push {
    /// Go on when one cannot be pushed
    #[arg(long)]
    pub(crate) ignore_push_failures: bool,
    /// Images of the services they depend on too
    #[arg(long)]
    pub(crate) include_deps: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Restart {
    /// Not those that depend on them
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// Seconds before SIGKILL
    #[arg(short, long)]
    pub(crate) timeout: Option<i64>,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Stop them first
    #[arg(short, long)]
    pub(crate) stop: bool,
    /// Anonymous volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Build images first
    #[arg(long)]
    pub(crate) build: bool,
    /// Add a capability (repeatable)
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability (repeatable)
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Run in the background and print the container's name
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Replace the image's entrypoint
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Set an environment variable (repeatable)
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Keep standard input open
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) interactive: bool,
    /// Set a label (repeatable)
    #[arg(short, long)]
    pub(crate) label: Vec<String>,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// No terminal
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY")]
    pub(crate) no_tty: bool,
    /// Do not start what the service depends on
    #[arg(long)]
    pub(crate) no_deps: bool,
    /// Publish a port (repeatable)
    #[arg(short, long)]
    pub(crate) publish: Vec<String>,
    /// Pull first: always, missing or never
    #[arg(long)]
    pub(crate) pull: Option<String>,
    /// No progress of pulls
    #[arg(long)]
    pub(crate) quiet_pull: bool,
    /// Remove containers of services that the files no longer name
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Publish the service's ports
    #[arg(short = 'P', long)]
    pub(crate) service_ports: bool,
    /// Use the service's names on its networks
    #[arg(long)]
    pub(crate) use_aliases: bool,
    /// User (name|uid[:group|gid])
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Mount a volume or a folder (repeatable)
    #[arg(short, long)]
    pub(crate) volume: Vec<String>,
    /// Working directory
    #[arg(short, long)]
    pub(crate) workdir: Option<String>,
    /// Service, command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["SERVICE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Scale {
    /// Leave alone what the services depend on
    #[arg(long)]
    pub(crate) no_deps: bool,
    #[arg(required = true, value_name = "SERVICE=NUMBER")]
    pub(crate) numbers: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// Seconds before SIGKILL
    #[arg(short, long)]
    pub(crate) timeout: Option<i64>,
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}
