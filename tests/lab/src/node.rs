//! One machine: its power, its daemon, and what may happen to them.

use crate::cgroups;
use crate::cli::Cli;
use crate::client::success;
use crate::disk::MachineDisk;
use crate::inside;
use crate::network::{OUTSIDE_ADDRESS, Switch, address, address_ipv6};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lines of a log that go into an error.
const LOG_LINES: usize = 40;
/// Puts the daemon, which is started from outside, where the machine's processes are counted.
const JOIN_GROUP: &str = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do if [ -e $d/cgroup.procs ]; then \
     if [ -e $d/system ]; then d=$d/system; fi; echo 0 > $d/cgroup.procs; fi; done; exec \"$@\"";

/// What all machines of a lab have in common.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Name of the lab, the beginning of every name it takes on this machine.
    pub(crate) lab: String,
    pub(crate) switch: Switch,
    /// The program `skep`.
    pub(crate) program: PathBuf,
    /// Options of every daemon.
    pub(crate) daemon_options: Vec<String>,
}

/// See the module. Verbs of the client program are its methods too, by way of [`Cli`].
#[derive(Debug)]
pub struct Node {
    site: Site,
    number: usize,
    name: String,
    home: PathBuf,
    run: PathBuf,
    disk: MachineDisk,
    cli: Cli,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Process 1 of the machine; `None` while it is off.
    first: Option<Child>,
    daemon: Option<Child>,
    /// The program that the next daemon runs.
    program: PathBuf,
}

/// What is asked of a machine is mostly asked of its daemon with a client.
impl Deref for Node {
    type Target = Cli;

    fn deref(&self) -> &Cli {
        &self.cli
    }
}

impl Node {
    /// A machine that is off. `run` is a folder on a tmpfs, `home` one on a disk.
    pub(crate) fn new(
        site: Site,
        number: usize,
        name: &str,
        home: PathBuf,
        run: PathBuf,
        parts: (MachineDisk, Cli),
    ) -> Self {
        let (disk, cli) = parts;
        let state = State { program: site.program.clone(), ..State::default() };
        Self { site, number, name: name.to_owned(), home, run, disk, cli, state: Mutex::new(state) }
    }

    /// Counted from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    #[must_use]
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// Its IPv6 address on the switch.
    #[must_use]
    pub fn address_ipv6(&self) -> String {
        address_ipv6(self.number)
    }

