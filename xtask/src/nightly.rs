//! `cargo xtask nightly`: what takes too long for every change. Everything runs, also after a
//! failure; a table at the end says how each part ended.

use crate::sh::say;
use crate::{fuzz, test};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const SIMULATION_SEEDS: u64 = 10_000;
const TURMOIL_SEEDS: u64 = 300;
const TURMOIL_TWICE_SEEDS: u64 = 20;
const LEADERS_KILLED: u32 = 50;
const POWER_CUTS: u32 = 100;
const FUZZ_SECONDS: u32 = 120;
/// Of each kind, more than 10,000 of all.
const ATTACKS: u32 = 2_000;

/// What runs, in this order.
type Part = (String, Box<dyn Fn() -> Result<()>>);

pub(crate) fn run() -> Result<()> {
    let mut lines = Vec::new();
    let mut failures = 0;
    for (name, part) in parts() {
        let started = Instant::now();
        let ended = part();
        failures += usize::from(ended.is_err());
        lines.push(line(&name, &ended, started.elapsed()));
    }
    say("nightly");
    lines.iter().for_each(|line| println!("{line}"));
    if failures > 0 {
        bail!("{failures} of {} parts failed", lines.len());
    }
    Ok(())
}

fn parts() -> Vec<Part> {
    let part = |name: String, run: Box<dyn Fn() -> Result<()>>| (name, run);
    let mut parts = vec![
        part(format!("simulation, {SIMULATION_SEEDS} seeds"), Box::new(|| test::simulation(SIMULATION_SEEDS))),
        part(
            format!("simulated network, {TURMOIL_SEEDS} seeds"),
            Box::new(|| test::turmoil(&["--seeds", TURMOIL_SEEDS.to_string().as_str()])),
        ),
        part(
            format!("simulated network, {TURMOIL_TWICE_SEEDS} seeds twice"),
            Box::new(|| {
                test::turmoil(&["--twice", "--from", "1000", "--seeds", TURMOIL_TWICE_SEEDS.to_string().as_str()])
            }),
        ),
        part("simulated network, planted bugs".into(), Box::new(|| test::turmoil(&["--planted"]))),
    ];
    parts.push(part(format!("attacks on the cluster port, {ATTACKS} rounds"), Box::new(|| test::attacks(ATTACKS))));
    parts.push(part(format!("each fuzzer for {FUZZ_SECONDS} s"), Box::new(|| fuzz::run_all(None, FUZZ_SECONDS))));
    for (scenario, rounds) in [
        ("a_killed_leader_costs_no_write", LEADERS_KILLED),
        ("power_cuts_of_the_only_manager_lose_no_write", POWER_CUTS),
        ("power_cuts_of_any_manager_lose_no_write", POWER_CUTS),
        ("power_cuts_lose_no_container_and_no_image", POWER_CUTS),
    ] {
        parts.push(part(
            format!("{scenario}, {rounds} rounds"),
            Box::new(move || test::cluster_rounds(scenario, rounds)),
        ));
    }
    parts
}

fn line(name: &str, ended: &Result<()>, took: Duration) -> String {
    let word = if ended.is_ok() { "passed" } else { "FAILED" };
    let reason = ended.as_ref().err().map(|error| format!("  {error:#}")).unwrap_or_default();
    format!("{word}  {:>6.0} s  {name}{reason}", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_it_ended_and_why() {
        let took = Duration::from_secs(61);
        assert_eq!(line("a", &Ok(()), took), "passed      61 s  a");
        assert_eq!(line("a", &Err(anyhow::anyhow!("no")), took), "FAILED      61 s  a  no");
    }
}
