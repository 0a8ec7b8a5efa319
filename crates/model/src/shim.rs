//! The contract between the engine and a container's shim.
//!
//! A shim owns what must not outlive the container: it lives in a mount and a
//! network namespace of its own, in which it mounts the root filesystem, so that the
//! kernel itself undoes both when the last process of the container is gone, whatever
//! was killed in which order. It owns, too, what must outlive the engine: the
//! process's output, its log and its exit code.
//!
//! # Start
//! The engine writes [`ShimConfig`] and an OCI bundle into a run directory, and starts
//! `skep shim <run directory>` with one end of a socket pair as its standard input (a
//! descriptor that can be passed without a fork hook in the parent). The shim makes a
//! session of its own. Over the socket pair, one JSON value a line:
//!
//! 1. shim: [`StartReport::Ready`] with its pid, once the namespaces exist, the root is
//!    mounted and `shim.sock` listens. Nothing of the container runs yet.
//! 2. The engine attaches the network to `/proc/<pid>/ns/net`, and connects the waiting
//!    clients to `shim.sock`; then it writes [`StartCommand::Go`].
//! 3. shim: [`StartReport::Started`], or [`StartReport::Failed`] and it exits.
//!
//! If the channel closes before `Go`, the shim exits and leaves nothing. After
//! `Started` the channel is closed; the engine may come and go.
//!
//! # Files in the run directory
//! Written to a temporary name, then renamed:
//!
//! | file | written by | meaning |
//! |---|---|---|
//! | `shim.json` | engine | [`ShimConfig`] |
//! | `config.json` | engine | OCI runtime spec without capabilities and seccomp, which are in `shim.json`; the run directory is the bundle, its `rootfs/` the root |
//! | `process.json` | engine | for an exec: the OCI process |
//! | `shim.sock` | shim | stream socket, see [`ShimRequest`] |
//! | `started.json` | shim | [`Started`], before it reports it |
//! | `exit.json` | shim | [`ExitRecord`], after the log is complete |
//!
//! # Socket
//! Each connection to `shim.sock` sends one JSON [`ShimRequest`] and a newline; the
//! shim answers one JSON [`ShimReply`] and a newline. After the `Ok` to an `Attach` the
//! connection is a stream: towards the shim raw stdin bytes (half-close is end of
//! input); towards the client frames of an 8-byte header (stream number 1 or 2, three
//! zero bytes, big-endian length) and the bytes, ended by closing. A slow client never
//! blocks the container: its buffer is bounded and it is dropped when that is full.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Which process the shim is to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimTarget {
    /// The container's init, from `config.json` in the run directory.
    Init,
    /// One more process inside a running container; `process.json` beside
    /// `shim.json` holds its OCI process. The run directory is `<container>/exec/<id>`.
    Exec { container_root: PathBuf },
}

/// Everything a shim needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// Container id (64 hex digits).
    pub container_id: String,
    pub target: ShimTarget,
    /// Where libcontainer keeps its own state.
    pub runtime_root: PathBuf,
    pub terminal: bool,
    /// Height and width, (0, 0) for unknown.
    pub console_size: (u16, u16),
    pub open_stdin: bool,
    /// Close the process's stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// json-file log, `None` for no log (exec, log driver `none`).
    pub log: Option<ShimLog>,
    /// Root filesystem to mount on `rootfs/`; `None` for an exec.
    pub rootfs: Option<OverlayMount>,
    /// Make a network namespace; otherwise the OCI spec names one, or the host's is used.
    pub new_network_namespace: bool,
    /// PID 1 is a minimal init that runs the process as its child, forwards signals and reaps.
    #[serde(default)]
    pub init: bool,
    /// The container has no process namespace of its own: when its process ends, what is
    /// left in its cgroup is killed.
    #[serde(default)]
    pub shared_process_namespace: bool,
    /// `net.*` settings for the new network namespace, applied once it is attached.
    #[serde(default)]
    pub network_sysctls: BTreeMap<String, String>,
    /// Capabilities of the process, `CAP_...`; it can never get others.
    pub capabilities: BTreeSet<String>,
    /// The system calls the process may make: a profile in OCI form, see [`SeccompProfile`].
    /// `None` allows all.
    pub seccomp: Option<SeccompProfile>,
}

/// A seccomp profile in the engine's exec root, named by its content and shared by all
/// containers that have it.
///
/// Compiling one takes longer than all else of a start, so the first shim that needs it
/// leaves the compiled filter beside it. Both live on a file system that does not survive a
/// reboot, because which system calls have names depends on the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompProfile {
    /// OCI `linux.seccomp` as JSON.
    pub source: PathBuf,
    /// Made from it; may not exist yet.
    pub compiled: PathBuf,
}

/// An overlayfs mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayMount {
    /// Topmost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// Whether overlayfs of this kernel release (as `uname -r` says it) takes layers one by
/// one, with `lowerdir+`. Asking the kernel itself would leave a complaint in its log each
/// time.
#[must_use]
pub fn takes_layers_one_by_one(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
}

/// What the shim says while starting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StartReport {
    Ready { pid: u32 },
    Started(Started),
    Failed(ExitRecord),
}

/// What the engine says while starting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StartCommand {
    Go,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimLog {
    pub path: PathBuf,
    /// Rotate when larger; 0 never.
    pub max_size_bytes: u64,
    pub max_files: u32,
    /// A log service of the machine that gets each line too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<LogForward>,
}

/// A log service, and what is said of a container with each of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogForward {
    Syslog {
        to: LogAddress,
        format: SyslogFormat,
        /// 0 (kern) to 23 (local7).
        facility: u8,
        /// Name of this machine.
        hostname: String,
        tag: String,
    },
    /// Journald's own protocol; the fields go with each line.
    Journal { socket: PathBuf, fields: BTreeMap<String, String> },
}

/// Where datagrams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogAddress {
    Unix(PathBuf),
    /// In the host's network, also for a container with one of its own.
    Udp(std::net::SocketAddr),
}

/// How a line of syslog begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// What `/dev/log` expects: RFC 3164 without a host name.
    Local,
    Rfc3164,
    Rfc5424,
}

/// The process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub shim_pid: u32,
    /// Start time of the shim from /proc/PID/stat, so that a reused pid is not taken for it.
    pub shim_start_ticks: u64,
    pub pid: u32,
    pub pid_start_ticks: u64,
    pub at: Timestamp,
}

/// The process ended, or never started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 128 + signal for a killed process; 126 or 127 when it could not be started.
    pub exit_code: i32,
    pub at: Timestamp,
    pub oom_killed: bool,
    /// Why it could not start, else empty.
    pub error: String,
    /// It did start.
    pub started: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ShimRequest {
    /// Stream output (and input) over this connection from now on.
    Attach { stdin: bool, stdout: bool, stderr: bool },
    /// New terminal size.
    Resize { height: u16, width: u16 },
    /// Send a signal to the process (only it, not its children).
    Signal { number: i32 },
    /// Answer when the process has ended, with its record.
    Wait,
    /// Close the process's stdin.
    CloseStdin,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ShimReply {
    Ok,
    Exited(ExitRecord),
    Error { message: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_go_one_by_one_from_6_5_on() {
        let check = |release: &str, expect: bool| assert_eq!(takes_layers_one_by_one(release), expect, "{release}");
        check("6.1.0-56-cloud-amd64", false);
        check("6.5.0-rc1", true);
        check("6.18.3", true);
        check("7.0", true);
        check("5.15", false);
        check("", false);
    }
}
