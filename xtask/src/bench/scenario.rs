//! What is measured, and the bed it is measured in.

use super::engine::Engine;
use super::table::{Line, Measured};
use crate::sh::{cmd, output, run, target};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A line of the comparison and how it is measured.
pub(crate) struct Scenario {
    pub(crate) line: Line,
    pub(crate) run: fn(&mut Bed<'_>) -> Result<Measured>,
}

impl Scenario {
    pub(crate) const fn new(
        name: &'static str,
        title: &'static str,
        bounds: [&'static str; 2],
        run: fn(&mut Bed<'_>) -> Result<Measured>,
    ) -> Self {
        let [must, aim] = bounds;
        Self { line: Line { name, title, must, aim }, run }
    }
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("start", "daemon start to first answer", ["0.4", "0.1"], daemon_start),
    Scenario::new("idle", "idle PSS, all processes", ["0.5", "0.2"], idle_memory),
    Scenario::new("run", "`run --rm busybox true`, bridge", ["0.5", "0.15"], run_rm),
    Scenario::new("exec", "`exec` true", ["0.7", "0.35"], exec),
    Scenario::new("many", "20 concurrent `run -d`", ["0.4", "0.15"], concurrent),
    Scenario::new("container", "PSS per running container", ["0.6", "0.25"], container_memory),
    Scenario::new("service3", "3 replicas: create to all running", ["0.5", "0.2"], replicas_3),
    Scenario::new("service100", "100 replicas: create to all running", ["0.4", "0.12"], replicas_100),
];

/// Images, made without any registry.
pub(crate) struct Inputs {
    pub(crate) busybox_tar: PathBuf,
    pub(crate) whoami_context: PathBuf,
}

/// A running engine in a network namespace of its own.
pub(crate) struct Bed<'a> {
    engine: &'a dyn Engine,
    cli: &'a Path,
    state: PathBuf,
    run_folder: PathBuf,
    namespace: String,
    processes: Vec<Child>,
}

const START_DEADLINE: Duration = Duration::from_secs(60);

impl<'a> Bed<'a> {
    pub(crate) fn new(engine: &'a dyn Engine, cli: &'a Path, inputs: &Inputs) -> Result<Self> {
        let bed = Self::without_images(engine, cli)?;
        bed.docker(&["import", "-c", "CMD [\"sh\"]", &inputs.busybox_tar.to_string_lossy(), "busybox"])?;
        bed.docker(&["build", "-q", "-t", "whoami", &inputs.whoami_context.to_string_lossy()])?;
        Ok(bed)
    }

    pub(crate) fn without_images(engine: &'a dyn Engine, cli: &'a Path) -> Result<Self> {
        let name = format!("skb{}", std::process::id());
        let state = target().join("bench").join(&name);
        let run_folder = PathBuf::from(format!("/run/{name}"));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&run_folder)?;
        let mut bed = Self { engine, cli, state, run_folder, namespace: name, processes: Vec::new() };
        run(&mut cmd("ip", ["netns", "add", &bed.namespace]))?;
        run(&mut cmd("ip", ["-n", &bed.namespace, "link", "set", "lo", "up"]))?;
        run(&mut cmd("ip", ["-n", &bed.namespace, "addr", "add", "10.98.0.1/32", "dev", "lo"]))?;
        for helper in engine.helpers(&bed.state, &bed.run_folder)? {
            bed.spawn(helper)?;
        }
        bed.start_daemon()?;
        Ok(bed)
    }

    /// A folder that goes with the bed.
    pub(crate) fn scratch(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> String {
        self.run_folder.join("api.sock").to_string_lossy().into_owned()
    }

    /// Starts a command inside the namespace; the last started is the daemon.
    fn spawn(&mut self, command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.state.join("log"))?;
        self.processes.push(self.inside(&command).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// The same command, inside the namespace; what is started is the program itself.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(command.get_program());
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            inside.env(key, value.unwrap_or_default());
        }
        inside
    }

    /// Process id of the daemon.
    pub(crate) fn daemon_pid(&self) -> Result<u32> {
        self.processes.last().map(Child::id).context("no daemon")
    }

