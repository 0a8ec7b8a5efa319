//! What can go wrong in a shim before its process runs.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("{step}: {source}")]
    System { step: &'static str, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// The engine went away before it said go.
    #[error("the engine closed the start channel")]
    Abandoned,
}

impl ShimError {
    /// For `map_err`: names the step that failed.
    pub(crate) fn at<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { step, source: source.into() }
    }
}

/// Why the process could not be started, with the exit code a shell would use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaunchError {
    pub(crate) exit_code: i32,
    pub(crate) text: String,
}

/// Command not found.
pub(crate) const EXIT_NOT_FOUND: i32 = 127;
/// Found, but not executable.
pub(crate) const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Anything else that kept the process from starting.
pub(crate) const EXIT_NOT_STARTED: i32 = 128;

impl LaunchError {
    /// A failure of the machinery, worded as clients know it.
    pub(crate) fn runtime(detail: impl std::fmt::Display) -> Self {
        Self { exit_code: EXIT_NOT_STARTED, text: format!("OCI runtime create failed: {detail}: unknown") }
    }

    /// The process itself could not be executed; `detail` is what [`crate::lookup`] says.
    pub(crate) fn process(exit_code: i32, detail: impl std::fmt::Display) -> Self {
        Self {
            exit_code,
            text: format!(
                "OCI runtime create failed: runc create failed: unable to start container process: {detail}: unknown"
            ),
        }
    }
}
