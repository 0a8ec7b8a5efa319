//! Several machines: each trial has a lab of its own. What costs most starts first.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is its assertion")]

mod course;
mod dual_stack;
mod failover;
mod lab;
mod load;
mod members;
mod network;
mod network_faults;
mod network_input;
mod network_scale;
mod network_truth;
mod power;
mod reach;
mod roles;
mod storm;
mod swarm;
mod upgrade;
mod writer;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use skep_conformance::{Client, Lab, Options, with_second_try};

/// A scenario: a name, the machines it wants, and what to do on them.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) options: fn() -> Options,
    pub(crate) run: fn(&mut Lab) -> Result<()>,
    /// Also with our own command line.
    pub(crate) every_client: bool,
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each trial runs several daemons; more at once than cores only adds noise.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut trials = Vec::new();
    for scenario in [
        course::SCENARIOS,
        network_scale::SCENARIOS,
        storm::SCENARIOS,
        upgrade::SCENARIOS,
        failover::SCENARIOS,
        power::SCENARIOS,
        roles::SCENARIOS,
        members::SCENARIOS,
        reach::SCENARIOS,
        lab::SCENARIOS,
        network::SCENARIOS,
        dual_stack::SCENARIOS,
        network_faults::SCENARIOS,
        network_input::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    {
        trials.push(trial(&Client::debian_docker(), scenario));
        if scenario.every_client {
            trials.push(trial(&Client::skep(), scenario));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(client: &Client, scenario: &'static Scenario) -> Trial {
    let client = client.clone();
    let name = format!("{}::{}", client.label, scenario.name);
    Trial::test(name.clone(), move || {
        let attempt = || {
            let mut lab = Lab::up(&(scenario.options)().client(&client)).map_err(|error| format!("{error:#}"))?;
            (scenario.run)(&mut lab).map_err(|error| format!("{error:#}\n\nthe daemons' logs:\n{}", lab.logs()))
        };
        with_second_try(&name, attempt).map_err(Failed::from)
    })
}

/// How often a scenario repeats its fault: as often as `SKEP_TEST_ROUNDS` says, for a long
/// run at night, or `normal` times.
pub(crate) fn rounds(normal: usize) -> usize {
    std::env::var("SKEP_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(normal)
}

/// A measured figure, for whoever reads the run.
#[expect(clippy::print_stderr, reason = "figures are part of what a run says")]
pub(crate) fn say(text: &str) {
    eprintln!("    {text}");
}