    /// A folder of its own that outlives power cuts and goes with the lab.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.home
    }

    fn namespace(&self) -> String {
        format!("{}h{}", self.site.lab, self.number)
    }

    fn group(&self) -> String {
        format!("{}/h{}", self.site.lab, self.number)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- power

    /// Starts the machine, without its daemon.
    ///
    /// # Errors
    /// When it is on already, or the kernel refuses.
    pub fn power_on(&self) -> Result<()> {
        let mut state = self.state();
        ensure!(state.first.is_none(), "{} is on already", self.name);
        self.site.switch.plug_in(self.number, &self.namespace())?;
        cgroups::make(&self.group())?;
        fs::create_dir_all(&self.run)?;
        let mut command = Command::new("sh");
        let join: Vec<String> = cgroups::hierarchies()
            .iter()
            .map(|hierarchy| format!("echo 0 > {}/cgroup.procs", hierarchy.path.join(self.group()).display()))
            .collect();
        command.args(["-euc", &format!("{}\nexec unshare --cgroup sh -euc \"$LAB_START\"", join.join("\n"))]);
        command.env("LAB_START", self.start_script());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A terminal's interrupt is meant for whoever runs the lab, not for its machines.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut first = inside::spawn_first(&self.namespace(), command)?;
        let mut line = String::new();
        BufReader::new(first.stdout.take().context("a piped output")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            let mut reason = String::new();
            let _ = first.kill();
            first.stderr.take().context("a piped output")?.read_to_string(&mut reason)?;
            first.wait()?;
            bail!("{} does not start: {reason}", self.name);
        }
        state.first = Some(first);
        Ok(())
    }

    /// What process 1 does before it sleeps for good.
    fn start_script(&self) -> String {
        let (disk, run) = (self.disk.folder().display(), self.run.display());
        let mut lines = vec![
            "mount --make-rprivate /".to_owned(),
            "mount -t proc proc /proc".to_owned(),
            "mount -t sysfs sysfs /sys".to_owned(),
        ];
        let hierarchies = cgroups::hierarchies();
        if hierarchies.iter().all(|hierarchy| hierarchy.path != Path::new("/sys/fs/cgroup")) {
            lines.push("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup".to_owned());
        }
        for hierarchy in hierarchies {
            let path = hierarchy.path.display();
            lines.push(format!("mkdir -p {path}; mount {} {path}", hierarchy.mount));
        }
        lines.extend([
            // Version 2: a group with controllers for its children holds no process itself.
            "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir /sys/fs/cgroup/system; \
             echo 0 > /sys/fs/cgroup/system/cgroup.procs; fi"
                .to_owned(),
            self.disk.mount_line(),
            format!("mkdir -p {disk}/lib {disk}/etc {disk}/etc.work"),
            format!("mount -t overlay overlay -o lowerdir=/etc,upperdir={disk}/etc,workdir={disk}/etc.work /etc"),
            format!("mount --bind {disk}/lib /var/lib"),
            format!("mount --bind {run} /run"),
            format!("echo {} > /proc/sys/kernel/hostname", self.name),
            format!("printf '127.0.0.1 localhost\\n{} {}\\n' > /etc/hosts", self.address(), self.name),
            // A resolver that refuses at once: an unreachable one costs ten seconds a look-up.
            "rm -f /etc/resolv.conf; echo nameserver 127.0.0.1 > /etc/resolv.conf".to_owned(),
            // Orphans end without anybody who waits for them.
            "trap '' CHLD".to_owned(),
            "echo ready".to_owned(),
            "exec sleep infinity > /dev/null 2>&1".to_owned(),
        ]);
        lines.join("\n")
    }

    /// Cuts the power: every process ends at once, nobody on the network hears a word, and
    /// memory is gone: `/run`, interfaces, rules, control groups. On a `Disk::Image` what
    /// was not synced is gone too.
    ///
    /// # Errors
    /// When it is off already, or something of it stays.
    pub fn power_off(&self) -> Result<()> {
        let mut state = self.state();
        let mut first = state.first.take().with_context(|| format!("{} is off already", self.name))?;
        self.site.switch.set_cable(self.number, false)?;
        // Nothing may happen between the loss of the disk and the end of the processes.
        cgroups::freeze(&self.group(), true)?;
        if let Some(command) = self.disk.drop_unsynced() {
            let mut child = inside::spawn(first.id(), command)?;
            ensure!(child.wait()?.success(), "the disk of {} does not go down", self.name);
        }
        first.kill()?;
        cgroups::freeze(&self.group(), false)?;
        if let Some(mut daemon) = state.daemon.take() {
            daemon.wait()?;
        }
        first.wait()?;
        self.disk.wait_unmounted()?;
        self.site.switch.unplug(self.number, &self.namespace())?;
        cgroups::remove(&self.group());
        fs::remove_dir_all(&self.run).with_context(|| self.run.display().to_string())
    }

    /// Ends the machine's processes without a check, for the end of a lab.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        let (first, daemon) = (state.first.take(), state.daemon.take());
        for mut child in [daemon, first].into_iter().flatten() {
            // One that has ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets go of the handles; machine and daemon go on when this process ends.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        (state.first, state.daemon) = (None, None);
    }

    /// Stops every process where it stands, containers too, as a machine that hangs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self) -> Result<()> {
        cgroups::freeze(&self.group(), true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        cgroups::freeze(&self.group(), false)
    }

    // --- the daemon

    /// Starts the daemon and waits for its first answer.
    ///
    /// # Errors
    /// When it ends or stays silent; its log is part of the text.
    pub fn start_daemon(&self) -> Result<()> {
        self.spawn_daemon()?;
        self.wait_for_daemon()
    }

    /// The next daemon runs `program`, as after an upgrade.
    pub fn set_program(&self, program: &Path) {
        self.state().program = program.to_owned();
    }

    pub(crate) fn spawn_daemon(&self) -> Result<()> {
        let mut state = self.state();
        ensure!(state.daemon.is_none(), "the daemon of {} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new("sh");
        command.args(["-euc", JOIN_GROUP, "sh"]).arg(&state.program).args(["daemon", "--debug"]);
        command.args(&self.site.daemon_options);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let first = state.first.as_ref().with_context(|| format!("{} is off", self.name))?;
        state.daemon = Some(inside::spawn(first.id(), command)?);
        Ok(())
    }

    pub(crate) fn wait_for_daemon(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let Err(failure) = self.cli.ping() else { return Ok(()) };
            let mut state = self.state();
            let ended = state.daemon.as_mut().context("no daemon")?.try_wait()?;
            if let Some(status) = ended {
                state.daemon = None;
                bail!("the daemon of {} ended with {status}:\n{}", self.name, self.log());
            }
            if begin.elapsed() > wait::DEADLINE {
                return Err(failure.context(format!("no answer of the daemon of {}:\n{}", self.name, self.log())));
            }
            drop(state);
            std::thread::sleep(wait::SHORT_POLL);
        }
    }

    /// SIGKILL to the daemon alone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_daemon(&self) -> Result<()> {
        let mut child = self.take_daemon()?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// When it ends badly or not at all.
    pub fn stop_daemon(&self) -> Result<()> {
        let mut child = self.take_daemon()?;
        signal(child.id(), Signal::SIGTERM)?;
        let status = wait::until("the daemon to stop", || child.try_wait()?.context("still running"))?;
        ensure!(status.success(), "the daemon of {} ended with {status}: {}", self.name, self.log());
        Ok(())
    }

    fn take_daemon(&self) -> Result<Child> {
        self.state().daemon.take().with_context(|| format!("the daemon of {} does not run", self.name))
    }

    /// SIGKILL to the network daemon; the daemon starts another.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_netd(&self) -> Result<()> {
        let pid = self.role_pids("netd")?.first().copied().with_context(|| format!("no netd on {}", self.name))?;
        signal(pid, Signal::SIGKILL)
    }

    /// Processes of this machine that run skep in one role (`daemon`, `netd`, `shim`), by
    /// their numbers outside.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn role_pids(&self, role: &str) -> Result<Vec<u32>> {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.first_pid()?))?;
        let mut pids = Vec::new();
        for pid in cgroups::processes(&self.group()) {
            // One that ends while we look has no namespace any more.
            let same = fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace);
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if same && line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes()) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// Process 1 of the machine, by its number outside.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn first_pid(&self) -> Result<u32> {
        self.state().first.as_ref().map(Child::id).with_context(|| format!("{} is off", self.name))
    }

    /// The last lines of the daemon and of netd.
    #[must_use]
    pub fn log(&self) -> String {
        let tail = |path: PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        };
        let netd = self.run.join("skep/netd/netd.log");
        format!("--- {}:\n{}\n--- netd of {}:\n{}", self.name, tail(self.log_path()), self.name, tail(netd))
    }

    /// Where the daemon's output goes, through all its starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.home.join("daemon.log")
    }

    // --- on the machine

    /// Runs a program on the machine, as somebody logged in there.
    ///
    /// # Errors
    /// When the machine is off or the program cannot be started.
    pub fn inside(&self, args: &[&str]) -> Result<Output> {
        let child = self.spawn_inside(args)?;
        Ok(child.wait_with_output()?)
    }

    /// Starts a program on the machine, its outputs piped.
    ///
    /// # Errors
    /// When the machine is off or the program cannot be started.
    pub fn spawn_inside(&self, args: &[&str]) -> Result<Child> {
        let (program, rest) = args.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
        inside::spawn(self.first_pid()?, command)
    }

    /// Runs `work` on a thread whose sockets are the machine's.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn thread_in_network<T, F>(&self, work: F) -> Result<std::thread::JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        inside::thread_in_network(&self.namespace(), work)
    }

    /// Output of a program on the machine.
    ///
    /// # Errors
    /// When it fails.
    pub fn inside_ok(&self, args: &[&str]) -> Result<String> {
        success(&self.inside(args)?).with_context(|| format!("{}: {}", self.name, args.join(" ")))
    }

    /// The answer to an HTTP request sent on the machine itself.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.inside_ok(&["curl", "--silent", "--show-error", "--fail", "--max-time", "5", url])
    }

    /// Everything that its daemon left on the machine, a line each: processes, mounts, groups,
    /// links, rules.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for role in ["daemon", "netd", "shim"] {
            found.extend(self.role_pids(role)?.iter().map(|pid| format!("process: skep {role} {pid}")));
        }
        for line in self.inside_ok(&["cat", "/proc/1/mountinfo"])?.lines().filter(|line| line.contains(" /run/skep")) {
            found.push(format!("mount: {line}"));
        }
        let containers = format!("{}/skep", self.group());
        found.extend(cgroups::below(&containers).iter().map(|folder| format!("cgroup: {}", folder.display())));
        for line in self.inside_ok(&["ip", "-o", "link"])?.lines() {
            let name = line.split(": ").nth(1).unwrap_or_default();
            if name != "lo" && !name.starts_with("eth0") {
                found.push(format!("link: {line}"));
            }
        }
        let tables = self.inside_ok(&["nft", "list", "tables"])?;
        found.extend(tables.lines().map(|line| format!("nft: {line}")));
        Ok(found)
    }
}

/// The outside machine's way to a URL.
pub(crate) fn curl_outside(switch: &Switch, args: &[&str]) -> Result<String> {
    let (program, rest) = args.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = inside::spawn_in_network(&switch.namespace, command)?;
    success(&child.wait_with_output()?).with_context(|| format!("{OUTSIDE_ADDRESS}: {}", args.join(" ")))
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal} to {pid}"))
}
