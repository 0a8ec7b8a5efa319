//! The binary `skep`: one file with the roles of command line, daemon, network daemon and
//! shim. The only crate that wires the others together.
//!
//! [`wire`] builds the daemon in order and takes it down in reverse; [`role`] is this
//! node's membership in a swarm; [`netd_process`] keeps the network daemon running.

mod address;
mod config;
mod facts;
#[cfg(test)]
mod identity_tests;
mod lock;
mod logging;
mod manager_keeper;
mod membership;
mod netd_attach;
mod netd_process;
mod options;
mod raft_dump;
mod role;
mod role_api;
mod role_rules;
#[cfg(test)]
mod swarm_tests;
mod wire;

use anyhow::{Context, Result};
use clap::{Arg, Command};
use skep_netd::{BalancerChoice, NetdConfig};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Async worker threads at most; the daemon waits more than it works.
const WORKER_THREADS_MAX: usize = 4;
/// Threads for blocking file work at most; each costs a stack.
const BLOCKING_THREADS_MAX: usize = 64;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|role| role.to_str()) {
        // Before anything else starts a thread: the shim forks.
        Some("shim") => shim(&args[2..]),
        Some("netd") => finish(netd(args[2..].to_vec())),
        Some("daemon") => finish(daemon(args[2..].to_vec())),
        Some("raft") => finish(raft_dump::run(args[2..].to_vec())),
        _ => cli(args),
    }
}

fn shim(args: &[OsString]) -> ExitCode {
    let [run_dir] = args else {
        complain("usage: skep shim RUN_DIRECTORY");
        return ExitCode::from(2);
    };
    exit_code(skep_shim::main(Path::new(run_dir)))
}

fn netd(args: Vec<OsString>) -> Result<()> {
    let option = |name: &'static str| Arg::new(name).long(name).num_args(1);
    let matches = Command::new("skep netd")
        .bin_name("skep netd")
        .no_binary_name(true)
        .about("Runs the network daemon; started by skep daemon")
        .arg(option("socket").required(true).value_parser(clap::value_parser!(PathBuf)))
        .arg(option("state").required(true).value_parser(clap::value_parser!(PathBuf)))
        .arg(option("balancer").default_value("auto").value_parser(["auto", "ipvs", "nftables"]))
        .arg(option("log-level").default_value("info"))
        .arg(option("log-format").default_value("text"))
        .try_get_matches_from(args)?;
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    logging::start_at(config::parse_level(text("log-level"))?, config::parse_format(text("log-format"))?);
    let balancer: BalancerChoice = text("balancer").parse()?;
    Ok(skep_netd::main(NetdConfig { socket: path("socket"), state: path("state"), balancer })?)
}

fn daemon(args: Vec<OsString>) -> Result<()> {
    let config = config::load(args)?;
    if config.validate {
        return Ok(writeln!(std::io::stdout(), "configuration OK")?);
    }
    logging::start(&config);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.clamp(2, WORKER_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("skep")
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(wire::run(config));
    // What still blocks after an orderly end is not worth waiting for.
    runtime.shutdown_background();
    outcome
}

fn cli(args: Vec<OsString>) -> ExitCode {
    exit_code(skep_cli::main(args))
}

/// Clap's own messages (help among them) go where clap sends them, others to standard error.
fn finish(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // A closed terminal cannot be told anything.
        let _ = usage.print();
        return exit_code(usage.exit_code());
    }
    complain(&format!("skep: {error:#}"));
    ExitCode::FAILURE
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn complain(text: &str) {
    // As above.
    let _ = writeln!(std::io::stderr(), "{text}");
}
