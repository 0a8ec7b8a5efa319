//! `cargo xtask test`: unit and integration tests, the simulation, and the stock
//! clients against a running daemon.

use crate::sh::{cmd, root, say, target};
use crate::{course, images, setup};
use anyhow::Result;

/// Seeds of the simulation in a normal run.
const SIMULATION_SEEDS: u64 = 500;

/// All tests, or those whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    setup::packages()?;
    say("unit and integration tests");
    let mut args =
        vec!["test", "--workspace", "--locked", "--quiet", "--no-fail-fast", "--exclude", "skep-conformance"];
    args.extend(filter);
    cargo(&args)?;
    if filter.is_none() {
        simulation(SIMULATION_SEEDS)?;
    }
    clients(filter)
}

/// Makes what the clients' tests import and build.
pub(crate) fn images() -> Result<()> {
    images::busybox_tar()?;
    images::whoami_context()?;
    course::bases().map(drop)
}

/// Stock clients against a running daemon.
pub(crate) fn clients(filter: Option<&str>) -> Result<()> {
    setup::packages()?;
    let docker = setup::docker_cli()?;
    let busybox = images::busybox_tar()?;
    let whoami = images::whoami_context()?;
    say("building skep");
    cargo(&["build", "--locked", "--quiet", "--package", "skep-daemon"])?;
    let course = course::bases()?;
    for (what, test) in [("stock clients against a running daemon", "clients"), ("clusters of machines", "cluster")] {
        say(what);
        let mut args = vec!["test", "--locked", "--quiet", "--package", "skep-conformance", "--test", test, "--"];
        args.extend(filter);
        crate::sh::run(
            cmd("cargo", &args)
                .env("SKEP_TEST_SKEP", target().join("debug/skep"))
                .env("SKEP_TEST_DOCKER", &docker)
                .env("SKEP_TEST_BUSYBOX_TAR", &busybox)
                .env("SKEP_TEST_WHOAMI_CONTEXT", &whoami)
                .env("SKEP_TEST_COURSE", root().join("examples/course"))
                .env("SKEP_TEST_PYTHON_TAR", &course.python)
                .env("SKEP_TEST_REDIS_TAR", &course.redis),
        )?;
    }
    Ok(())
}

/// The seeded world; prints its own summary line.
pub(crate) fn simulation(seeds: u64) -> Result<()> {
    say(&format!("simulation, {seeds} seeds"));
    let seeds = seeds.to_string();
    let run = ["run", "--locked", "--quiet", "--release", "--package", "skep-sim", "--bin", "skep-sim"];
    cargo(&[run.as_slice(), &["--", "--seeds", &seeds]].concat())
}

fn cargo(args: &[&str]) -> Result<()> {
    crate::sh::run(&mut cmd("cargo", args))
}
