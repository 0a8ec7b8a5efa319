//! The network across machines: published ports, virtual addresses, and what stays when
//! services change and go.

use crate::load::Load;
use crate::network_truth::verified;
use crate::swarm::{create, formed, on_all, settled};
use crate::{Scenario, rounds, say};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Lab, Node, Options, wait};
use skep_lab::OUTSIDE_ADDRESS;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "updates_fail_no_request_through_another_node",
        options: || Options::for_test(3),
        run: updates_fail_no_request_through_another_node,
        every_client: false,
    },
    Scenario {
        name: "every_node_answers_for_every_task",
        options: || Options::for_test(3),
        run: every_node_answers_for_every_task,
        every_client: false,
    },
];

const REQUESTS: u64 = 2000;

/// The value of a line `name: value` of whoami's page.
pub(crate) fn line<'a>(page: &'a str, name: &str) -> Result<&'a str> {
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.with_context(|| format!("no {name} in {page:?}"))
}

fn by_host(pages: &[String]) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for page in pages {
        *counts.entry(line(page, "Hostname")?.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

fn every_node_answers_for_every_task(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    manager.ok(&["network", "create", "-d", "overlay", "back"])?;
    // Two tasks on the second machine, one on the third, none on the first.
    let two = ["--network", "back", "-p", "8080:80", "--replicas", "3", "--constraint", "node.role==worker", "whoami"];
    create(manager, "web", &two)?;
    let tasks = settled(manager, "web", 3)?;
    ensure!(tasks.iter().map(|task| &task.node).collect::<BTreeSet<_>>().len() == 2, "{tasks:?}");
    for node in lab.nodes() {
        let url = format!("http://{}:8080/", node.address());
        wait::until(&format!("three tasks behind {}", node.name()), || {
            let pages = (0..12)
                .map(|_| lab.outside_ok(&["curl", "-sS", "--max-time", "5", &url]))
                .collect::<Result<Vec<_>>>()?;
            let counts = by_host(&pages)?;
            ensure!(counts.len() == 3 && counts.values().all(|count| *count == 4), "{counts:?}");
            for page in &pages {
                let client = line(page, "RemoteAddr")?;
                ensure!(client.starts_with(&format!("{OUTSIDE_ADDRESS}:")), "the client became {client}");
            }
            Ok(())
        })?;
        let local = node.curl("http://127.0.0.1:8080/")?;
        ensure!(local.contains("Hostname"), "{local}");
    }
    verified(lab)?;
    inspected(lab.by_name(&tasks[0].node)?)?;
    manager.ok(&["service", "rm", "web"])?;
    wait::until("the network to be free", || manager.ok(&["network", "rm", "back"]))?;
    wait::until("nothing of the network to be left", || {
        for node in lab.nodes() {
            let names = node.inside_ok(&["ls", "/run/skep/netd/netns"])?;
            ensure!(!names.contains("lb_"), "{} has {names}", node.name());
        }
        Ok(())
    })?;
    verified(lab)
}

/// What a machine says of a network it takes part in, and how its namespace is entered.
fn inspected(node: &Node) -> Result<()> {
    let leg = node.ok(&["network", "inspect", "--format", "{{json (index .Containers \"lb-back\")}}", "back"])?;
    ensure!(leg.contains("\"Name\":\"back-endpoint\"") && leg.contains("\"IPv4Address\":\"10.0.1."), "{leg}");
    let peers = node.ok(&["network", "inspect", "--format", "{{len .Peers}}", "back"])?;
    ensure!(peers == "2", "{peers} peers");
    let names = node.inside_ok(&["ls", "/run/skep/netd/netns"])?;
    let balancer = names.lines().find(|name| name.starts_with("lb_")).with_context(|| names.clone())?;
    ensure!(names.lines().any(|name| name == "ingress_sbox"), "{names}");
    let path = format!("--net=/run/skep/netd/netns/{balancer}");
    let inside = node.inside_ok(&["nsenter", &path, "ip", "address", "show", "br0"])?;
    ensure!(inside.contains("10.0.1."), "{inside}");
    Ok(())
}

fn updates_fail_no_request_through_another_node(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    let workers = ["-p", "8080:80", "--replicas", "4", "--constraint", "node.role==worker", "whoami"];
    create(manager, "web", &workers)?;
    settled(manager, "web", 4)?;
    for number in [1, 3] {
        // Other machines hear of a task a moment after it runs.
        let url = format!("http://{}:8080/", lab.node(number).address());
        wait::until(&format!("an answer by {url}"), || lab.outside_ok(&["curl", "-sS", "--max-time", "5", &url]))?;
    }
    for order in ["stop-first", "start-first"] {
        // By a machine without a task, and by one with.
        let loads = [Load::start(lab, &lab.node(1).address(), 8080)?, Load::start(lab, &lab.node(3).address(), 8080)?];
        let variable = format!("WHOAMI_NAME={order}");
        let args = ["service", "update", "--detach", "--no-resolve-image", "--update-order", order, "--env-add"];
        manager.ok(&[args.as_slice(), &[&variable, "web"]].concat())?;
        wait::within(Duration::from_secs(120), "the update to end", || {
            let state = manager.ok(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"])?;
            ensure!(state == "completed", "{state}");
            Ok(())
        })?;
        settled(manager, "web", 4)?;
        let mut done = 0;
        for load in loads {
            done += load.finish(rounds(1) as u64 * REQUESTS).with_context(|| format!("a {order} update"))?;
        }
        say(&format!("{order}: 0 of {done} requests through other nodes failed"));
    }
    verified(lab)
}
