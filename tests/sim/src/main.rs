//! Runs seeds and says which of them fail.

use anyhow::{Context, bail};
use skep_sim::{Sabotage, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const USAGE: &str = "usage: skep-sim [--seeds N] [--from N] [--seed N [--show]] [--planted]";
/// Every planted bug must show within so many seeds.
const PLANTED_SEEDS: u64 = 50;

#[derive(Default)]
struct Options {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    show: bool,
    planted: bool,
}

fn main() -> anyhow::Result<()> {
    let options = parse()?;
    if options.planted {
        return planted();
    }
    if let Some(seed) = options.seed {
        return one(seed, options.show);
    }
    many(options.from, options.seeds)
}

fn parse() -> anyhow::Result<Options> {
    let mut options = Options { seeds: 200, from: 1, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> anyhow::Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number\n{USAGE}"))?;
            text.parse().with_context(|| format!("{text} is not a number"))
        };
        match word.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--seed" => options.seed = Some(number()?),
            "--show" => options.show = true,
            "--planted" => options.planted = true,
            _ => bail!("unknown word {word}\n{USAGE}"),
        }
    }
    Ok(options)
}

#[allow(clippy::print_stdout, reason = "this is a program for people")]
fn one(seed: u64, show: bool) -> anyhow::Result<()> {
    let outcome = run(seed, None, show);
    match outcome.failure {
        None => println!("seed {seed}: passed, {} events, trace {:016x}", outcome.events, outcome.hash),
        Some(failure) => bail!("seed {seed}: {failure}"),
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is a program for people")]
fn many(from: u64, seeds: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let (next, events) = (AtomicU64::new(from), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let outcome = run(seed, None, false);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        failures.lock().expect("no run panics while holding it").push((seed, failure));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("all threads have ended");
    failures.sort();
    for (seed, failure) in &failures {
        println!("seed {seed}: {failure}\n  repeat with: skep-sim --seed {seed} --show");
    }
    let (count, took) = (failures.len(), started.elapsed().as_secs_f64());
    println!("sim: {seeds} seeds, {count} failures, {} steps, {took:.1} s", events.into_inner());
    if count > 0 {
        bail!("{count} of {seeds} seeds fail");
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is a program for people")]
fn planted() -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for sabotage in Sabotage::ALL {
        let found = (1..=PLANTED_SEEDS).find_map(|seed| Some((seed, run(seed, Some(sabotage), false).failure?)));
        match found {
            Some((seed, failure)) => println!("{sabotage:?}: found by seed {seed}: {failure}"),
            None => missed.push(sabotage),
        }
    }
    if !missed.is_empty() {
        bail!("not found within {PLANTED_SEEDS} seeds: {missed:?}");
    }
    Ok(())
}
