//! One seed in this process, or many, each in a process of its own.

use crate::world;
use anyhow::{Context, Result, anyhow, bail};
use skep_manager::Sabotage;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const USAGE: &str = "usage: skep-turmoil [--seeds N] [--from N] [--twice] [--planted] | --seed N [--show] [--bug NAME]
  --seed N    runs one seed; --show prints its trace, and logs as RUST_LOG says
  --seeds N   runs so many, each in a process of its own
  --twice     runs each seed in two processes and compares the traces
  --planted   every planted bug must be found within some seeds";
/// Every planted bug must show within so many seeds.
const PLANTED_SEEDS: u64 = 40;
const STACK_BYTES: usize = 32 << 20;
/// What every passed seed's line ends with.
const TRACE_WORD: &str = "trace ";

#[derive(Default)]
struct Options {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    bug: Option<Sabotage>,
    show: bool,
    twice: bool,
    planted: bool,
}

pub(crate) fn run() -> Result<()> {
    let options = parse()?;
    match options.seed {
        Some(seed) => one(seed, &options),
        None if options.planted => planted(),
        None => many(&options),
    }
}

fn parse() -> Result<Options> {
    let mut options = Options { seeds: 20, from: 1, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        let number = |text: String| text.parse::<u64>().with_context(|| format!("{text} is not a number"));
        match word.as_str() {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--seed" => options.seed = Some(number(value()?)?),
            "--bug" => {
                let name = value()?;
                let bug = Sabotage::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
                options.bug = Some(bug.with_context(|| format!("no bug {name}, there are {:?}", Sabotage::ALL))?);
            }
            "--show" => options.show = true,
            "--twice" => options.twice = true,
            "--planted" => options.planted = true,
            _ => bail!("unknown word {word}\n{USAGE}"),
        }
    }
    Ok(options)
}

fn one(seed: u64, options: &Options) -> Result<()> {
    if options.show {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    if let Some(bug) = options.bug {
        bug.plant();
    }
    let show = options.show;
    // In a thread of its own: what was drawn by chance on this one before must not matter.
    let run = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || world::run(seed, show))?;
    let run = run.join().unwrap_or_else(|_| Err(anyhow!("a panic"))).with_context(|| format!("seed {seed}"))?;
    println!(
        "seed {seed}: {:.1} s, {} writes acknowledged, {} refused, {} terms, {} power cuts, {} snapshots, {} log \
         entries read, {} events, {TRACE_WORD}{:016x}",
        run.simulated_ms as f64 / 1000.0,
        run.acknowledged,
        run.refused,
        run.terms,
        run.power_cuts,
        run.snapshots,
        run.entries,
        run.events,
        run.hash
    );
    Ok(())
}

fn many(options: &Options) -> Result<()> {
    let started = Instant::now();
    let failures = on_all_cores(options.from, options.seeds, |seed| failure(seed, options.twice));
    for failure in &failures {
        println!("{failure}");
    }
    let runs = if options.twice { "each run twice with equal traces, " } else { "" };
    println!(
        "turmoil: {} seeds, {runs}{} failures, {:.1} s",
        options.seeds,
        failures.len(),
        started.elapsed().as_secs_f64()
    );
    if !failures.is_empty() {
        bail!("{} of {} seeds fail", failures.len(), options.seeds);
    }
    Ok(())
}

fn planted() -> Result<()> {
    let mut missed = Vec::new();
    for bug in Sabotage::ALL {
        let found = Mutex::new(Vec::new());
        let mut from = 1;
        // A few at a time: most bugs show at once.
        while from <= PLANTED_SEEDS && found.lock().is_ok_and(|found| found.is_empty()) {
            on_all_cores(from, 2, |seed| {
                let output = start(seed, Some(bug)).ok()?;
                if !output.status.success()
                    && let Ok(mut found) = found.lock()
                {
                    found.push((seed, reason(&output)));
                }
                None
            });
            from += 2;
        }
        let found = found.into_inner().unwrap_or_default();
        match found.first() {
            Some((seed, reason)) => println!("{bug:?}: found by seed {seed}: {reason}"),
            None => missed.push(bug),
        }
    }
    if !missed.is_empty() {
        bail!("not found within {PLANTED_SEEDS} seeds: {missed:?}");
    }
    Ok(())
}

/// What `job` says of seeds, in their order.
fn on_all_cores(from: u64, seeds: u64, job: impl Fn(u64) -> Option<String> + Sync) -> Vec<String> {
    let (next, said) = (AtomicU64::new(from), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    if let (Some(text), Ok(mut said)) = (job(seed), said.lock()) {
                        said.push((seed, text));
                    }
                }
            });
        }
    });
    let mut said = said.into_inner().unwrap_or_default();
    said.sort();
    said.into_iter().map(|(_, text)| text).collect()
}

/// Why a seed does not pass, and how to see it.
fn failure(seed: u64, twice: bool) -> Option<String> {
    let tries = if twice { 2 } else { 1 };
    let mut traces = Vec::new();
    for _ in 0..tries {
        match start(seed, None) {
            Ok(output) if output.status.success() => traces.push(trace(&output)),
            Ok(output) => return Some(format!("seed {seed}: {}\n{}", reason(&output), repeat(seed))),
            Err(error) => return Some(format!("seed {seed}: {error:#}")),
        }
    }
    let differ = traces.windows(2).any(|pair| pair[0] != pair[1]);
    differ.then(|| format!("seed {seed}: two runs differ: {traces:?}\n{}", repeat(seed)))
}

fn repeat(seed: u64) -> String {
    format!("  repeat with: cargo run -p skep-turmoil -- --seed {seed} --show")
}

/// This program with one seed.
fn start(seed: u64, bug: Option<Sabotage>) -> Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]).env("RUST_BACKTRACE", "0");
    if let Some(bug) = bug {
        command.args(["--bug", &format!("{bug:?}")]);
    }
    command.output().context("cannot start a run")
}

/// The hash of all events.
fn trace(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.rsplit_once(TRACE_WORD).map_or(text.clone(), |(_, hash)| hash.trim().to_owned())
}

/// The last thing it said of why it failed.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note: "));
    lines.collect::<Vec<_>>().join(" | ")
}
