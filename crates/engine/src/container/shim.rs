//! The engine's end of the contract with shims.

use crate::sys::process::{self, Program};
use skep_model::shim::{ExitRecord, ShimConfig, ShimReply, ShimRequest, StartCommand, StartReport, Started};
use skep_model::{Error, Result, Timestamp};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

const SHIM_SOCKET: &str = "shim.sock";
const EXIT_RECORD: &str = "exit.json";
const STARTED_RECORD: &str = "started.json";
const COMPLAINTS: &str = "shim.err";
/// One record or report.
const LINE_LENGTH_MAX: u64 = 256 * 1024;
/// A shim that ended without a record takes its container with it by SIGKILL.
const EXIT_CODE_LOST: i32 = 137;

/// A shim that was spawned and is not told to go yet. Dropping it ends it.
pub(crate) struct Starting {
    pub(crate) pid: u32,
    channel: BufReader<UnixStream>,
}

/// How a start ended.
pub(crate) enum Outcome {
    Started(Started),
    Failed(ExitRecord),
}

/// Writes the configuration and spawns a shim in `run_dir`; returns when it is ready.
pub(crate) async fn spawn(program: &Program, run_dir: &Path, config: &ShimConfig) -> Result<Starting> {
    write_json(&run_dir.join("shim.json"), config)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let complaints = std::fs::File::create(run_dir.join(COMPLAINTS))?;
    let mut command = std::process::Command::new(program.executable());
    // No hook between fork and exec: this way the child is spawned without copying our
    // page tables.
    command.arg0("skep").arg("shim").arg(run_dir).stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    command.stdout(Stdio::null()).stderr(complaints);
    let mut child = Command::from(command).spawn().map_err(|e| Error::internal(format!("start shim: {e}")))?;
    // A child of ours until the engine ends; somebody has to reap it.
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    let mut channel = BufReader::new(UnixStream::from_std(ours)?);
    match read_report(&mut channel).await? {
        Some(StartReport::Ready { pid }) => Ok(Starting { pid, channel }),
        _ => Err(Error::internal(format!("failed to create shim task: {}", complaint(run_dir)))),
    }
}

impl Starting {
    /// Lets the process run.
    pub(crate) async fn go(mut self, run_dir: &Path) -> Result<Outcome> {
        let mut line = serde_json::to_vec(&StartCommand::Go).map_err(|e| Error::internal(e.to_string()))?;
        line.push(b'\n');
        self.channel.get_mut().write_all(&line).await?;
        match read_report(&mut self.channel).await? {
            Some(StartReport::Started(started)) => Ok(Outcome::Started(started)),
            Some(StartReport::Failed(record)) => Ok(Outcome::Failed(record)),
            Some(StartReport::Ready { .. }) | None => {
                Err(Error::internal(format!("failed to create shim task: {}", complaint(run_dir))))
            }
        }
    }
}

async fn read_report(channel: &mut BufReader<UnixStream>) -> Result<Option<StartReport>> {
    let mut line = Vec::new();
    channel.take(LINE_LENGTH_MAX).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|e| Error::internal(format!("shim report: {e}")))
}

fn complaint(run_dir: &Path) -> String {
    let text = std::fs::read_to_string(run_dir.join(COMPLAINTS)).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() { "the shim ended without a reason".to_owned() } else { text.to_owned() }
}

/// Writes a file that appears whole. Run directories do not survive a reboot, so
/// nothing is synced.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::internal(e.to_string()))?;
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)?;
    Ok(std::fs::rename(&temporary, path)?)
}

async fn connect(run_dir: &Path, request: &ShimRequest) -> std::io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(run_dir.join(SHIM_SOCKET)).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(BufReader::new(stream))
}

async fn read_reply(stream: &mut BufReader<UnixStream>) -> std::io::Result<ShimReply> {
    let mut line = Vec::new();
    stream.take(LINE_LENGTH_MAX).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Sends one request and returns its answer.
pub(crate) async fn request(run_dir: &Path, request: &ShimRequest) -> std::io::Result<ShimReply> {
    let mut stream = connect(run_dir, request).await?;
    read_reply(&mut stream).await
}

/// Opens a stream of frames.
pub(crate) async fn attach(
    run_dir: &Path,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> std::io::Result<BufReader<UnixStream>> {
    let mut stream = connect(run_dir, &ShimRequest::Attach { stdin, stdout, stderr }).await?;
    match read_reply(&mut stream).await? {
        ShimReply::Ok => Ok(stream),
        ShimReply::Exited(_) => Err(std::io::ErrorKind::InvalidData.into()),
        ShimReply::Error { message } => Err(std::io::Error::other(message)),
    }
}

/// Waits until the process has ended; never fails, a lost shim is an exit too.
pub(crate) async fn wait_exit(run_dir: &Path, started: &Started) -> ExitRecord {
    if let Ok(ShimReply::Exited(record)) = request(run_dir, &ShimRequest::Wait).await {
        return record;
    }
    // It wrote its record and left before we could ask, or it was killed.
    wait_gone(started.shim_pid, started.shim_start_ticks).await;
    read_exit(run_dir).unwrap_or_else(|| {
        // Without its parent nobody can tell how the process ends; make sure it does.
        if process::is_alive(started.pid, started.pid_start_ticks) {
            process::kill(started.pid);
        }
        lost()
    })
}

/// What is said of a container whose shim is gone without a record.
pub(crate) fn lost() -> ExitRecord {
    ExitRecord {
        exit_code: EXIT_CODE_LOST,
        at: now(),
        oom_killed: false,
        error: "the container's shim was killed".into(),
        started: true,
    }
}

/// Waits until that very process has ended.
pub(crate) async fn wait_gone(pid: u32, ticks: u64) {
    let Ok(fd) = process::open_pid(pid) else { return };
    // Opened first, compared after: the handle is the right process's or nobody's.
    if !process::is_alive(pid, ticks) {
        return;
    }
    if let Ok(fd) = process::watch(fd, tokio::io::Interest::READABLE) {
        let _ = fd.readable().await;
    }
}

pub(crate) fn read_exit(run_dir: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(run_dir.join(EXIT_RECORD)).ok()?).ok()
}

pub(crate) fn read_started(run_dir: &Path) -> Option<Started> {
    serde_json::from_slice(&std::fs::read(run_dir.join(STARTED_RECORD)).ok()?).ok()
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
