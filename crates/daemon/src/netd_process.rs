//! Keeps the network daemon running: starts it, or takes up the one an earlier daemon
//! left, and starts it again when it dies. netd keeps its own desired state, so nothing
//! need be told again.

use crate::config::{Config, LogFormat};
use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use skep_netd::BalancerChoice;
use skep_netd::client::NetdClient;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// netd must answer within this time after its start.
const READY_MAX: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(3);
/// One that does not end when told to is killed after this time.
const END_MAX: Duration = Duration::from_secs(5);
/// How often an inherited netd is looked at; the kernel tells only a parent.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(8);
/// A netd that ran so long has not failed at its start.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// How to start netd.
#[derive(Debug, Clone)]
pub(crate) struct NetdCommand {
    program: PathBuf,
    directory: PathBuf,
    log_level: String,
    log_format: LogFormat,
    balancer: BalancerChoice,
}

/// The running netd, kept so by a task of this process.
pub(crate) struct NetdProcess {
    client: NetdClient,
    /// This daemon started it, no earlier one.
    started_here: bool,
    stop: CancellationToken,
    keeper: JoinHandle<Running>,
}

/// One netd, ours or inherited.
enum Running {
    Child(Child),
    Adopted(OwnedFd),
}

impl NetdCommand {
    pub(crate) fn new(config: &Config, program: PathBuf) -> Self {
        Self {
            program,
            directory: config.exec_root.join("netd"),
            log_level: config.log_level.to_string().to_lowercase(),
            log_format: config.log_format,
            balancer: config.balancer,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("netd.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("netd.log")
    }

    /// Its own process group, so that a terminal's interrupt ends the daemon only.
    fn spawn(&self) -> Result<Child> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(|| self.directory.display().to_string())?;
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut command = Command::new(&self.program);
        command
            .args(["netd", "--log-level", &self.log_level, "--log-format", format, "--socket"])
            .arg(self.socket())
            .arg("--state")
            .arg(self.directory.join("state.mpk"))
            .args(["--balancer", self.balancer.as_str()])
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(false);
        // It outlives this process, whose output may be a pipe that somebody reads to its
        // end; the journal may be shared.
        if std::env::var_os("JOURNAL_STREAM").is_none() {
            let log = self.open_log()?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        command.spawn().with_context(|| format!("cannot start {} netd", self.program.display()))
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path).with_context(|| path.display().to_string())
    }

    /// The last line it logged, for an error message.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().next_back().unwrap_or("no output").to_owned()
    }
}

impl NetdProcess {
    /// Answers once netd does.
    ///
    /// # Errors
    /// When it cannot be started or does not answer in time.
    pub(crate) async fn start(command: NetdCommand) -> Result<Self> {
        let client = NetdClient::new(&command.socket());
        let running = match adopt(&client, &command).await {
            Some(running) => running,
            None => launch(&client, &command).await?,
        };
        let started_here = matches!(running, Running::Child(_));
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(running, client.clone(), command, stop.clone()));
        Ok(Self { client, started_here, stop, keeper })
    }

    pub(crate) fn client(&self) -> NetdClient {
        self.client.clone()
    }

    pub(crate) fn started_here(&self) -> bool {
        self.started_here
    }

    /// Leaves netd running: containers need its names, and the next daemon takes it up.
    pub(crate) async fn release(self) {
        self.stop.cancel();
        if let Ok(Running::Child(child)) = self.keeper.await {
            // Dropping a child neither kills nor waits for it.
            drop(child);
        }
    }

    /// Ends netd. What it made in the kernel stays.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        let Ok(running) = self.keeper.await else { return };
        if let Err(error) = end(running).await {
            tracing::warn!(%error, "cannot end the network daemon");
        }
    }
}

