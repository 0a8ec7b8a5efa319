//! `cargo xtask demo`: from a Dockerfile to a load-balanced service, on this machine,
//! on a data root and a socket of its own.

use crate::sh::{cmd, output, run, say, target};
use crate::{images, setup};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REPLICAS: usize = 3;
const PORT: u16 = 8080;
const START_DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Sockets want short paths, so the run directory is not below `target/`.
const EXEC_ROOT: &str = "/run/skep-demo";

struct Demo {
    skep: PathBuf,
    data_root: PathBuf,
}

impl Demo {
    fn new() -> Self {
        Self { skep: target().join("release/skep"), data_root: target().join("demo") }
    }

    fn host() -> String {
        format!("unix://{EXEC_ROOT}/skep.sock")
    }

    fn pidfile() -> PathBuf {
        Path::new(EXEC_ROOT).join("skep.pid")
    }

    fn skep<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.skep);
        command.args(args).env("DOCKER_HOST", Self::host());
        command
    }

    fn answers(&self) -> bool {
        self.skep.exists()
            && self.skep(["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }
}

/// Builds and shows.
pub(crate) fn up() -> Result<()> {
    setup::packages()?;
    let demo = Demo::new();
    say("building skep (release; the first time takes a few minutes)");
    run(&mut cmd("cargo", ["build", "--release", "--locked", "--package", "skep-daemon"]))?;

    start_daemon(&demo)?;
    say("building the image whoami from examples/whoami/Dockerfile");
    let context = images::whoami_context()?;
    run(&mut demo.skep(["build", "-t", "whoami", &context.to_string_lossy()]))?;

    say("skep swarm init");
    if output(&mut demo.skep(["info", "--format", "{{.Swarm.LocalNodeState}}"]))? != "active" {
        run(&mut demo.skep(["swarm", "init", "--advertise-addr", "127.0.0.1"]))?;
    }
    say(&format!("skep service create --name web --replicas {REPLICAS} -p {PORT}:80 whoami"));
    if output(&mut demo.skep(["service", "ls", "--filter", "name=web", "--quiet"]))?.is_empty() {
        let publish = format!("{PORT}:80");
        let replicas = REPLICAS.to_string();
        run(&mut demo.skep(["service", "create", "--name", "web", "--replicas", &replicas, "-p", &publish, "whoami"]))?;
    }

    say(&format!("calling http://127.0.0.1:{PORT}/ until {REPLICAS} different tasks have answered"));
    for hostname in call_until_all_answered()? {
        println!("    answered by {hostname}");
    }
    for args in [["node", "ls"].as_slice(), &["service", "ls"], &["service", "ps", "web"]] {
        say(&format!("skep {}", args.join(" ")));
        run(&mut demo.skep(args.iter().copied()))?;
    }
    say("how to go on");
    println!("    export DOCKER_HOST={}", Demo::host());
    println!("    docker ps                          # the stock docker command line works");
    println!("    curl http://127.0.0.1:{PORT}/");
    println!("    {} service scale web=5", demo.skep.display());
    println!("    cargo xtask demo --down            # remove every trace");
    Ok(())
}

/// Undoes all that [`up`] did.
pub(crate) fn down() -> Result<()> {
    let demo = Demo::new();
    if !demo.answers() && demo.skep.exists() && demo.data_root.exists() {
        // A daemon that was killed left containers behind; only a daemon can remove them.
        start_daemon(&demo)?;
    }
    if demo.answers() {
        say("leaving the swarm and removing all containers");
        if output(&mut demo.skep(["info", "--format", "{{.Swarm.LocalNodeState}}"]))? != "inactive" {
            run(&mut demo.skep(["swarm", "leave", "--force"]))?;
        }
        let containers = output(&mut demo.skep(["ps", "--all", "--quiet"]))?;
        if !containers.is_empty() {
            run(&mut demo.skep(["rm", "--force", "--volumes"].into_iter().chain(containers.split_whitespace())))?;
        }
        say("stopping the daemon");
        stop_daemon()?;
    }
    for folder in [demo.data_root.as_path(), Path::new(EXEC_ROOT)] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    say("nothing of the demo is left");
    Ok(())
}

fn start_daemon(demo: &Demo) -> Result<()> {
    if demo.answers() {
        say("the demo's daemon already runs");
        return Ok(());
    }
    say(&format!("starting skep daemon on {}", Demo::host()));
    fs::create_dir_all(&demo.data_root)?;
    fs::create_dir_all(EXEC_ROOT)?;
    let log_path = demo.data_root.join("daemon.log");
    let log = File::create(&log_path)?;
    let mut child = Command::new(&demo.skep)
        .arg("daemon")
        .arg("--data-root")
        .arg(&demo.data_root)
        .args(["--exec-root", EXEC_ROOT, "--host", &Demo::host(), "--pidfile"])
        .arg(Demo::pidfile())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", demo.skep.display()))?;
    let begin = Instant::now();
    while !demo.answers() {
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended with {status}; its log is {}", log_path.display());
        }
        if begin.elapsed() > START_DEADLINE {
            bail!("the daemon does not answer after {START_DEADLINE:?}; its log is {}", log_path.display());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn stop_daemon() -> Result<()> {
    let text = fs::read_to_string(Demo::pidfile()).context("the daemon's pidfile")?;
    let pid: u32 = text.trim().parse().context("the daemon's pidfile")?;
    run(Command::new("kill").arg(pid.to_string()))?;
    let begin = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid) {
        if begin.elapsed() > START_DEADLINE {
            bail!("the daemon (pid {pid}) does not stop");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn call_until_all_answered() -> Result<BTreeSet<String>> {
    let url = format!("http://127.0.0.1:{PORT}/");
    let begin = Instant::now();
    let mut seen = BTreeSet::new();
    while seen.len() < REPLICAS {
        if begin.elapsed() > ANSWER_DEADLINE {
            bail!("only {} of {REPLICAS} tasks answered on {url} within {ANSWER_DEADLINE:?}: {seen:?}", seen.len());
        }
        let answer = Command::new("curl").args(["--silent", "--max-time", "5", &url]).output()?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        match text.lines().find_map(|line| line.strip_prefix("Hostname: ")) {
            Some(hostname) => {
                seen.insert(hostname.to_owned());
            }
            None => std::thread::sleep(POLL),
        }
    }
    Ok(seen)
}
