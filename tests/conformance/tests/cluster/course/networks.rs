//! 8.4 to 8.6: overlay, routing mesh, virtual address. Where the reference's kernel state looks
//! different by design, what a reader looks for is there under the same name: namespaces to
//! enter, the balancer's addresses, its table of backends.

use super::{Course, MANAGER, THE_INTERNET, WORKER_1, WORKER_2, row};
use crate::network_truth::mac_of;
use crate::swarm::settled;
use anyhow::{Context, Result, ensure};
use skep_conformance::client::environment;
use skep_conformance::{Lab, Node, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The reference has `/var/run/docker/netns`.
const NAMESPACES: &str = "/run/skep/netd/netns";
const TABLE: &str = "nft list table inet skep";

pub(super) fn networks(lab: &mut Lab) -> Result<()> {
    let course = Course::new(lab)?;
    course.form()?;
    course.import("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    course.import("SKEP_TEST_PYTHON_TAR", "python:3.9.5-slim")?;
    let whoami = environment("SKEP_TEST_WHOAMI_CONTEXT");
    course.on_in(MANAGER, &whoami, "docker build -t containous/whoami:latest .")?;
    let net_box = course.folder.join("net-box");
    fs::create_dir_all(&net_box)?;
    fs::write(net_box.join("Dockerfile"), "FROM python:3.9.5-slim\nRUN apt-get update && apt-get install -y curl\n")?;
    course.build("net-box", "xiaopeng163/net-box:latest")?;
    for name in ["busybox:latest", "containous/whoami:latest", "xiaopeng163/net-box:latest"] {
        course.publish(name)?;
    }
    overlay(&course)?;
    ingress(&course)?;
    virtual_address(&course)
}

/// The shell's way to the container of a task on its machine.
fn exec(task: &str) -> String {
    format!("docker container exec $(docker container ls -q --filter name={task})")
}

/// A link as `ip a` shows it, without its neighbours.
fn link<'a>(shown: &'a str, name: &str) -> Result<&'a str> {
    let is_start = |line: &str| line.chars().next().is_some_and(|first| first.is_ascii_digit());
    let is_wanted = |line: &str| line.contains(&format!(": {name}@")) || line.contains(&format!(": {name}:"));
    let mut from = None;
    let mut offset = 0;
    for line in shown.split_inclusive('\n') {
        match from {
            Some(from) if is_start(line) => return Ok(&shown[from..offset]),
            None if is_start(line) && is_wanted(line) => from = Some(offset),
            _ => {}
        }
        offset += line.len();
    }
    from.map(|from| &shown[from..]).with_context(|| format!("no {name} in {shown}"))
}

/// What follows `inet`, with its length.
fn inets(link: &str) -> Vec<&str> {
    let lines = link.lines().filter_map(|line| line.trim().strip_prefix("inet "));
    lines.filter_map(|rest| rest.split(' ').next()).collect()
}

/// 8.4.
fn overlay(course: &Course) -> Result<()> {
    course.on(MANAGER, "docker network create -d overlay mynet")?;
    let constraint = "--constraint node.role==worker";
    course.on(
        MANAGER,
        &format!("docker service create {constraint} --network mynet --name test --replicas 2 busybox ping 8.8.8.8"),
    )?;
    let tasks = settled(course.manager(), "test", 2)?;
    ensure!(tasks[0].node != tasks[1].node, "{tasks:?}");
    let listing = course.on(MANAGER, "docker service ps test")?;
    ensure!(
        row(&listing, "test.1")?[2..6] == ["busybox:latest", &tasks_node(&listing, "test.1")?, "Running", "Running"]
    );
    let mut addresses = Vec::new();
    for worker in [WORKER_1, WORKER_2] {
        let listing = course.on(worker, "docker container ls")?;
        ensure!(listing.contains("\"ping 8.8.8.8\"") && listing.contains("test."), "{listing}");
        let listing = course.on(worker, "docker network ls")?;
        for (name, rest) in [
            ("bridge", ["bridge", "local"]),
            ("docker_gwbridge", ["bridge", "local"]),
            ("host", ["host", "local"]),
            ("ingress", ["overlay", "swarm"]),
            ("mynet", ["overlay", "swarm"]),
            ("none", ["null", "local"]),
        ] {
            ensure!(named(&listing, name)?[2..] == rest, "{name}: {listing}");
        }
        addresses.push(task_links(&course.on(worker, &format!("{} ip a", exec("test.")))?)?);
        let logs = wait::until("an answer of the internet", || {
            let logs = course.on(worker, "docker container logs $(docker container ls -q --filter name=test.)")?;
            ensure!(logs.contains("64 bytes from 8.8.8.8"), "{logs}");
            Ok(logs)
        })?;
        ensure!(logs.starts_with("PING 8.8.8.8"), "{logs}");
    }
    // From a task on one machine to the task on the other; the way out is another one.
    let other = &addresses[1];
    wait::until("a ping between machines", || {
        course.on(WORKER_1, &format!("{} ping -c 1 -W 2 {other}", exec("test.")))
    })?;
    let inside = exec("test.");
    for (target, device) in [(other.as_str(), "dev eth0"), (THE_INTERNET, "via 172.18.0.1 dev eth1")] {
        let way = course.on(WORKER_1, &format!("{inside} ip route get {target}"))?;
        ensure!(way.contains(device), "{way}");
    }
    course.on(MANAGER, "docker service rm test").map(drop)
}

