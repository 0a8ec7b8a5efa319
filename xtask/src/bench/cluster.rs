//! Managers that agree: what a write costs, how many there can be, and what a lost leader costs.

use super::api::Api;
use super::engine::Engine;
use super::machines::Machines;
use super::table::{Column, Line, Measured};
use crate::sh::say;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) const LINES: [Line; 5] = [
    line("leader", "write through the leader, 3 managers", "1"),
    line("follower", "write through a follower, 3 managers", "1"),
    line("one", "16 clients create, 1 manager", "≥ 1"),
    line("three", "16 clients create, 3 managers", "≥ 1"),
    line("failover", "leader killed: until the next write is accepted", "median ≤ 1 s"),
];

const fn line(name: &'static str, title: &'static str, must: &'static str) -> Line {
    Line { name, title, must, aim: "-" }
}

const MANAGERS: usize = 3;
const CLIENTS: usize = 16;
const WRITES: usize = 300;
const WRITES_TO_WARM_UP: usize = 20;
const RATE_WINDOW: Duration = Duration::from_secs(4);
const FAILOVERS: usize = 11;
/// An election of Docker's takes 10 to 25 seconds; as many as one can wait for.
const FAILOVERS_OF_DOCKER: usize = 5;
const FAILOVER_MAX: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(5);

/// Names that no two writes share.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Measures one engine; what fails is left out and said.
pub(crate) fn measure(engine: &dyn Engine, cli: &Path) -> Result<Column> {
    let mut values = Vec::new();
    let mut machines = Machines::up(engine, cli, MANAGERS)?;
    machines.found()?;
    let mut take = |name: &'static str, measured: Result<Measured>| match measured {
        Ok(measured) => {
            println!("    {name}: {}", measured.show());
            values.push((name, measured));
        }
        Err(reason) => println!("    {name}: failed: {reason:#}"),
    };
    say(&format!("{}: one manager", engine.label()));
    take("one", rate(&machines, 0));
    machines.join_all()?;
    say(&format!("{}: three managers", engine.label()));
    let leader = machines.leader()?;
    take("leader", latency(&machines, leader));
    take("follower", latency(&machines, (leader + 1) % MANAGERS));
    take("three", rate(&machines, leader));
    say(&format!("{}: leaders are killed", engine.label()));
    let rounds = if engine.label() == "skep" { FAILOVERS } else { FAILOVERS_OF_DOCKER };
    take("failover", failover(&mut machines, rounds));
    Ok(Column { label: engine.label(), values })
}

fn fresh_name() -> String {
    format!("w{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One write after the other.
fn latency(machines: &Machines<'_>, number: usize) -> Result<Measured> {
    let mut api = machines.api(number)?;
    let mut values = Vec::new();
    for count in 0..WRITES_TO_WARM_UP + WRITES {
        let name = fresh_name();
        let begin = Instant::now();
        api.create_idle_service(&name)?;
        if count >= WRITES_TO_WARM_UP {
            values.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
    }
    clear(machines, number)?;
    Measured::median(values, "ms")
}

/// Writes a second of clients that do not wait for each other.
fn rate(machines: &Machines<'_>, number: usize) -> Result<Measured> {
    let begin = Instant::now();
    let client = || -> Result<u64> {
        let mut api = machines.api(number)?;
        let mut count = 0;
        while begin.elapsed() < RATE_WINDOW {
            api.create_idle_service(&fresh_name())?;
            count += 1;
        }
        Ok(count)
    };
    let counts = in_parallel(|_| client())?;
    let rate = counts.iter().sum::<u64>() as f64 / begin.elapsed().as_secs_f64();
    clear(machines, number)?;
    Ok(Measured::once(rate, "/s"))
}

/// Runs `work` for every client at once.
fn in_parallel<T: Send>(work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || work(client))).collect();
        let ended = clients.into_iter().map(|client| match client.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect()
    })
}

/// Removes all services, so that every measurement starts from the same store.
fn clear(machines: &Machines<'_>, number: usize) -> Result<()> {
    let services = machines.api(number)?.get("/services")?;
    let ids: Vec<&str> =
        services.as_array().into_iter().flatten().filter_map(|service| service["ID"].as_str()).collect();
    in_parallel(|client| {
        let mut api = machines.api(number)?;
        for id in ids.iter().skip(client).step_by(CLIENTS) {
            let (status, _) = api.call("DELETE", &format!("/services/{id}"), None)?;
            ensure!(status == 200, "removing a service: {status}");
        }
        Ok(())
    })
    .map(drop)
}

/// Kills one leader after the other; a survivor is asked to write all the time.
fn failover(machines: &mut Machines<'_>, rounds: usize) -> Result<Measured> {
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let victim = machines.leader()?;
        let mut survivor = machines.api((victim + 1) % MANAGERS)?;
        survivor.create_idle_service(&fresh_name()).context("a write before the leader is killed")?;
        let begin = Instant::now();
        machines.kill_daemon(victim)?;
        until_written(&mut survivor, begin)?;
        gaps.push(begin.elapsed().as_secs_f64());
        machines.start_daemon(victim)?;
        machines.wait_for_managers()?;
    }
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    println!("    worst of {rounds}: {worst:.2} s");
    Measured::median(gaps, "s")
}

fn until_written(survivor: &mut Api, begin: Instant) -> Result<()> {
    loop {
        match survivor.create_idle_service(&fresh_name()) {
            Ok(()) => return Ok(()),
            Err(reason) if begin.elapsed() > FAILOVER_MAX => bail!("no write was accepted: {reason:#}"),
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}
