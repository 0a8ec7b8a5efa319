//! The simulation as a test: old failures, fresh seeds, planted bugs, determinism.

use skep_sim::{Sabotage, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SEEDS: u64 = 50;

/// Runs jobs on all cores and returns their failures.
fn on_all_cores<T: Sync>(jobs: &[T], job: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    failures.lock().expect("no run panics while holding it").extend(job(one));
                }
            });
        }
    });
    failures.into_inner().expect("all threads have ended")
}

fn failure(seed: &u64) -> Option<String> {
    let failure = run(*seed, None, false).failure?;
    Some(format!("seed {seed}: {failure}; repeat with: cargo run --release -p skep-sim -- --seed {seed} --show"))
}

#[test]
fn old_failures_stay_fixed() {
    let lines = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<u64> = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    assert!(!seeds.is_empty());
    assert_eq!(on_all_cores(&seeds, failure), Vec::<String>::new());
}

#[test]
fn fresh_seeds_pass() {
    let seeds: Vec<u64> = (1000..1000 + SEEDS).collect();
    assert_eq!(on_all_cores(&seeds, failure), Vec::<String>::new());
}

#[test]
fn planted_bugs_are_found() {
    let missed = on_all_cores(&Sabotage::ALL, |sabotage| {
        let found = (1..=SEEDS).any(|seed| run(seed, Some(*sabotage), false).failure.is_some());
        (!found).then(|| format!("{sabotage:?} is not found within {SEEDS} seeds"))
    });
    assert_eq!(missed, Vec::<String>::new());
}

#[test]
fn a_seed_decides_everything() {
    for seed in [3, 7] {
        let (first, second) = (run(seed, None, false), run(seed, None, false));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}
