//! The planner alone: no Raft, no network, one core.

use super::table::{exponent, number, plain};
use crate::sh::{cmd, output, run, say, target};
use anyhow::{Context, Result};
use serde::Deserialize;

/// What the example `plan_speed` says of one size.
#[derive(Deserialize)]
struct Planned {
    tasks: f64,
    nodes: f64,
    planned_secs: f64,
    applied_secs: f64,
    again_secs: f64,
    snapshot_bytes_per_task: f64,
    memory_bytes_per_task: f64,
}

/// Placements a second at least.
const FLOOR: f64 = 100_000.0;

pub(crate) fn measure(build: bool) -> Result<String> {
    if build {
        say("building the planner's example (release)");
        let args = ["build", "--release", "--locked", "--package", "skep-cluster", "--example", "plan_speed"];
        run(&mut cmd("cargo", args))?;
    }
    say("planning");
    let text = output(cmd("taskset", ["-c", "0"]).arg(target().join("release/examples/plan_speed")).arg("--json"))?;
    println!("{text}");
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let sizes: Vec<Planned> = lines.map(serde_json::from_str).collect::<Result<_, _>>().context("plan_speed")?;
    let head = [
        "tasks onto nodes",
        "planned in",
        "placements/s",
        "must",
        "growth exponent",
        "applied in",
        "planned again in",
        "snapshot per task",
        "memory per task",
    ];
    let mut before: Option<&Planned> = None;
    let mut rows = Vec::new();
    for size in &sizes {
        let growth = before.map(|b| exponent((b.tasks, b.planned_secs), (size.tasks, size.planned_secs)));
        rows.push(vec![
            format!("{} onto {}", size.tasks, size.nodes),
            format!("{} s", number(size.planned_secs)),
            format!("{:.0}", size.tasks / size.planned_secs),
            format!("{FLOOR:.0}"),
            growth.unwrap_or_else(|| "-".into()),
            format!("{} s", number(size.applied_secs)),
            format!("{} s", number(size.again_secs)),
            format!("{} bytes", size.snapshot_bytes_per_task),
            format!("{} bytes", size.memory_bytes_per_task),
        ]);
        before = Some(size);
    }
    Ok(plain(&head.map(str::to_owned), &rows))
}
