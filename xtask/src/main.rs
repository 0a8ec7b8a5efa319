//! The project's own commands, `cargo xtask <command>`: everything a newcomer or the
//! build farm runs. Each installs what it needs, says what it does, and can be run again.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod bench;
mod course;
mod demo;
mod fuzz;
mod images;
mod lab;
mod lint;
mod nightly;
mod setup;
mod sh;
mod test;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "skep's own commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build skep, start it on a scratch data root and show a load-balanced service
    Demo {
        /// Remove every trace of an earlier demo
        #[arg(long)]
        down: bool,
    },
    /// Run all tests
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run only the tests with stock clients against a running daemon
    Clients {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run only the tests on Debian's stock kernel, in a virtual machine
    StockKernel {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run only the tests of clusters of several machines
    Clusters {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Check formatting, lints, licences and the rules of the tree; writes nothing
    Lint,
    /// Everything the build farm checks: lint, then test; writes nothing
    Verify,
    /// Repair what can be repaired without a person: formatting and simple lints
    Fix,
    /// Run the seeded simulation of the control plane
    Sim {
        /// Number of seeds
        #[arg(long, default_value_t = 500)]
        seeds: u64,
    },
    /// Run what takes too long for every change, for hours: thousands of seeds, many rounds of faults
    Nightly,
    /// Run real managers on a simulated network: `--seeds N`, `--seed N --show`, `--twice`, `--planted`
    Turmoil {
        /// What the program is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Measure skep, and Docker beside it when dockerd is present
    Bench(bench::Options),
    /// Run the fuzzers of everything that parses foreign bytes
    Fuzz {
        /// Only this one
        target: Option<String>,
        /// Seconds for each
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Several machines on this one, to try a cluster by hand
    Lab {
        #[command(subcommand)]
        command: lab::Command,
    },
    /// Install the packages that building and testing need
    Setup {
        /// Also make the images that tests use
        #[arg(long)]
        images: bool,
    },
    /// Run a command of this machine on Debian's stock kernel, in a virtual machine
    Vm {
        /// Memory in MiB
        #[arg(long, default_value_t = 1024)]
        memory: u32,
        /// Processors
        #[arg(long, default_value_t = 2)]
        processors: u32,
        /// Seconds until the command is given up
        #[arg(long, default_value_t = 600)]
        timeout: u64,
        /// The command, run as root in the workspace's root
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Vm { memory, processors, timeout, command } => {
            let timeout = Duration::from_secs(timeout);
            let job = vm::Job { command: &command, environment: &[], memory_mib: memory, processors, timeout };
            return vm::run(&job).map(ExitCode::from);
        }
        Command::Demo { down: true } => demo::down(),
        Command::Demo { down: false } => demo::up(),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Clients { filter } => test::clients(filter.as_deref()),
        Command::Clusters { filter } => test::clusters(filter.as_deref()),
        Command::StockKernel { filter } => test::on_stock_kernel(filter.as_deref()),
        Command::Lint => lint::run(),
        Command::Verify => lint::run().and_then(|()| test::run(None)),
        Command::Fix => lint::fix(),
        Command::Sim { seeds } => test::simulation(seeds),
        Command::Nightly => nightly::run(),
        Command::Turmoil { words } => test::turmoil(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz { target, seconds } => fuzz::run_all(target.as_deref(), seconds),
        Command::Lab { command } => lab::run(&command),
        Command::Setup { images } => setup::packages().and_then(|()| if images { test::images() } else { Ok(()) }),
    }?;
    Ok(ExitCode::SUCCESS)
}
