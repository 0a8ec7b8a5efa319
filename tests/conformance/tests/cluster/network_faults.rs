//! What one container, one cable or the managers do must not be noticed by others.

use crate::network_truth::{Store, agrees, mac_of, task_path, verified};
use crate::swarm::{all_ready, create, formed, on_all, settled};
use crate::{Scenario, say};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_conformance::{Lab, Node, Options, wait};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_hostile_container_hurts_nobody_else",
        options: || Options::for_test(2),
        run: a_hostile_container_hurts_nobody_else,
        every_client: false,
    },
    Scenario {
        name: "a_cut_link_and_dead_managers_hurt_nobody_else",
        options: || Options::for_test(5),
        run: a_cut_link_and_dead_managers_hurt_nobody_else,
        every_client: false,
    },
];

/// After a link is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(2);
const REQUESTS: usize = 30;
/// A task that shares its machine with a flood waits no longer for anything.
const UNNOTICED: &str = "2";

/// Output of a line in the namespace of a service's only task on a machine, with the machine's programs.
fn in_task(node: &Node, service: &str, line: &str) -> Result<String> {
    node.inside_ok(&["nsenter", &format!("--net={}", task_path(node, service)?), "bash", "-c", line])
}

/// Counters of one machine's netd.
fn counters(node: &Node) -> Result<Value> {
    Ok(node.get("/skep/networks/verify")?["Counters"].clone())
}

/// The address of a service's task on a machine, on the only network.
fn address_on(store: &Store, service: &str, host: &str) -> Result<String> {
    let service = store.services.iter().find(|known| known.name == service).context("no such service")?;
    let task = store.tasks.iter().find(|task| task.service == service.id && task.host == host).context("no task")?;
    task.addresses.values().next().cloned().context("no address")
}

fn a_hostile_container_hurts_nobody_else(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    manager.ok(&["network", "create", "-d", "overlay", "back"])?;
    let sleep = ["--mode", "global", "--network", "back", "busybox", "sleep", "100000"];
    create(manager, "client", &sleep)?;
    create(manager, "hostile", &[&["--cap-add", "NET_ADMIN"], sleep.as_slice()].concat())?;
    create(manager, "web", &["--mode", "global", "--network", "back", "-p", "8080:80", "whoami"])?;
    for service in ["client", "hostile", "web"] {
        settled(manager, service, 2)?;
    }
    let store = agrees(lab, "client")?;
    forges_addresses(lab, &store)?;
    sends_garbage(lab.node(2))?;
    floods(lab, &store)?;
    agrees(lab, "client").map(drop)
}

/// Poses as the tasks beside it, by address and by station.
fn forges_addresses(lab: &Lab, store: &Store) -> Result<()> {
    let node = lab.node(2);
    let victims =
        [address_on(store, "web", "h2")?, address_on(store, "web", "h1")?, address_on(store, "client", "h2")?];
    let other = address_on(store, "client", "h1")?;
    let container = node.ok(&["ps", "-q", "--filter", "name=hostile."])?;
    let before = forged(node)?;
    for victim in &victims {
        let station = mac_of(victim);
        let script = format!(
            "old=$(cat /sys/class/net/eth0/address); ip address add {victim}/24 dev eth0; \
             arping -U -c 3 -I eth0 -s {victim} {victim}; ping -c 3 -W 1 -I {victim} {other}; \
             ip link set eth0 address {station}; ping -c 3 -W 1 -I {victim} {other}; \
             ip link set eth0 address $old; ip address delete {victim}/24 dev eth0; true"
        );
        node.ok(&["exec", &container, "sh", "-c", &script])?;
    }
    let after = forged(node)?;
    ensure!(after >= before + 9, "{before} forged frames became {after}");
    ensure!(forged(lab.node(1))? == 0, "frames of the other machine passed the tunnel");
    // Nobody sends what is meant for the victims elsewhere.
    for node in lab.nodes() {
        for victim in &victims {
            let line = format!("busybox ping -c 2 -W 1 -q {victim} > /dev/null && ip neighbour show {victim} dev eth0");
            let seen = in_task(node, "client", &line).with_context(|| format!("{} to {victim}", node.name()));
            let is_itself = address_on(store, "client", node.name())? == *victim;
            ensure!(is_itself || seen?.contains(&mac_of(victim)), "{victim} was taken away");
        }
    }
    Ok(())
}

fn forged(node: &Node) -> Result<u64> {
    let counters = counters(node)?;
    Ok(counters["ForgedFrames"].as_object().into_iter().flatten().filter_map(|(_, frames)| frames.as_u64()).sum())
}

/// Bytes that are no question, to the resolver.
fn sends_garbage(node: &Node) -> Result<()> {
    let before = counters(node)?;
    in_task(
        node,
        "hostile",
        "for i in $(seq 200); do head -c $((i * 5)) /dev/urandom > /dev/udp/127.0.0.11/53; done; \
         for i in $(seq 20); do head -c 3000 /dev/urandom > /dev/tcp/127.0.0.11/53; done 2> /dev/null; true",
    )?;
    answers(node, "client")?;
    let after = counters(node)?;
    let more = |field: &str| after[field].as_u64().unwrap_or(0) - before[field].as_u64().unwrap_or(0);
    ensure!(more("DNSQueries") > 100 && more("DNSMalformed") > 50, "{before} became {after}");
    Ok(())
}