/// Takes up a netd that answers, if it is the same program as this one. An older one is
/// ended: a new one takes over the kernel's state as it finds it.
async fn adopt(client: &NetdClient, command: &NetdCommand) -> Option<Running> {
    // A socket file without a listener is what a killed netd leaves; the client would try
    // to reach it until its deadline.
    std::os::unix::net::UnixStream::connect(command.socket()).ok()?;
    let status = client.status().await.ok()?;
    let pid = Pid::from_raw(i32::try_from(status.pid).ok()?)?;
    let adopted = Running::Adopted(pidfd_open(pid, PidfdFlags::empty()).ok()?);
    if is_same_program(status.pid) && command.balancer.is_met_by(&status.balancer) {
        tracing::info!(pid = status.pid, "taking up the running network daemon");
        return Some(adopted);
    }
    tracing::info!(pid = status.pid, "replacing a network daemon of another version or with another balancer");
    if let Err(error) = end(adopted).await {
        tracing::warn!(%error, "cannot end the old network daemon");
    }
    None
}

/// The file itself counts, not its name: an upgrade replaces the file.
fn is_same_program(pid: u32) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let theirs = file(Path::new(&format!("/proc/{pid}/exe")));
    theirs.is_some() && theirs == file(Path::new("/proc/self/exe"))
}

async fn launch(client: &NetdClient, command: &NetdCommand) -> Result<Running> {
    let mut child = command.spawn()?;
    let ready = async {
        while client.status().await.is_err() {
            tokio::time::sleep(READY_POLL).await;
        }
    };
    tokio::select! {
        () = ready => Ok(Running::Child(child)),
        ended = child.wait() => Err(anyhow!("netd ended at its start ({}): {}", describe(ended), command.last_words())),
        () = tokio::time::sleep(READY_MAX) => {
            // Not left behind: it would hold the socket of the next try.
            let _ = child.kill().await;
            Err(anyhow!("netd does not answer within {READY_MAX:?}: {}", command.last_words()))
        }
    }
}

fn describe(ended: std::io::Result<std::process::ExitStatus>) -> String {
    ended.map_or_else(|e| e.to_string(), |status| status.to_string())
}

/// Starts netd again whenever it ends, until `stop`.
async fn keep(mut running: Running, client: NetdClient, command: NetdCommand, stop: CancellationToken) -> Running {
    let mut delay = RESTART_DELAY_MIN;
    loop {
        let since = tokio::time::Instant::now();
        let how = tokio::select! {
            () = stop.cancelled() => return running,
            how = ended(&mut running) => how,
        };
        if since.elapsed() >= STABLE_AFTER {
            delay = RESTART_DELAY_MIN;
        }
        tracing::error!(how, last = command.last_words(), "the network daemon ended; starting it again");
        loop {
            tokio::select! {
                () = stop.cancelled() => return running,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(RESTART_DELAY_MAX);
            match launch(&client, &command).await {
                Ok(again) => {
                    running = again;
                    break;
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "cannot start the network daemon"),
            }
        }
    }
}

async fn ended(running: &mut Running) -> String {
    match running {
        Running::Child(child) => describe(child.wait().await),
        Running::Adopted(pidfd) => {
            while !has_ended(pidfd) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            "taken up from an earlier daemon".into()
        }
    }
}

/// A process descriptor becomes readable when its process ends.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Asks it to end, then insists.
async fn end(mut running: Running) -> Result<()> {
    let opened;
    let pidfd = match &running {
        Running::Adopted(pidfd) => pidfd,
        Running::Child(child) => {
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
            // No id: it has ended and was waited for.
            let Some(pid) = pid else { return Ok(()) };
            opened = pidfd_open(pid, PidfdFlags::empty())?;
            &opened
        }
    };
    pidfd_send_signal(pidfd, Signal::TERM)?;
    let pidfd = pidfd.try_clone()?;
    if tokio::time::timeout(END_MAX, ended(&mut running)).await.is_err() {
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        ended(&mut running).await;
    }
    Ok(())
}
