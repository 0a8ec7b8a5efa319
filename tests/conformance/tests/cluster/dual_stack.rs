//! IPv6 beside IPv4: networks of the swarm, names, virtual addresses and published ports.

use crate::Scenario;
use crate::network::line;
use crate::network_truth::verified;
use crate::swarm::{create, formed, on_all, settled};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_conformance::{Lab, Node, Options, wait};
use skep_lab::OUTSIDE_ADDRESS_IPV6;
use std::collections::BTreeSet;

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { name: "dual_stack", options: || Options::for_test(3), run: dual_stack, every_client: false }];

fn dual_stack(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    let subnets = ["--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"];
    manager.ok(&[["network", "create", "-d", "overlay"].as_slice(), &subnets, &["back"]].concat())?;
    // Two tasks on the second machine, one on the third, none on the first.
    let web = ["--network", "back", "-p", "8080:80", "--replicas", "3", "--constraint", "node.role==worker", "whoami"];
    create(manager, "web", &web)?;
    let client = ["--network", "back", "--mode", "global", "busybox", "sleep", "100000"];
    create(manager, "client", &client)?;
    settled(manager, "web", 3)?;
    settled(manager, "client", 3)?;
    let vip = virtual_address(manager, "web")?;
    for node in lab.nodes() {
        names_and_virtual_address(node, &vip)?;
    }
    for node in lab.nodes() {
        published(lab, node)?;
    }
    own_loopback(lab.node(2))?;
    verified(lab)?;
    manager.ok(&["service", "rm", "web", "client"])?;
    wait::until("the network to be free", || manager.ok(&["network", "rm", "back"]))?;
    verified(lab)?;
    chosen_by_the_swarm(manager)
}

fn virtual_address(manager: &Node, service: &str) -> Result<String> {
    let text = manager.ok(&["service", "inspect", "--format", "{{json .Endpoint.VirtualIPs}}", service])?;
    let vips: Vec<Value> = serde_json::from_str(&text)?;
    let mut addresses = vips.iter().filter_map(|vip| vip["Addr"].as_str()).filter_map(|vip| vip.strip_suffix("/64"));
    addresses.find(|vip| vip.starts_with("fd77::")).map(str::to_owned).with_context(|| text.clone())
}

/// As a task on the node sees them.
fn names_and_virtual_address(node: &Node, vip: &str) -> Result<()> {
    let found = wait::until("the client to be here", || {
        let found = node.ok(&["ps", "-q", "--filter", "name=client"])?;
        ensure!(!found.is_empty(), "none");
        Ok(found)
    })?;
    let ask = |name: &str| {
        let answer = node.ok(&["exec", &found, "nslookup", "-type=aaaa", name])?;
        let addresses = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
        Ok::<_, anyhow::Error>(addresses.map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>())
    };
    wait::until("the tasks' names", || {
        let (service, tasks) = (ask("web")?, ask("tasks.web")?);
        ensure!(service == BTreeSet::from([vip.to_owned()]), "{service:?} instead of {vip}");
        ensure!(tasks.len() == 3 && tasks.iter().all(|task| task.starts_with("fd77::")), "{tasks:?}");
        Ok(())
    })?;
    let reverse = node.ok(&["exec", &found, "nslookup", vip])?;
    ensure!(reverse.contains("web.back"), "{reverse}");
    node.ok(&["exec", &found, "ping", "-6", "-c", "1", "-W", "5", vip])?;
    let url = format!("http://[{vip}]/");
    // busybox's own client does not take such an address.
    let pid = node.ok(&["inspect", "--format", "{{.State.Pid}}", &found])?;
    let inside = format!("--net=/proc/{pid}/ns/net");
    wait::until(&format!("all tasks behind {vip} from {}", node.name()), || {
        let pages = (0..6).map(|_| node.inside_ok(&["nsenter", &inside, "curl", "-sS", "--max-time", "5", &url]));
        let hosts = pages.map(|page| Ok(line(&page?, "Hostname")?.to_owned())).collect::<Result<BTreeSet<_>>>()?;
        ensure!(hosts.len() == 3, "{hosts:?}");
        Ok(())
    })?;
    let leg = node.ok(&["inspect", "--format", "{{json (index .NetworkSettings.Networks \"back\")}}", &found])?;
    let leg: Value = serde_json::from_str(&leg)?;
    let address = leg["GlobalIPv6Address"].as_str().unwrap_or_default();
    ensure!(address.starts_with("fd77::") && leg["GlobalIPv6PrefixLen"] == 64, "{leg}");
    let shown = node.ok(&["exec", &found, "ip", "-6", "address", "show", "eth0"])?;
    let own = shown.lines().find(|line| line.contains(&format!("{address}/64")));
    ensure!(own.is_some_and(|line| !line.contains("tentative")), "{shown}");
    Ok(())
}