fn tasks_node(listing: &str, task: &str) -> Result<String> {
    Ok(row(listing, task)?[3].to_owned())
}

/// The row whose second column is `name`.
fn named<'a>(listing: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let rows = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter().find(|row| row.get(1) == Some(&name)).with_context(|| format!("no {name} in:\n{listing}"))
}

/// Both legs of a task as the course shows them; gives its address on the overlay.
fn task_links(shown: &str) -> Result<String> {
    let (leg, way_out) = (link(shown, "eth0")?, link(shown, "eth1")?);
    let [address] = inets(leg)[..] else { anyhow::bail!("{leg}") };
    let address = address.strip_suffix("/24").with_context(|| leg.to_owned())?;
    ensure!(address.starts_with("10.0.1.") && leg.contains("mtu 1450") && leg.contains("brd 10.0.1.255"), "{leg}");
    ensure!(leg.contains(&format!("link/ether {}", mac_of(address))), "{leg}");
    let [gateway_leg] = inets(way_out)[..] else { anyhow::bail!("{way_out}") };
    ensure!(gateway_leg.starts_with("172.18.0.") && gateway_leg.ends_with("/16"), "{way_out}");
    ensure!(way_out.contains("mtu 1500") && way_out.contains("link/ether 02:42:ac:12:00:"), "{way_out}");
    Ok(address.to_owned())
}

/// 8.5.
fn ingress(course: &Course) -> Result<()> {
    course.on(MANAGER, "docker service create --name web --network mynet -p 8080:80 --replicas 2 containous/whoami")?;
    let listing = course.on(MANAGER, "docker service ls")?;
    ensure!(row(&listing, "web")?[3..] == ["2/2", "containous/whoami:latest", "*:8080->80/tcp"], "{listing}");
    for node in course.lab.nodes() {
        // Every machine leads to both tasks, whether it runs one or not.
        let mut seen = BTreeSet::new();
        wait::until(&format!("both tasks behind {}", node.name()), || {
            let page = course.on(MANAGER, &format!("curl -sS --max-time 5 {}:8080", node.address()))?;
            ensure!(page.contains("IP: 127.0.0.1\n"), "{page}");
            for leg in ["IP: 10.0.1.", "IP: 172.18.0."] {
                ensure!(page.contains(leg), "no {leg} in {page}");
            }
            ensure!(page.contains(&format!("Host: {}:8080", node.address())), "{page}");
            seen.insert(page.lines().find(|line| line.starts_with("Hostname: ")).context("no whoami")?.to_owned());
            ensure!(seen.len() == 2, "{seen:?}");
            Ok(())
        })?;
        // Somebody elsewhere is seen as who they are.
        let page = course.lab.outside_ok(&["curl", "-sS", "--max-time", "5", &format!("{}:8080", node.address())])?;
        ensure!(page.contains(&format!("RemoteAddr: {}:", skep_lab::OUTSIDE_ADDRESS)), "{page}");
        mesh_tables(course, node)?;
    }
    course.on(MANAGER, "docker service rm web").map(drop)
}

/// The namespace of the mesh, entered from a privileged container as the course does it.
fn mesh_tables(course: &Course, node: &Node) -> Result<()> {
    let names = course.on(node.name(), &format!("ls {NAMESPACES}"))?;
    let mesh = course.on(MANAGER, "docker network inspect --format '{{.Id}}' ingress")?;
    for name in ["ingress_sbox", &format!("1-{}", &mesh[..10])] {
        ensure!(names.lines().any(|found| found == name), "no {name} in {names}");
    }
    let enter = format!(
        "docker run --rm -v {NAMESPACES}:/netns --privileged=true busybox nsenter --net=/netns/ingress_sbox ip"
    );
    let shown = course.on(node.name(), &format!("{enter} a"))?;
    ensure!(inets(link(&shown, "eth0")?).contains(&format!("{}/24", node.address()).as_str()), "{shown}");
    ensure!(inets(link(&shown, "docker_gwbridge")?) == ["172.18.0.1/16"], "{shown}");
    let tunnel = link(&shown, "skep-ingress")?;
    ensure!(tunnel.contains("mtu 1450") && tunnel.contains("inet 198.18.0."), "{tunnel}");
    let routes = course.on(node.name(), &format!("{enter} route"))?;
    ensure!(routes.contains("172.18.0.0/16 dev docker_gwbridge"), "{routes}");
    let table = course.on(node.name(), &format!("nsenter --net={NAMESPACES}/ingress_sbox {TABLE}"))?;
    let backends = map(&table, "ingress_tcp_8080_backends")?;
    ensure!(table.contains("tcp . 8080 : jump ingress_tcp_8080"), "{table}");
    ensure!(backends.len() == 2, "{backends:?}");
    for backend in backends {
        let to = (backend.starts_with("172.18.0."), backend.starts_with("198.18.0."), backend.ends_with(". 80"));
        ensure!(matches!(to, (true, false, true) | (false, true, false)), "{backend}");
    }
    Ok(())
}

