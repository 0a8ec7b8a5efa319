//! Our own words for what a Dockerfile says.

use super::lines::Heredoc;
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
    Run {
        command: Command,
        heredocs: Vec<Heredoc>,
        network: Option<String>,
    },
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
    /// Octal, permission bits only.
    pub(crate) chmod: Option<u32>,
}

impl Transfer {
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