/// By the node's addresses, from outside and from itself.
fn published(lab: &Lab, node: &Node) -> Result<()> {
    let url = format!("http://[{}]:8080/", node.address_ipv6());
    wait::until(&format!("three tasks behind {url}"), || {
        let pages = (0..12).map(|_| lab.outside_ok(&["curl", "-sS", "--max-time", "5", &url]));
        let pages = pages.collect::<Result<Vec<_>>>()?;
        let hosts = pages.iter().map(|page| line(page, "Hostname")).collect::<Result<BTreeSet<_>>>()?;
        ensure!(hosts.len() == 3, "{hosts:?}");
        for page in &pages {
            let client = line(page, "RemoteAddr")?;
            ensure!(client.starts_with(&format!("[{OUTSIDE_ADDRESS_IPV6}]:")), "the client became {client}");
        }
        Ok(())
    })?;
    // The node itself, by each of its addresses, and by those of the others.
    let others = lab.nodes().iter().map(|other| format!("http://[{}]:8080/", other.address_ipv6()));
    for url in others.chain(["http://localhost:8080/".to_owned()]) {
        for _ in 0..6 {
            let page = node.curl(&url).with_context(|| format!("{} asks {url}", node.name()))?;
            ensure!(page.contains("Hostname"), "{page}");
        }
    }
    Ok(())
}

/// Where bridged frames pass the rules for routed ones, nobody waits for an answer that cannot
/// come; elsewhere it comes.
fn own_loopback(node: &Node) -> Result<()> {
    let url = "http://[::1]:8080/";
    let filter = |value: &str| {
        let setting = format!("net.bridge.bridge-nf-call-ip6tables={value}");
        node.inside_ok(&["sysctl", "-q", "-w", &setting])
    };
    let refused = |error: &anyhow::Error| format!("{error:#}").contains("exit status: 7");
    filter("1")?;
    wait::until("a refusal", || {
        let outcome = node.curl(url);
        ensure!(outcome.as_ref().is_err_and(refused), "{outcome:?}");
        Ok(())
    })?;
    filter("0")?;
    wait::until("an answer", || {
        let hosts = (0..6).map(|_| Ok(line(&node.curl(url)?, "Hostname")?.to_owned()));
        let hosts = hosts.collect::<Result<BTreeSet<_>>>()?;
        ensure!(hosts.len() == 3, "{hosts:?}");
        Ok(())
    })?;
    filter("1").map(drop)
}

/// A network without a subnet of its own.
fn chosen_by_the_swarm(manager: &Node) -> Result<()> {
    manager.ok(&["network", "create", "-d", "overlay", "--ipv6", "own"])?;
    wait::until("a subnet", || {
        let shown = manager.ok(&["network", "inspect", "--format", "{{.EnableIPv6}} {{json .IPAM.Config}}", "own"])?;
        ensure!(shown.starts_with("true ") && shown.contains("\"Subnet\":\"fd"), "{shown}");
        Ok(())
    })?;
    let said = manager.refused(&["network", "create", "-d", "overlay", "--subnet", "fd88::/64", "wrong"])?;
    ensure!(said.contains("subnet fd88::/64 needs IPv6 to be enabled"), "{said}");
    Ok(())
}