/// The values of a map in a listing.
fn map(table: &str, name: &str) -> Result<Vec<String>> {
    let from = table.split_once(&format!("map {name} {{")).with_context(|| format!("no map {name} in {table}"))?.1;
    let elements = from.split_once("elements = {").with_context(|| from.to_owned())?.1;
    let elements = elements.split_once('}').with_context(|| elements.to_owned())?.0;
    let value = |element: &str| element.split_once(" : ").map(|(_, value)| value.trim().to_owned());
    Ok(elements.split(',').filter_map(value).collect())
}

/// 8.6.
fn virtual_address(course: &Course) -> Result<()> {
    course.on(MANAGER, "docker service create --name web --network mynet --replicas 2 containous/whoami")?;
    course
        .on(MANAGER, "docker service create --name client --network mynet xiaopeng163/net-box:latest ping 8.8.8.8")?;
    let host = settled(course.manager(), "client", 1)?[0].node.clone();
    let inside = exec("client.");
    let mut seen = BTreeMap::new();
    wait::until("the first answer", || course.on(&host, &format!("{inside} curl web")))?;
    for _ in 0..6 {
        let page = course.on(&host, &format!("{inside} curl web"))?;
        let name = page.lines().find(|line| line.starts_with("Hostname: ")).context("no whoami")?.to_owned();
        let legs = page.contains("IP: 10.0.1.") && page.contains("IP: 172.18.0.") && page.contains("Host: web");
        ensure!(legs, "{page}");
        *seen.entry(name).or_insert(0) += 1;
    }
    ensure!(seen.len() == 2 && seen.values().all(|count| *count == 3), "{seen:?}");
    let pinged = course.on(&host, &format!("{inside} ping web -c 2"))?;
    let vip = pinged.split_once("PING web (").and_then(|(_, rest)| rest.split_once(')')).context("no address")?.0;
    ensure!(vip.starts_with("10.0.1.") && pinged.contains(&format!("64 bytes from {vip}: seq=1 ttl=64")), "{pinged}");
    ensure!(pinged.contains("2 packets transmitted, 2 packets received, 0% packet loss"), "{pinged}");
    balancer(course, &host, vip)?;
    course.on(MANAGER, "docker service rm web client && docker network rm mynet").map(drop)
}

/// The balancer in `network inspect`, and its namespace with the virtual addresses.
fn balancer(course: &Course, host: &str, vip: &str) -> Result<()> {
    let shown = course.on(host, "docker network inspect mynet")?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let containers = shown[0]["Containers"].as_object().context("no containers")?;
    let client = containers.values().find(|leg| leg["Name"].as_str().is_some_and(|name| name.starts_with("client.1.")));
    let client = client.with_context(|| format!("{containers:?}"))?;
    let leg = &shown[0]["Containers"]["lb-mynet"];
    ensure!(leg["Name"] == "mynet-endpoint", "{leg}");
    for leg in [client, leg] {
        let address = leg["IPv4Address"].as_str().and_then(|net| net.strip_suffix("/24")).context("no address")?;
        ensure!(leg["MacAddress"] == mac_of(address).as_str() && leg["IPv6Address"] == "", "{leg}");
    }
    let own = leg["IPv4Address"].as_str().context("no address")?;
    let id = course.on(host, "docker network inspect --format '{{.Id}}' mynet")?;
    let names = course.on(host, &format!("ls {NAMESPACES}"))?;
    let balancer = format!("lb_{}", &id[..9]);
    for name in [&balancer, &format!("1-{}", &id[..10])] {
        ensure!(names.lines().any(|found| found == name), "no {name} in {names}");
    }
    let enter = format!("nsenter --net={NAMESPACES}/{balancer}");
    let shown = course.on(host, &format!("{enter} ip a"))?;
    let bridge = link(&shown, "br0")?;
    ensure!(bridge.contains("mtu 1450") && inets(bridge).contains(&own), "{bridge}");
    ensure!(bridge.contains(&format!("inet {vip}/32 ")), "{bridge}");
    // The tasks behind it, which answer on the same network.
    let table = course.on(host, &format!("{enter} {TABLE}"))?;
    let service = course.on(MANAGER, "docker service inspect --format '{{.ID}}' web")?;
    ensure!(table.contains(&format!("{vip} : goto service_{service}_4")), "{table}");
    let backends: BTreeSet<String> = map(&table, &format!("service_{service}_4_backends"))?.into_iter().collect();
    let resolved = course.on(host, &format!("{} nslookup -type=a tasks.web", exec("client.")))?;
    let lines = resolved.lines().skip_while(|line| !line.starts_with("Name:"));
    let tasks: BTreeSet<String> =
        lines.filter_map(|line| line.strip_prefix("Address: ")).map(|line| line.trim().to_owned()).collect();
    ensure!(backends == tasks && tasks.len() == 2, "{backends:?}, but tasks.web is {resolved}");
    Ok(())
}
