//! A leader and very many agents: the leader is the real daemon on a core of its own, the
//! agents are many sessions of one process on the other cores.

use super::api::{Api, service};
use super::engine::Skep;
use super::machines::until_every;
use super::scenario::Bed;
use super::table::{exponent, number, plain};
use crate::sh::{cmd, run, say, target};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Sessions at once.
const SIZES: [u64; 3] = [1_000, 3_000, 10_000];
/// How long the leader is watched while nothing happens but heartbeats.
const IDLE_WINDOW: Duration = Duration::from_secs(20);
/// Room for every node's address in the routing mesh.
const SWARM: [&str; 9] = [
    "swarm",
    "init",
    "--advertise-addr",
    "10.98.0.1",
    "--availability=drain",
    "--default-addr-pool",
    "10.0.0.0/8",
    "--default-addr-pool-mask-length",
    "12",
];
const TASKS_DEADLINE: Duration = Duration::from_secs(600);
/// To answer, the leader looks at every task: it is not asked more often than a person would.
const TASKS_POLL: Duration = Duration::from_millis(500);
/// The kernel's unit for processor time.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the example `many_agents` says when so many agents have a session.
#[derive(Deserialize)]
struct Ready {
    agents: u64,
    secs: f64,
    lost: u64,
}

struct Row {
    agents: f64,
    joined_secs: f64,
    joined_cpu_secs: f64,
    idle_share: f64,
    pss_mib: f64,
    tasks_secs: f64,
    tasks_cpu_secs: f64,
    lost: u64,
}

pub(crate) fn measure(skep: &Path, cli: &Path, build: bool) -> Result<String> {
    if build {
        say("building the agents' example (release)");
        let args = ["build", "--release", "--locked", "--package", "skep-manager", "--example", "many_agents"];
        run(&mut cmd("cargo", args))?;
    }
    let engine = Skep { program: skep.to_owned(), core: Some(0) };
    let bed = Bed::without_images(&engine, cli)?;
    bed.docker(&SWARM)?;
    let token = bed.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    let mut agents = Agents::start(&bed, &token)?;
    let mut api = Api::new(Path::new(&bed.socket()))?;
    let leader = Leader { pid: bed.daemon_pid()? };
    let mut rows = Vec::new();
    for size in SIZES {
        say(&format!("{size} agents"));
        rows.push(step(&mut agents, &mut api, &leader, size)?);
    }
    Ok(table(&rows))
}

fn step(agents: &mut Agents, api: &mut Api, leader: &Leader, size: u64) -> Result<Row> {
    let cpu = leader.cpu_secs()?;
    let ready = agents.grow(size)?;
    let joined_cpu_secs = leader.cpu_secs()? - cpu;
    println!("    {} sessions after {:.1} s, {joined_cpu_secs:.1} s of processor", ready.agents, ready.secs);

    let (begin, cpu) = (Instant::now(), leader.cpu_secs()?);
    std::thread::sleep(IDLE_WINDOW);
    let idle_share = (leader.cpu_secs()? - cpu) / begin.elapsed().as_secs_f64();
    let pss_mib = leader.pss_mib()?;
    println!("    idle: {:.1} % of a core, {pss_mib:.0} MiB", idle_share * 100.0);

    let (begin, cpu) = (Instant::now(), leader.cpu_secs()?);
    let name = format!("s{size}");
    let (status, body) = api.call("POST", "/services/create", Some(&service(&name, size)))?;
    ensure!(status == 201, "{status} {}", String::from_utf8_lossy(&body));
    until_every(TASKS_POLL, TASKS_DEADLINE, "the tasks do not run", || Ok(running(api, &name)? == size))?;
    let (tasks_secs, tasks_cpu_secs) = (begin.elapsed().as_secs_f64(), leader.cpu_secs()? - cpu);
    println!("    {size} tasks run after {tasks_secs:.2} s, {tasks_cpu_secs:.1} s of processor");
    let (status, _) = api.call("DELETE", &format!("/services/{name}"), None)?;
    ensure!(status == 200, "removing the service: {status}");
    until_every(TASKS_POLL, TASKS_DEADLINE, "the tasks do not end", || {
        Ok(api.get("/tasks")?.as_array().is_some_and(Vec::is_empty))
    })?;
    Ok(Row {
        agents: ready.agents as f64,
        joined_secs: ready.secs,
        joined_cpu_secs,
        idle_share,
        pss_mib,
        tasks_secs,
        tasks_cpu_secs,
        lost: ready.lost,
    })
}

fn running(api: &mut Api, name: &str) -> Result<u64> {
    let services = api.get("/services?status=true")?;
    let service = services.as_array().and_then(|list| list.iter().find(|service| service["Spec"]["Name"] == name));
    Ok(service.and_then(|service| service["ServiceStatus"]["RunningTasks"].as_u64()).unwrap_or(0))
}

fn table(rows: &[Row]) -> String {
    let head = [
        "agents",
        "leader idle, share of a core",
        "exponent",
        "leader PSS",
        "PSS per agent",
        "one task each: create to all running",
        "processor for that",
        "exponent",
        "sessions opened",
        "processor for that",
        "sessions lost",
    ];
    let mut before: Option<&Row> = None;
    let mut lines = Vec::new();
    for row in rows {
        let growth = |value: fn(&Row) -> f64| {
            before.map_or_else(|| "-".to_owned(), |b| exponent((b.agents, value(b)), (row.agents, value(row))))
        };
        let marginal = before.map_or_else(
            || "-".to_owned(),
            |b| format!("{} KiB", number((row.pss_mib - b.pss_mib) * 1024.0 / (row.agents - b.agents))),
        );
        lines.push(vec![
            format!("{}", row.agents),
            format!("{} %", number(row.idle_share * 100.0)),
            growth(|row| row.idle_share),
            format!("{} MiB", number(row.pss_mib)),
            marginal,
            format!("{} s", number(row.tasks_secs)),
            format!("{} s", number(row.tasks_cpu_secs)),
            growth(|row| row.tasks_cpu_secs),
            format!("in {} s", number(row.joined_secs)),
            format!("{} s", number(row.joined_cpu_secs)),
            row.lost.to_string(),
        ]);
        before = Some(row);
    }
    plain(&head.map(str::to_owned), &lines)
}

/// The daemon's process, as the kernel accounts for it.
struct Leader {
    pid: u32,
}

impl Leader {
    fn cpu_secs(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // Behind the name, which may contain anything: state is field 3, times are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<f64>().ok()).context("times");
        Ok((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
    }

    fn pss_mib(&self) -> Result<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        Ok(pss.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// The process that plays all agents.
struct Agents {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Agents {
    fn start(bed: &Bed<'_>, token: &str) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let others = if cores > 1 { format!("1-{}", cores - 1) } else { "0".into() };
        let mut command = Command::new("taskset");
        command.args(["-c", &others]).arg(target().join("release/examples/many_agents"));
        command.args(["10.98.0.1:2377", token]);
        let mut process = bed.inside(&command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(process.stdout.take().context("a piped output")?).lines();
        Ok(Self { process, lines })
    }

    /// Answers once so many agents have a session.
    fn grow(&mut self, size: u64) -> Result<Ready> {
        let input = self.process.stdin.as_mut().context("a piped input")?;
        writeln!(input, "{size}")?;
        let line = self.lines.next().context("the agents have ended")??;
        serde_json::from_str(&line).with_context(|| line)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
