//! Changing what runs under load: the daemons themselves, and the replicas of a service.

use crate::load::Load;
use crate::swarm::{all_ready, create, formed, ids_beside, nodes, settled, tasks};
use crate::{Scenario, rounds, say};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Cli, Lab, Node, Options, client, wait};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "daemons_are_upgraded_under_their_tasks",
        options: || Options::for_test(5),
        run: daemons_are_upgraded_under_their_tasks,
        every_client: false,
    },
    Scenario {
        name: "rolling_updates_fail_no_request",
        options: || Options::for_test(1),
        run: rolling_updates_fail_no_request,
        every_client: false,
    },
];

/// Watches for a node that is declared down, at whichever manager answers.
fn watch_nodes(managers: &[Cli], stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for manager in managers {
            // One that is being restarted, or has no leader for the moment, says nothing.
            let Ok(list) = manager.get("/nodes") else { continue };
            for node in list.as_array().context("a list of nodes")? {
                let (host, state) = (&node["Description"]["Hostname"], &node["Status"]["State"]);
                ensure!(state != "down", "{host} was declared down");
            }
        }
        std::thread::sleep(wait::POLL);
    }
    Ok(())
}

fn daemons_are_upgraded_under_their_tasks(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let manager = lab.node(1);
    create(manager, "web", &["--replicas", "10", "busybox", "sleep", "100000"])?;
    let before = settled(manager, "web", 10)?;
    let containers =
        || -> Result<Vec<String>> { lab.nodes().iter().map(|node| node.ok(&["ps", "-q", "--no-trunc"])).collect() };
    let held = containers()?;

    // Another file, as an upgrade puts there: the network daemon must be replaced too.
    let newer = lab.node(1).scratch().join("skep");
    std::fs::copy(client::environment("SKEP_TEST_SKEP"), &newer)?;
    let managers: Vec<Cli> = (1..=3).map(|number| (**lab.node(number)).clone()).collect();
    let stop = AtomicBool::new(false);
    let watched = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_nodes(&managers, &stop));
        let upgraded = lab.nodes().iter().try_for_each(|node| -> Result<()> {
            node.set_program(&newer);
            node.stop_daemon()?;
            node.start_daemon()?;
            all_ready(lab, 3)
        });
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap().and(upgraded)
    });
    watched?;
    let after = settled(manager, "web", 10)?;
    ensure!(ids_beside(&before, "") == ids_beside(&after, ""), "tasks were replaced: {before:?} {after:?}");
    ensure!(tasks(manager, "web")?.len() == 10, "a task has a history: {:?}", tasks(manager, "web")?);
    ensure!(containers()? == held, "containers were replaced");
    for node in lab.nodes() {
        let pid = node.role_pids("netd")?.first().copied().context("no netd")?;
        let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
        ensure!(program == newer, "{} runs a network daemon of {}", node.name(), program.display());
    }
    manager.ok(&["service", "scale", "--detach", "web=12"])?;
    settled(manager, "web", 12)?;
    ensure!(nodes(manager)?.len() == 5);
    Ok(())
}

/// Requests of each update at least.
const REQUESTS: u64 = 3_500;
const REPLICAS: usize = 20;

/// Waits for the end of an update; gives its state.
fn updated(node: &Node) -> Result<String> {
    wait::within(Duration::from_secs(120), "the update to end", || {
        let state = node.ok(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"])?;
        ensure!(matches!(state.as_str(), "completed" | "paused" | "rollback_completed" | "rollback_paused"), "{state}");
        Ok(state)
    })
}

/// Images that must never see a request: one whose program is not there, one that is never healthy.
const BROKEN: [(&str, &str); 2] = [
    ("nothing-to-run", "FROM busybox\nCMD [\"/nosuch\"]\n"),
    (
        "never-healthy",
        "FROM busybox\nHEALTHCHECK --interval=100ms --timeout=1s --retries=2 CMD false\n\
         CMD [\"sleep\", \"100000\"]\n",
    ),
];

fn rolling_updates_fail_no_request(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let node = lab.node(1);
    node.build_whoami()?;
    for (name, dockerfile) in BROKEN {
        let context = node.scratch().join(name);
        std::fs::create_dir_all(&context)?;
        std::fs::write(context.join("Dockerfile"), dockerfile)?;
        node.ok(&["build", "-t", name, &context.to_string_lossy()])?;
    }
    let replicas = REPLICAS.to_string();
    let args = ["--replicas", &replicas, "-p", "8080:80", "--update-parallelism", "4", "--update-monitor", "200ms"];
    let more = ["--update-failure-action", "rollback", "--restart-delay", "100ms", "whoami"];
    create(node, "web", &[args.as_slice(), &more].concat())?;
    settled(node, "web", REPLICAS)?;
    for order in ["stop-first", "start-first"] {
        let name = format!("WHOAMI_NAME={order}");
        under_load(lab, order, &["--env-add", &name], "completed")?;
        for (image, _) in BROKEN {
            under_load(lab, order, &["--image", image], "rollback_completed")?;
        }
    }
    Ok(())
}

/// Updates while requests come in without a pause; none may fail.
fn under_load(lab: &Lab, order: &str, change: &[&str], end: &str) -> Result<()> {
    let node = lab.node(1);
    let what = format!("{order} {}", change.join(" "));
    let load = Load::start(lab, &node.address(), 8080)?;
    let head =
        ["service", "update", "--detach", "--no-resolve-image", "--update-order", order, "--rollback-order", order];
    node.ok(&[head.as_slice(), change, &["web"]].concat())?;
    let state = updated(node)?;
    ensure!(state == end, "{what}: {state}");
    settled(node, "web", REPLICAS)?;
    let image = node.ok(&["service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web"])?;
    ensure!(image.starts_with("whoami"), "{what}: {image}");
    let done = load.finish(rounds(1) as u64 * REQUESTS).with_context(|| what.clone())?;
    say(&format!("{what}: 0 of {done} requests failed"));
    Ok(())
}
