//! The command lines that are tried: stock docker of two generations, and our own.

use anyhow::{Result, anyhow, ensure};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// One client program.
#[derive(Debug, Clone)]
pub struct Client {
    /// Shown in test names.
    pub label: &'static str,
    pub program: PathBuf,
}

impl Client {
    /// Debian's docker (20.10), a newer one if this machine has it, and skep.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut clients = vec![Self::debian_docker(), Self::skep()];
        let newer = PathBuf::from("/usr/local/bin/docker");
        if newer.exists() {
            clients.push(Self { label: "docker_newer", program: newer });
        }
        clients
    }

    /// The stock client that is always there.
    #[must_use]
    pub fn debian_docker() -> Self {
        Self { label: "docker_20_10", program: environment("SKEP_TEST_DOCKER") }
    }

    /// Our own command line.
    #[must_use]
    pub fn skep() -> Self {
        Self { label: "skep", program: environment("SKEP_TEST_SKEP") }
    }

    /// A command that talks to the daemon on `socket`.
    #[must_use]
    pub fn command(&self, socket: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{socket}"))
            // The stock client asks for a plugin otherwise; the classic builder is what we serve.
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        command
    }
}

/// A file that `cargo xtask test` prepared.
///
/// # Panics
/// When the variable is missing: the tests only make sense started by that command.
#[must_use]
pub fn environment(name: &str) -> PathBuf {
    std::env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("{name} is not set; run `cargo xtask test`"))
}

/// Trimmed standard output of a run that must succeed.
///
/// # Errors
/// With both outputs when it fails.
pub fn success(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout).trim_end().to_owned())
}

/// Trimmed standard error of a run that must fail.
///
/// # Errors
/// When it succeeds.
pub fn failure(output: &Output) -> Result<String> {
    if output.status.success() {
        return Err(anyhow!("should have failed but printed: {}", text(&output.stdout)));
    }
    Ok(text(&output.stderr).trim_end().to_owned())
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