    fn start_daemon(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.spawn(self.engine.command(&self.state, &self.run_folder, &self.socket())?)?;
        let socket = self.socket();
        loop {
            let ping = Command::new("curl").args(["-s", "-f", "--unix-socket", &socket, "http://x/_ping"]).output()?;
            if ping.status.success() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > START_DEADLINE {
                bail!("{} does not answer: {}", self.engine.label(), fs::read_to_string(self.state.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop_daemon(&mut self) -> Result<()> {
        let mut daemon = self.processes.pop().context("no daemon")?;
        run(Command::new("kill").arg(daemon.id().to_string()))?;
        daemon.wait()?;
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.cli);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.socket())).env("DOCKER_BUILDKIT", "0");
        command
    }

    pub(crate) fn docker(&self, args: &[&str]) -> Result<String> {
        output(&mut self.command(args))
    }

    pub(crate) fn timed(&self, args: &[&str]) -> Result<f64> {
        let begin = Instant::now();
        self.docker(args)?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    /// Removes all containers and leaves the swarm.
    pub(crate) fn clean(&self) -> Result<()> {
        let _ = self.docker(&["swarm", "leave", "--force"]);
        let ids = self.docker(&["ps", "-aq"])?;
        if !ids.is_empty() {
            let args: Vec<&str> = ["rm", "-f", "-v"].into_iter().chain(ids.lines()).collect();
            self.docker(&args)?;
        }
        Ok(())
    }

    /// Proportional set size of the engine's own processes, MiB.
    pub(crate) fn memory_mib(&self) -> Result<f64> {
        let run_folder = self.run_folder.to_string_lossy().into_owned();
        let mut kib = 0;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Ok(line) = fs::read(path.join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if !self.engine.owns(&line, &run_folder) || line.contains("xtask") {
                continue;
            }
            let Ok(rollup) = fs::read_to_string(path.join("smaps_rollup")) else { continue };
            let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or("0");
            kib += pss.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
        Ok(f64::from(u32::try_from(kib)?) / 1024.0)
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        let _ = self.clean();
        while let Some(mut process) = self.processes.pop() {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
        let pids = Command::new("ip").args(["netns", "pids", &self.namespace]).output();
        for pid in pids.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default().split_whitespace()
        {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
        for folder in [&self.state, &self.run_folder] {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn run_rm(bed: &mut Bed<'_>) -> Result<Measured> {
    let args = ["run", "--rm", "busybox", "true"];
    for _ in 0..3 {
        bed.docker(&args)?;
    }
    Measured::median((0..30).map(|_| bed.timed(&args)).collect::<Result<_>>()?, "ms")
}

fn exec(bed: &mut Bed<'_>) -> Result<Measured> {
    bed.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])?;
    Measured::median((0..30).map(|_| bed.timed(&["exec", "box", "true"])).collect::<Result<_>>()?, "ms")
}

fn concurrent(bed: &mut Bed<'_>) -> Result<Measured> {
    let mut totals = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let children: Vec<Child> = (0..20)
            .map(|_| bed.command(&["run", "-d", "busybox", "sleep", "1000"]).stdout(Stdio::null()).spawn())
            .collect::<Result<_, _>>()?;
        for mut child in children {
            ensure!(child.wait()?.success(), "a run failed");
        }
        totals.push(begin.elapsed().as_secs_f64());
        bed.clean()?;
    }
    Measured::median(totals, "s")
}

fn daemon_start(bed: &mut Bed<'_>) -> Result<Measured> {
    let mut values = Vec::new();
    for _ in 0..10 {
        bed.stop_daemon()?;
        values.push(bed.start_daemon()?.as_secs_f64() * 1000.0);
    }
    Measured::median(values, "ms")
}

fn idle_memory(bed: &mut Bed<'_>) -> Result<Measured> {
    Ok(Measured::once(bed.memory_mib()?, "MiB"))
}

fn container_memory(bed: &mut Bed<'_>) -> Result<Measured> {
    let before = bed.memory_mib()?;
    for _ in 0..20 {
        bed.docker(&["run", "-d", "busybox", "sleep", "1000"])?;
    }
    Ok(Measured::once((bed.memory_mib()? - before) / 20.0, "MiB"))
}

fn replicas_3(bed: &mut Bed<'_>) -> Result<Measured> {
    bed.docker(&["swarm", "init", "--advertise-addr", "10.98.0.1"])?;
    let mut values = Vec::new();
    for number in 0..5 {
        values.push(until_running(bed, &format!("s{number}"), 3)?);
    }
    Measured::median(values, "s")
}

fn replicas_100(bed: &mut Bed<'_>) -> Result<Measured> {
    bed.docker(&["swarm", "init", "--advertise-addr", "10.98.0.1"])?;
    Ok(Measured::once(until_running(bed, "big", 100)?, "s"))
}

/// Creates a service and waits until the engine itself says that all replicas run.
fn until_running(bed: &Bed<'_>, name: &str, replicas: u32) -> Result<f64> {
    let wanted = format!("{replicas}/{replicas}");
    let begin = Instant::now();
    let count = replicas.to_string();
    bed.docker(&[
        "service",
        "create",
        "-d",
        "-q",
        "--no-resolve-image",
        "--name",
        name,
        "--replicas",
        &count,
        "whoami",
    ])?;
    loop {
        let filter = format!("name={name}");
        if bed.docker(&["service", "ls", "--filter", &filter, "--format", "{{.Replicas}}"])? == wanted {
            let elapsed = begin.elapsed().as_secs_f64();
            bed.docker(&["service", "rm", name])?;
            return Ok(elapsed);
        }
        ensure!(begin.elapsed() < START_DEADLINE, "{wanted} were not reached");
        std::thread::sleep(Duration::from_millis(20));
    }
}
