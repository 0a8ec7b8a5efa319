//! What can end a build, with the text the user sees.

use super::expand::ExpandError;
use super::parse::ParseError;
use skep_model::Error;
use std::io;

pub(crate) type BuildResult<T> = Result<T, BuildError>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("failed to process {word:?}: {source}")]
    Expand { word: String, source: ExpandError },
    #[error("Cannot locate specified Dockerfile: {0}")]
    MissingDockerfile(String),
    /// The context itself is wrong or hostile.
    #[error("{0}")]
    Context(String),
    /// An instruction asks for what cannot be.
    #[error("{0}")]
    Instruction(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i32 },
    /// The receiver of the output is gone.
    #[error("Build cancelled")]
    Cancelled,
    #[error("No image was generated. Is your Dockerfile empty?")]
    NoImage,
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error(transparent)]
    Engine(#[from] Error),
}

impl BuildError {
    /// With the line of the Dockerfile, for what Docker has no words of its own for.
    pub(crate) fn at_line(self, line: usize) -> Self {
        match self {
            Self::Unsupported(message) if line > 0 => ParseError::Unsupported { line, message }.into(),
            other => other,
        }
    }

    /// For `map_err`: the failed system call with what it was for.
    pub(crate) fn io<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source: source.into() }
    }
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        let message = error.to_string();
        match error {
            BuildError::Engine(error) => error,
            BuildError::Parse(ParseError::Unsupported { .. }) | BuildError::Unsupported(_) => {
                Self::not_implemented(message)
            }
            BuildError::Parse(_)
            | BuildError::Expand { .. }
            | BuildError::MissingDockerfile(_)
            | BuildError::Context(_)
            | BuildError::Instruction(_) => Self::invalid(message),
            BuildError::Command { .. } | BuildError::Cancelled | BuildError::NoImage | BuildError::Io { .. } => {
                Self::internal(message)
            }
        }
    }
}
