//! Stock clients against a running daemon. Each trial has a host of its own and runs
//! once per client: Debian's docker, a newer docker where there is one, and skep.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is its assertion")]

mod bad_input;
mod builds;
mod compose;
mod corners;
mod course;
mod crash;
mod doctor;
mod engine;
mod escapes;
mod images;
mod locked;
mod network;
mod orchestration;
mod other;
mod pulls;
mod stack;
mod swarm;
mod tasks;
mod verbs;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use skep_conformance::{Client, Host, with_second_try};

/// A scenario: a name and what to do on a fresh host.
pub(crate) type Scenario = (&'static str, fn(&mut Host) -> Result<()>);

fn main() {
    let mut arguments = Arguments::from_args();
    // Each trial runs a daemon and containers; more at once than cores only adds noise.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut trials = Vec::new();
    for client in Client::all() {
        let every_client = [
            engine::SCENARIOS,
            images::SCENARIOS,
            network::SCENARIOS,
            swarm::SCENARIOS,
            orchestration::SCENARIOS,
            tasks::SCENARIOS,
            stack::SCENARIOS,
            verbs::SCENARIOS,
            bad_input::SCENARIOS,
            builds::SCENARIOS,
            locked::SCENARIOS,
            course::SCENARIOS,
            corners::SCENARIOS,
        ];
        for (name, run) in every_client.concat() {
            trials.push(trial(&client, name, run));
        }
    }
    for (name, run) in
        [crash::SCENARIOS, other::SCENARIOS, builds::BUILDKIT, escapes::SCENARIOS, pulls::SCENARIOS].concat()
    {
        trials.push(trial(&Client::debian_docker(), name, run));
    }
    let own = [compose::SCENARIOS, doctor::OWN, stack::OWN, locked::SKEP_SCENARIOS, orchestration::OWN, builds::OWN];
    for (name, run) in own.concat() {
        trials.push(trial(&Client::skep(), name, run));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(client: &Client, name: &str, run: fn(&mut Host) -> Result<()>) -> Trial {
    let client = client.clone();
    let name = format!("{}::{name}", client.label);
    Trial::test(name.clone(), move || {
        let attempt = || {
            let mut host = Host::start(&client).map_err(|error| format!("{error:#}"))?;
            run(&mut host).map_err(|error| format!("{error:#}\n\nthe daemon's log:\n{}", host.log()))
        };
        with_second_try(&name, attempt).map_err(Failed::from)
    })
}
