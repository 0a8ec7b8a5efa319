//! Many services at once: each is reached by its virtual address and by its port from
//! everywhere, and every machine's kernel holds exactly what the store says.

use crate::network_truth::{Store, agrees};
use crate::swarm::{create_patiently, formed, on_all};
use crate::{Scenario, say};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Lab, Options, wait};
use skep_lab::OUTSIDE_ADDRESS;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "twenty_services_of_ten_tasks",
    options: || Options::for_test(5),
    run: twenty_services_of_ten_tasks,
    every_client: false,
}];

const SERVICES: usize = 20;
const REPLICAS: usize = 10;
/// Within so many every task has answered.
const REQUESTS_MAX: usize = 2 * REPLICAS;
/// Services are spread over so many networks.
const NETWORKS: usize = 4;
const FIRST_PORT: usize = 8001;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Two hundred containers on two processors.
const START_TIMEOUT: Duration = Duration::from_secs(150);

fn twenty_services_of_ten_tasks(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    let begin = Instant::now();
    let networks: Vec<String> = (1..=NETWORKS).map(|number| format!("net{number}")).collect();
    for network in &networks {
        manager.ok(&["network", "create", "-d", "overlay", network])?;
    }
    let mut client = vec!["--mode", "global"];
    client.extend(networks.iter().flat_map(|network| ["--network", network]));
    client.extend(["busybox", "sleep", "100000"]);
    create_patiently(manager, "client", &client)?;
    for number in 0..SERVICES {
        let port = format!("{}:80", FIRST_PORT + number);
        let args =
            ["--network", &networks[number % NETWORKS], "-p", &port, "--replicas", &REPLICAS.to_string(), "whoami"];
        create_patiently(manager, &format!("web{number}"), &args)?;
    }
    let wanted = SERVICES * REPLICAS + lab.nodes().len();
    wait::within(START_TIMEOUT, "all tasks to run", || {
        let tasks = manager.get("/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D")?;
        let running = tasks
            .as_array()
            .map_or(0, |tasks| tasks.iter().filter(|task| task["Status"]["State"] == "running").count());
        ensure!(running == wanted, "{running} of {wanted}");
        Ok(())
    })?;
    let started = begin.elapsed();
    let store = agrees(lab, "client")?;
    let agreed = begin.elapsed();
    ensure!(store.services.len() == SERVICES + 1, "{}", store.services.len());
    every_port_through_every_node(lab)?;
    say(&format!(
        "{wanted} tasks ran after {started:?}, all agreed after {agreed:?}, all ports after {:?}",
        begin.elapsed()
    ));
    gone_without_a_trace(lab, &store)
}

/// A client outside reaches every task of every service by every machine, as itself.
fn every_port_through_every_node(lab: &Lab) -> Result<()> {
    let addresses: Vec<String> = lab.nodes().iter().map(|node| node.address()).collect();
    let thread = lab.thread_outside(move || {
        for address in &addresses {
            for port in FIRST_PORT..FIRST_PORT + SERVICES {
                let target: SocketAddr = format!("{address}:{port}").parse()?;
                let mut hosts = BTreeSet::new();
                // They take turns, but a repeated packet may take one twice.
                for _ in 0..REQUESTS_MAX {
                    if hosts.len() == REPLICAS {
                        break;
                    }
                    let page = page(target).with_context(|| target.to_string())?;
                    let client = line(&page, "RemoteAddr: ")?;
                    ensure!(client.starts_with(&format!("{OUTSIDE_ADDRESS}:")), "{target}: the client became {client}");
                    hosts.insert(line(&page, "Hostname: ")?);
                }
                ensure!(hosts.len() == REPLICAS, "{target}: only {hosts:?} answer");
            }
        }
        Ok(())
    })?;
    thread.join().unwrap()
}

fn line(page: &str, prefix: &str) -> Result<String> {
    let found = page.lines().find_map(|line| line.strip_prefix(prefix));
    Ok(found.with_context(|| page.to_owned())?.to_owned())
}

fn page(target: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn gone_without_a_trace(lab: &Lab, store: &Store) -> Result<()> {
    let manager = lab.node(1);
    let names: Vec<&str> = store.services.iter().map(|service| service.name.as_str()).collect();
    manager.ok(&[&["service", "rm"], names.as_slice()].concat())?;
    wait::until("the networks to be free", || {
        for network in store.networks.values() {
            let left = manager.ok(&["network", "ls", "-q", "--filter", &format!("name={}", network.name)])?;
            if !left.is_empty() {
                manager.ok(&["network", "rm", &network.name])?;
            }
        }
        Ok(())
    })?;
    wait::until("nothing of the networks to be left", || {
        for node in lab.nodes() {
            let names = node.inside_ok(&["ls", "/run/skep/netd/netns", "/run/skep/netd/overlays"])?;
            ensure!(!names.contains("lb_") && store.networks.keys().all(|id| !names.contains(id)), "{names}");
            let links = node.inside_ok(&["ip", "-o", "link"])?;
            ensure!(!links.contains("veth"), "{}: {links}", node.name());
            let rules = node.inside_ok(&["nft", "list", "table", "inet", "skep"])?;
            ensure!(!rules.contains("ingress_tcp_"), "{}: {rules}", node.name());
        }
        Ok(())
    })
}