/// A task is told names and reaches its service, each time and at once.
fn answers(node: &Node, service: &str) -> Result<()> {
    let line = format!(
        "for i in $(seq {REQUESTS}); do timeout {UNNOTICED} busybox nslookup -type=a web.back 127.0.0.11 > /dev/null \
         || echo no name; curl -sSf --max-time {UNNOTICED} -o /dev/null \
         http://$(busybox nslookup -type=a web.back 127.0.0.11 | tail -2 | grep -o '10[.].*') || echo no answer; done 2>&1"
    );
    let said = in_task(node, service, &line)?;
    ensure!(said.is_empty(), "{service} on {} noticed: {said}", node.name());
    Ok(())
}

/// As fast as it can: the resolver, a virtual address, and everybody on its bridge.
fn floods(lab: &Lab, store: &Store) -> Result<()> {
    let node = lab.node(2);
    let web = store.services.iter().find(|service| service.name == "web").context("no web")?;
    let vip = web.vips.iter().find(|(network, _)| store.networks.contains_key(*network)).context("no address")?.1;
    let neighbour = address_on(store, "client", "h2")?;
    let before = counters(node)?;
    let path = format!("--net={}", task_path(node, "hostile")?);
    for target in ["127.0.0.11/53", &format!("{vip}/80"), &format!("{neighbour}/9")] {
        // A refusal ends one `dd`, not the flood.
        let line = format!("while :; do dd if=/dev/urandom bs=48 2> /dev/null > /dev/udp/{target}; done");
        let _flood = Flood(node.spawn_inside(&["nsenter", &path, "timeout", "60", "bash", "-c", &line])?);
        let outcome = lab.nodes().iter().try_for_each(|node| answers(node, "client"));
        outcome.with_context(|| format!("while {target} is flooded"))?;
    }
    let after = counters(node)?;
    let more = |field: &str| after[field].as_u64().unwrap_or(0) - before[field].as_u64().unwrap_or(0);
    ensure!(more("DNSQueries") > 5000 && more("DNSDropped") > 0, "{before} became {after}");
    verified(lab)
}

/// A `timeout` with what it started, all of which it ends when it is told to.
struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = Command::new("kill").arg(self.0.id().to_string()).output();
        let _ = self.0.wait();
    }
}

fn a_cut_link_and_dead_managers_hurt_nobody_else(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    manager.ok(&["network", "create", "-d", "overlay", "back"])?;
    create(manager, "client", &["--mode", "global", "--network", "back", "busybox", "sleep", "100000"])?;
    create(manager, "web", &["--mode", "global", "--network", "back", "-p", "8080:80", "whoami"])?;
    settled(manager, "client", 5)?;
    settled(manager, "web", 5)?;
    let store = agrees(lab, "client")?;
    cut_link(lab, &store)?;
    dead_managers(lab)?;
    agrees(lab, "client").map(drop)
}

/// Whether the task on one machine gets an answer of the web task on another.
fn reaches(lab: &Lab, store: &Store, from: usize, to: usize) -> Result<()> {
    let target = address_on(store, "web", lab.node(to).name())?;
    let line = format!("curl -sSf --max-time 1 -o /dev/null http://{target}/");
    in_task(lab.node(from), "client", &line).map(drop).with_context(|| format!("{from} to {to}"))
}

fn cut_link(lab: &Lab, store: &Store) -> Result<()> {
    let pairs = || (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to)));
    let is_cut = |from: usize, to: usize| [(4, 5), (5, 4)].contains(&(from, to));
    lab.part(&[4], &[5])?;
    ensure!(reaches(lab, store, 4, 5).is_err(), "the link is not cut");
    for (from, to) in pairs().filter(|(from, to)| !is_cut(*from, *to)) {
        reaches(lab, store, from, to).context("while 4 and 5 are apart")?;
    }
    lab.heal()?;
    let healed = Instant::now();
    wait::within(HEALED_WITHIN, "the link to work again", || reaches(lab, store, 4, 5))?;
    say(&format!("answered {:?} after the link was healed", healed.elapsed()));
    pairs().try_for_each(|(from, to)| reaches(lab, store, from, to))
}

/// Names, virtual addresses and published ports of every machine, without a manager.
fn dead_managers(lab: &Lab) -> Result<()> {
    for number in 1..=3 {
        lab.node(number).kill_daemon()?;
    }
    let outcome = on_workers(lab);
    for number in 1..=3 {
        lab.node(number).start_daemon()?;
    }
    outcome?;
    all_ready(lab, 3)
}

fn on_workers(lab: &Lab) -> Result<()> {
    for number in [4, 5] {
        answers(lab.node(number), "client").context("without managers")?;
    }
    for node in lab.nodes() {
        for _ in 0..5 {
            let url = format!("http://{}:8080/", node.address());
            lab.outside_ok(&["curl", "-sSf", "--max-time", "2", "-o", "/dev/null", &url])
                .context("without managers")?;
        }
    }
    Ok(())
}
