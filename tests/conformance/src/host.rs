//! One machine: a network namespace with an uplink to an outside machine, and a daemon.

use crate::terminal::Terminal;
use anyhow::{Context, Result, bail, ensure};
use skep_lab::client::{environment, success};
use skep_lab::{Cli, Client, SWITCH_SUFFIX, sweep, wait};
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use tempfile::TempDir;

static NEXT: AtomicU32 = AtomicU32::new(1);
/// What killed runs left is removed before the first machine is made.
static ABANDONED: Once = Once::new();

/// Address of the host on its uplink.
pub const HOST_ADDRESS: &str = "10.99.0.1";
/// Address of the outside machine.
pub const OUTSIDE_ADDRESS: &str = "10.99.0.254";

/// A machine under test. Everything it made goes when it is dropped. Verbs of the client
/// are its methods too, by way of [`Cli`].
pub struct Host {
    /// By which all of it is found again.
    name: String,
    namespace: String,
    outside: String,
    data: TempDir,
    exec_root: PathBuf,
    cgroup_parent: String,
    /// Size of a tmpfs to put the data root on, as mount(8) takes it; empty for the disk.
    disk_size: String,
    daemon: Option<Child>,
    cli: Cli,
}

/// What is asked of a host is mostly asked of its daemon with a client.
impl Deref for Host {
    type Target = Cli;

    fn deref(&self) -> &Cli {
        &self.cli
    }
}

