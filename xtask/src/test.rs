//! `cargo xtask test`: unit and integration tests, the simulation, stock clients against
//! a running daemon, clusters of machines, and Debian's stock kernel.

use crate::sh::{cmd, output, root, say, target};
use crate::{course, images, setup, vm};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Seeds of the simulation in a normal run.
const SIMULATION_SEEDS: u64 = 500;
/// Runs of the simulated network in a normal run, a few seconds each, and those that are run
/// twice to see that a seed decides everything.
const TURMOIL_SEEDS: &str = "8";
const TURMOIL_TWICE_SEEDS: &str = "2";
/// For a daemon and a few containers, all files they write included.
const STOCK_KERNEL_MEMORY_MIB: u32 = 1024;
/// An emulated machine is twenty to thirty times slower.
const STOCK_KERNEL_TIMEOUT: Duration = Duration::from_secs(600);
/// Clients, and netd's own tests with the other balancer; `$3` is the filter.
const STOCK_KERNEL_SCRIPT: &str = "code=0
\"$1\" ${3:+\"$3\"} || code=1
SKEP_TEST_BALANCER=ipvs \"$2\" --include-ignored --skip netd_process ${3:+\"$3\"} || code=1
exit $code";

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
        turmoil(&["--seeds", TURMOIL_SEEDS])?;
        turmoil(&["--twice", "--from", "500", "--seeds", TURMOIL_TWICE_SEEDS])?;
    }
    clients(filter)?;
    clusters(filter)?;
    on_stock_kernel(filter)
}

/// Makes what the clients' tests import and build.
pub(crate) fn images() -> Result<()> {
    images::busybox_tar()?;
    images::whoami_context()?;
    course::bases().map(drop)
}

/// Stock clients against a running daemon.
pub(crate) fn clients(filter: Option<&str>) -> Result<()> {
    conformance("clients", "stock clients against a running daemon", filter, &course_images()?)
}

/// Clusters of several machines.
pub(crate) fn clusters(filter: Option<&str>) -> Result<()> {
    conformance("cluster", "clusters of machines", filter, &course_images()?)
}

/// What builds the images of the course: its folder and their bases.
fn course_images() -> Result<[(&'static str, OsString); 3]> {
    let bases = course::bases()?;
    Ok([
        ("SKEP_TEST_COURSE", root().join("examples/course").into()),
        ("SKEP_TEST_PYTHON_TAR", bases.python.into()),
        ("SKEP_TEST_REDIS_TAR", bases.redis.into()),
    ])
}

/// One scenario of a cluster, its fault repeated so often.
pub(crate) fn cluster_rounds(scenario: &str, rounds: u32) -> Result<()> {
    conformance("cluster", scenario, Some(scenario), &[("SKEP_TEST_ROUNDS", rounds.to_string().into())])
}

/// The attacks on the cluster port, each kind so often.
pub(crate) fn attacks(tries: u32) -> Result<()> {
    let args = ["test", "--locked", "--quiet", "--package", "skep-manager", "--test", "hostile"];
    crate::sh::run(cmd("cargo", args).env("SKEP_TEST_TRIES", tries.to_string()))
}

fn conformance(test: &str, what: &str, filter: Option<&str>, more: &[(&str, OsString)]) -> Result<()> {
    setup::packages()?;
    let docker = setup::docker_cli()?;
    let busybox = images::busybox_tar()?;
    let whoami = images::whoami_context()?;
    say("building skep");
    cargo(&["build", "--locked", "--quiet", "--package", "skep-daemon"])?;
    say(what);
    let mut args = vec!["test", "--locked", "--quiet", "--package", "skep-conformance", "--test", test, "--"];
    args.extend(filter);
    crate::sh::run(
        cmd("cargo", &args)
            .env("SKEP_TEST_SKEP", target().join("debug/skep"))
            .env("SKEP_TEST_DOCKER", docker)
            .env("SKEP_TEST_BUSYBOX_TAR", busybox)
            .env("SKEP_TEST_WHOAMI_CONTEXT", whoami)
            .envs(more.iter().map(|(name, path)| (name, path))),
    )
}

/// What differs on Debian's own kernel, in a virtual machine.
pub(crate) fn on_stock_kernel(filter: Option<&str>) -> Result<()> {
    if let Err(error) = vm::prepare() {
        say(&format!("SKIPPED: tests on Debian's stock kernel, for want of a virtual machine: {error:#}"));
        return Ok(());
    }
    let docker = setup::docker_cli()?;
    let busybox = images::busybox_tar()?;
    let whoami = images::whoami_context()?;
    cargo(&["build", "--locked", "--quiet", "--package", "skep-daemon"])?;
    let clients = test_program("skep-conformance", "stock_kernel")?;
    let network = test_program("skep-netd", "swarm")?;
    say("tests on Debian's stock kernel");
    let variable = |name: &str, path: &Path| (name.to_owned(), path.to_string_lossy().into_owned());
    let environment = [
        variable("SKEP_TEST_SKEP", &target().join("debug/skep")),
        variable("SKEP_TEST_DOCKER", &docker),
        variable("SKEP_TEST_BUSYBOX_TAR", &busybox),
        variable("SKEP_TEST_WHOAMI_CONTEXT", &whoami),
        variable("SKEP_TEST_SCRATCH", Path::new("/tmp")),
    ];
    let script = ["sh", "-c", STOCK_KERNEL_SCRIPT, "sh", &clients, &network];
    let command: Vec<String> = script.into_iter().chain(filter).map(str::to_owned).collect();
    let job = vm::Job {
        command: &command,
        environment: &environment,
        memory_mib: STOCK_KERNEL_MEMORY_MIB,
        processors: 2,
        timeout: STOCK_KERNEL_TIMEOUT,
    };
    match vm::run(&job)? {
        0 => Ok(()),
        code => bail!("the tests on Debian's stock kernel ended with {code}"),
    }
}

/// Builds one test program and gives its path.
fn test_program(package: &str, name: &str) -> Result<String> {
    let args = ["test", "--locked", "--no-run", "--message-format=json", "--package", package, "--test", name];
    let messages = output(&mut cmd("cargo", args))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name).then(|| message["executable"].as_str().map(str::to_owned)).flatten()
    };
    messages.lines().find_map(executable).with_context(|| format!("cargo names no program for the test {name}"))
}

/// The seeded world; prints its own summary line.
pub(crate) fn simulation(seeds: u64) -> Result<()> {
    say(&format!("simulation, {seeds} seeds"));
    let seeds = seeds.to_string();
    let run = ["run", "--locked", "--quiet", "--release", "--package", "skep-sim", "--bin", "skep-sim"];
    cargo(&[run.as_slice(), &["--", "--seeds", &seeds]].concat())
}

/// Real managers on a simulated network; the program makes its own build. Prints its own
/// summary line.
pub(crate) fn turmoil(words: &[&str]) -> Result<()> {
    say(&format!("simulated network {}", words.join(" ")));
    cargo(&[["run", "--locked", "--quiet", "--package", "skep-turmoil", "--"].as_slice(), words].concat())
}

fn cargo(args: &[&str]) -> Result<()> {
    crate::sh::run(&mut cmd("cargo", args))
}
