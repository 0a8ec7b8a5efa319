//! Our own words for what a Dockerfile says.

use super::lines::Heredoc;
use super::mount::{Expand, RunMount};
use std::time::Duration;

/// One instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    /// The joined source line, as the build prints it.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

/// Nothing is expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run(Run),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Transfer(Transfer),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Maintainer(String),
    Healthcheck(Health),
    /// The trigger's source, here-documents included.
    Onbuild(String),
}

/// Shell form or exec (JSON) form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) command: Command,
    pub(crate) heredocs: Vec<Heredoc>,
    /// `host` or `none`; `None` is the build's own.
    pub(crate) network: Option<String>,
    pub(crate) mounts: Vec<MountText>,
}

/// A mount before its variables are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountText {
    pub(crate) text: String,
    pub(crate) from: Option<String>,
}

impl MountText {
    /// Checks all that can be checked now.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let mount = RunMount::parse_unexpanded(text)?;
        Ok(Self { text: text.to_owned(), from: mount.from })
    }

    /// # Errors
    /// A variable led to something that makes no sense.
    pub(crate) fn expand(&self, expand: Expand<'_>) -> Result<RunMount, String> {
        RunMount::parse(&self.text, expand)
    }
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// `ADD`: local archives are unpacked.
    pub(crate) add: bool,
    pub(crate) sources: Vec<CopySource>,
    pub(crate) destination: String,
    /// Stage name, stage index or image.
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    /// Octal permission bits, possibly from a variable.
    pub(crate) chmod: Option<String>,
    /// Patterns of what is left out, below each source.
    pub(crate) excludes: Vec<String>,
    /// Of what is behind the one address of an ADD.
    pub(crate) checksum: Option<String>,
    pub(crate) keep_git_dir: bool,
    /// Whether archives are unpacked; `None` is the keyword's habit.
    pub(crate) unpack: Option<bool>,
}

impl Transfer {
    /// Without flags.
    pub(crate) fn new(add: bool, destination: String) -> Self {
        Self {
            add,
            sources: Vec::new(),
            destination,
            from: None,
            chown: None,
            chmod: None,
            excludes: Vec::new(),
            checksum: None,
            keep_git_dir: false,
            unpack: None,
        }
    }

    pub(crate) fn keyword(&self) -> &'static str {
        if self.add { "ADD" } else { "COPY" }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CopySource {
    Path(String),
    /// A file with this name and content.
    Inline(Heredoc),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    None,
    /// `None` durations and retries inherit.
    Check {
        command: Command,
        interval: Option<Duration>,
        timeout: Option<Duration>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
        retries: Option<u32>,
    },
}