impl Host {
    /// Makes the machine and starts its daemon; verbs run with `client`.
    ///
    /// # Errors
    /// When the kernel or the daemon refuses.
    pub fn start(client: &Client) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skl{}-t{number}", std::process::id());
        let target = match std::env::var_os("SKEP_TEST_SCRATCH") {
            // In a virtual machine our own folder is on overlayfs, which cannot hold containers.
            Some(scratch) => PathBuf::from(scratch),
            None => environment("SKEP_TEST_SKEP").parent().map(Path::to_path_buf).context("skep has a folder")?,
        };
        ABANDONED.call_once(sweep::abandoned);
        let exec_root = sweep::run_root(&name);
        let mut host = Self {
            namespace: format!("{name}h1"),
            outside: format!("{name}{SWITCH_SUFFIX}"),
            data: tempfile::Builder::new().prefix("skep-test-").tempdir_in(target)?,
            cli: Cli::new(client.clone(), exec_root.join("skep.sock").to_string_lossy().into_owned()),
            exec_root,
            cgroup_parent: format!("/{name}"),
            name,
            disk_size: String::new(),
            daemon: None,
        };
        sweep::enter(&host.name, host.data.path(), true)?;
        host.make_network()?;
        host.start_daemon()?;
        Ok(host)
    }

    fn make_network(&self) -> Result<()> {
        let (inside, outside) = (&self.namespace, &self.outside);
        for line in [
            format!("ip netns add {inside}"),
            format!("ip netns add {outside}"),
            format!("ip -n {inside} link set lo up"),
            format!("ip -n {outside} link set lo up"),
            format!("ip -n {inside} link add eth0 type veth peer name eth0 netns {outside}"),
            format!("ip -n {inside} addr add {HOST_ADDRESS}/24 dev eth0"),
            format!("ip -n {outside} addr add {OUTSIDE_ADDRESS}/24 dev eth0"),
            format!("ip -n {inside} link set eth0 up"),
            format!("ip -n {outside} link set eth0 up"),
            format!("ip -n {inside} route add default via {OUTSIDE_ADDRESS}"),
        ] {
            run(&line)?;
        }
        Ok(())
    }

    /// Starts the daemon again with an empty data root on a disk of this size (`20m`).
    ///
    /// # Errors
    /// When it does not stop or does not start.
    pub fn restart_on_small_disk(&mut self, size: &str) -> Result<()> {
        self.stop_daemon()?;
        size.clone_into(&mut self.disk_size);
        self.start_daemon()
    }

    /// Files below a folder of the data root, as the daemon sees them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn files_in_data_root(&self, folder: &str) -> Result<String> {
        let folder = self.data.path().join("lib").join(folder);
        let pid = self.daemon_pid().to_string();
        self.inside_ok(&["nsenter", "-t", &pid, "-m", "find", &folder.to_string_lossy(), "-mindepth", "1"])
    }

    /// Starts (or starts again) the daemon and waits for its first answer.
    ///
    /// # Errors
    /// When it ends or stays silent; its log is part of the text.
    pub fn start_daemon(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        // A resolver that refuses at once: an unreachable one costs ten seconds a look-up.
        let resolver = self.data.path().join("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.1\n")?;
        let data_root = self.data.path().join("lib");
        fs::create_dir_all(&data_root)?;
        let mut prepare = format!("mount --bind {} /etc/resolv.conf && ", resolver.display());
        if !self.disk_size.is_empty() {
            prepare += &format!("mount -t tmpfs -o size={} tmpfs {} && ", self.disk_size, data_root.display());
        }
        prepare += "exec \"$@\"";
        let child = self
            .inside(&["unshare", "--mount", "--propagation", "slave", "sh", "-c", &prepare, "sh"])
            .arg(environment("SKEP_TEST_SKEP"))
            .arg("daemon")
            .arg("--data-root")
            .arg(&data_root)
            .arg("--exec-root")
            .arg(&self.exec_root)
            .args(["--host", &format!("unix://{}", self.socket())])
            .arg("--pidfile")
            .arg(self.exec_root.join("skep.pid"))
            .args(["--cgroup-parent", &self.cgroup_parent, "--debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")?;
        self.daemon = Some(child);
        let begin = Instant::now();
        loop {
            let failure = match self.ok(&["version"]) {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            let ended = self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.daemon = None;
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
            if begin.elapsed() > wait::DEADLINE {
                return Err(failure.context(format!("no answer of the daemon:\n{}", self.log())));
            }
            std::thread::sleep(wait::POLL);
        }
    }

    /// The last lines of the daemon and of netd.
    #[must_use]
    pub fn log(&self) -> String {
        let tail = |path: PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(40).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        format!("{}\n--- netd:\n{}", tail(self.log_path()), tail(self.exec_root.join("netd/netd.log")))
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("daemon.log")
    }

    /// Folder for sockets and run directories.
    #[must_use]
    pub fn exec_root(&self) -> &Path {
        &self.exec_root
    }

    /// A scratch folder that goes with the host.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.data.path()
    }

    /// cgroup below which the host's containers live.
    #[must_use]
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// Starts a verb on a terminal of 33 rows and 101 columns.
    ///
    /// # Errors
    /// When it does not start.
    pub fn on_terminal(&self, args: &[&str]) -> Result<Terminal> {
        Terminal::start(&self.command(args), 33, 101)
    }

    /// A program in the host's network namespace.
    #[must_use]
    pub fn inside(&self, args: &[&str]) -> Command {
        in_namespace(&self.namespace, args)
    }

    /// Output of a program in the host's network namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn inside_ok(&self, args: &[&str]) -> Result<String> {
        success(&self.inside(args).stdin(Stdio::null()).output()?).with_context(|| args.join(" "))
    }

    /// Output of a program on the outside machine.
    ///
    /// # Errors
    /// When it fails.
    pub fn outside_ok(&self, args: &[&str]) -> Result<String> {
        success(&in_namespace(&self.outside, args).stdin(Stdio::null()).output()?).with_context(|| args.join(" "))
    }

    /// Which task answered at a URL, asked on the host itself.
    ///
    /// # Errors
    /// When nobody answers like `whoami`.
    pub fn who_answers(&self, url: &str) -> Result<String> {
        hostname_in(&self.inside_ok(&["curl", "--silent", "--show-error", "--max-time", "5", url])?)
    }

    /// The same, asked from the outside machine.
    ///
    /// # Errors
    /// When nobody answers like `whoami`.
    pub fn who_answers_outside(&self, url: &str) -> Result<String> {
        hostname_in(&self.outside_ok(&["curl", "--silent", "--show-error", "--max-time", "5", url])?)
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().map(Child::id).expect("the daemon runs")
    }

    /// SIGKILL to the daemon alone.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("the daemon does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// When it ends badly or not at all.
    pub fn stop_daemon(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("the daemon does not run")?;
        run(&format!("kill {}", child.id()))?;
        let status = wait::until("the daemon to stop", || child.try_wait()?.context("still running"))?;
        ensure!(status.success(), "the daemon ended with {status}: {}", self.log());
        Ok(())
    }

    /// Pids of our processes of one role (`netd`, `shim`) that belong to this host.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn role_pids(&self, role: &str) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
            if words.get(1).is_some_and(|w| w == role)
                && words.iter().any(|w| Path::new(w).starts_with(&self.exec_root))
            {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    fn clean(&mut self) -> Result<()> {
        if let Some(mut child) = self.daemon.take() {
            child.kill()?;
            child.wait()?;
        }
        // Each is alone in its container's network.
        for role in ["netd", "shim"] {
            for pid in self.role_pids(role)? {
                // One that has ended meanwhile is as good.
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        sweep::remove(&self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::env::var_os("SKEP_TEST_SHOW_LOG").is_some() {
            #[expect(clippy::print_stderr, reason = "asked for by whoever debugs a test")]
            {
                eprintln!("{}", self.log());
            }
        }
        let outcome = self.clean();
        if let Err(error) = outcome
            && !std::thread::panicking()
        {
            panic!("the host {} leaves a trace: {error:#}", self.name);
        }
    }
}

/// A shell line for a busybox container that prints the answer to one HTTP request.
/// (Debian's static busybox has a `wget` that crashes in an empty root, so it is `nc`.)
#[must_use]
pub fn http_get(host: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port}")
}

fn in_namespace(namespace: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    // `ip netns exec` would remount /sys and hide the cgroups.
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").args(args);
    command
}

fn hostname_in(text: &str) -> Result<String> {
    match text.lines().find_map(|line| line.strip_prefix("Hostname: ")) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("not an answer of whoami: {text}"),
    }
}

fn run(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, args) = words.split_first().context("an empty command")?;
    success(&Command::new(program).args(args).stdin(Stdio::null()).output()?).map(drop).with_context(|| line.to_owned())
}
