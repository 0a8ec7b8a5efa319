//! Containers from wish to exit record, and the [`Engine`] that owns them all.

mod adopt;
mod archive;
mod attach;
mod change;
pub(crate) mod create;
mod engine;
pub(crate) mod exec;
mod files;
mod freezer;
mod health;
pub(crate) mod inner;
mod log_driver;
mod logs;
mod merge;
mod monitor;
pub(crate) mod mounts;
mod names;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod remove;
pub(crate) mod shim;
mod spec;
mod start;
mod stats;
mod stop;
mod top;
mod user;
mod wait;

pub use archive::{ArchiveStream, Change, ChangeKind, PathStat};
pub use engine::Engine;
pub use log_driver::LOG_DRIVERS;
pub use stats::{BlockCounters, CpuCounters, InterfaceCounters, MemoryCounters, Stats};

use bytes::Bytes;
use skep_model::Timestamp;
use tokio::sync::mpsc;

/// A name for something whose user gave none. Two may be equal.
#[must_use]
pub fn random_name() -> String {
    // With a digit, as nobody here can ask whether the plain name is taken.
    names::generate(rand::random(), 1)
}

/// Which of a process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub data: Bytes,
}

/// Both directions of an attached process. Dropping `input` half-closes stdin; `output`
/// ends when the process's output does.
#[derive(Debug)]
pub struct Attached {
    pub tty: bool,
    pub output: mpsc::Receiver<Chunk>,
    /// `None` when stdin was not asked for or is not open.
    pub input: Option<mpsc::Sender<Bytes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Replay the log first.
    pub logs: bool,
    /// Follow the live output.
    pub stream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Last so many lines; `None` is all.
    pub tail: Option<u64>,
}

/// One log line (or part of one) with its time; the newline is part of `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub stream: Stream,
    pub at: Timestamp,
    pub data: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    #[default]
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    pub exit_code: i32,
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Anonymous volumes too.
    pub volumes: bool,
}
