//! The command line: a client of the Docker Engine API like any other, with docker's
//! grammar and tables. Owns flags, tables and the terminal; talks only to the socket.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line does")]

mod client;
mod cmd;
mod compose;
mod doctor;
mod flags;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod human;
mod parse;
mod stream;
mod template;
mod terminal;

use clap::{CommandFactory, Parser};
pub use client::Client;
use std::ffi::OsString;

/// What a verb ends with: an exit code of its own, or a message.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A program's own exit code (`run`, `exec`, `wait`), already explained.
    #[error("exit code {0}")]
    Code(i32),
    #[error("{0}")]
    Api(#[from] client::ApiError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Result of a verb.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Exit code for a usage error, as docker has it.
const USAGE_ERROR: i32 = 125;

/// Runs one command line (`args[0]` is the program) and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let parsed = match flags::Skep::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { USAGE_ERROR } else { 0 };
            // A closed pipe is the reader's business.
            let _ = error.print();
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return 1;
        }
    };
    let result = runtime.block_on(cmd::dispatch(parsed));
    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(Failure::Code(code)) => code,
        Err(failure) => {
            eprintln!("{failure}");
            1
        }
    }
}

/// The whole grammar, for completion scripts, man pages and the reference.
pub fn grammar() -> clap::Command {
    flags::Skep::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_grammar_holds_together() {
        super::grammar().debug_assert();
    }

    #[test]
    fn a_verbs_own_host_is_not_the_daemons() {
        use clap::Parser as _;
        let daemon = |before: &[&str]| {
            let create = ["service", "create", "--host", "db:10.1.2.3", "image"];
            let words = [&["skep"], before, &create].concat();
            super::flags::Skep::try_parse_from(words).unwrap().host
        };
        assert_eq!(daemon(&["-H", "tcp://a:1"]).as_deref(), Some("tcp://a:1"));
        assert_eq!(daemon(&[]), None);
    }
}
