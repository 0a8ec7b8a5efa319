//! Whether every machine's kernel, names and traffic agree with what the managers' store says
//! of the network. Asked of the kernel with the programs that people use.

use crate::say;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skep_conformance::{Cli, Lab, Node, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For everything that a quiet cluster still has to tidy up.
const QUIET_TIMEOUT: Duration = Duration::from_secs(90);
/// Of what is shown while it is waited for.
const REASON_LENGTH_MAX: usize = 500;
const SEPARATOR: &str = "#####";

/// What the store says, as the API shows it.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) services: Vec<Service>,
    /// By id; overlays without the mesh's.
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) tasks: Vec<Task>,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) gateway: String,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Network id to virtual address.
    pub(crate) vips: BTreeMap<String, String>,
    /// The mesh's, as `tcp_8080`.
    pub(crate) ports: Vec<String>,
}

/// One that is not over.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) host: String,
    state: String,
    desired: String,
    /// Network id to address.
    pub(crate) addresses: BTreeMap<String, String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `10.0.1.7/24` without its length.
fn bare(address: &str) -> String {
    address.split('/').next().unwrap_or_default().to_owned()
}

impl Store {
    pub(crate) fn read(manager: &Cli) -> Result<Self> {
        let nodes = manager.get("/nodes")?;
        let hosts: BTreeMap<String, String> =
            list(&nodes).iter().map(|node| (text(&node["ID"]), text(&node["Description"]["Hostname"]))).collect();
        let mut store = Self::default();
        for network in list(&manager.get("/networks")?) {
            if network["Driver"] == "overlay" && network["Ingress"] != true {
                let gateway = text(&network["IPAM"]["Config"][0]["Gateway"]);
                store.networks.insert(text(&network["Id"]), Network { name: text(&network["Name"]), gateway });
            }
        }
        store.services = list(&manager.get("/services")?).iter().map(Service::of).collect();
        let over = ["complete", "shutdown", "failed", "rejected", "remove", "orphaned"];
        for task in list(&manager.get("/tasks")?) {
            let state = text(&task["Status"]["State"]);
            if over.contains(&state.as_str()) {
                continue;
            }
            let legs = list(&task["NetworksAttachments"]).iter();
            let addresses = legs.filter(|leg| store.networks.contains_key(&text(&leg["Network"]["ID"])));
            store.tasks.push(Task {
                id: text(&task["ID"]),
                service: text(&task["ServiceID"]),
                host: hosts.get(&text(&task["NodeID"])).cloned().unwrap_or_default(),
                state,
                desired: text(&task["DesiredState"]),
                addresses: addresses
                    .map(|leg| (text(&leg["Network"]["ID"]), bare(&text(&leg["Addresses"][0]))))
                    .collect(),
            });
        }
        Ok(store)
    }

    /// Addresses of a service's tasks on a network.
    pub(crate) fn backends(&self, service: &Service, network: &str) -> BTreeSet<String> {
        let tasks = self.tasks.iter().filter(|task| task.service == service.id);
        tasks.filter_map(|task| task.addresses.get(network).cloned()).collect()
    }

    /// Every task that is not over runs and is meant to.
    fn is_quiet(&self) -> Result<()> {
        let restless = self.tasks.iter().find(|task| task.state != "running" || task.desired != "running");
        ensure!(restless.is_none(), "{restless:?}");
        Ok(())
    }

    /// Networks that a machine takes part in.
    fn networks_of(&self, host: &str) -> BTreeSet<&String> {
        self.tasks.iter().filter(|task| task.host == host).flat_map(|task| task.addresses.keys()).collect()
    }
}

impl Service {
    fn of(value: &Value) -> Self {
        let vips = list(&value["Endpoint"]["VirtualIPs"]).iter();
        let ports = list(&value["Endpoint"]["Ports"]).iter().filter(|port| port["PublishMode"] != "host");
        Self {
            id: text(&value["ID"]),
            name: text(&value["Spec"]["Name"]),
            vips: vips.map(|vip| (text(&vip["NetworkID"]), bare(&text(&vip["Addr"])))).collect(),
            ports: ports.map(|port| format!("{}_{}", text(&port["Protocol"]), port["PublishedPort"])).collect(),
        }
    }
}

/// Waits until every machine's netd finds no difference and nothing that fails.
pub(crate) fn verified(lab: &Lab) -> Result<()> {
    wait::until("the kernels to be as wanted", || no_difference(lab))
}

fn no_difference(lab: &Lab) -> Result<()> {
    let timeout = Duration::from_secs(20);
    let (status, body) = lab.node(1).request("GET", "/skep/networks/verify?all=1", None, timeout)?;
    let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    let nodes = answer["Nodes"].as_array().with_context(|| body.clone())?;
    ensure!(status == 200 && nodes.len() == lab.nodes().len(), "{body}");
    for node in nodes {
        let is_empty = |field: &str| node[field].as_array().is_some_and(Vec::is_empty);
        ensure!(is_empty("Differences") && is_empty("Failing"), "{node}");
    }
    Ok(())
}

/// Waits until nothing moves, then compares everything; `client` is a service with one task on
/// each machine, on every network that is looked at through it. Gives the store.
pub(crate) fn agrees(lab: &Lab, client: &str) -> Result<Store> {
    let mut last = Store::default();
    let (begin, mut shown) = (Instant::now(), String::new());
    wait::within(QUIET_TIMEOUT, "kernels, names and traffic as the store has them", || {
        let outcome = agrees_now(lab, client);
        let shows = std::env::var_os("SKEP_TEST_SHOW_COMMANDS").is_some();
        if let Some(error) = outcome.as_ref().err().filter(|_| shows) {
            let reason: String = format!("{error:#}").chars().take(REASON_LENGTH_MAX).collect();
            if reason != shown {
                say(&format!("after {:?} not yet: {reason}", begin.elapsed()));
            }
            shown = reason;
        }
        last = outcome?;
        Ok(())
    })?;
    Ok(last)
}

fn agrees_now(lab: &Lab, client: &str) -> Result<Store> {
    let store = Store::read(lab.node(1))?;
    store.is_quiet()?;
    no_difference(lab)?;
    let own = balancer_addresses(lab, &store)?;
    no_address_twice(&store, &own)?;
    for node in lab.nodes() {
        host_agrees(&store, node).with_context(|| node.name().to_owned())?;
        for id in store.networks_of(node.name()) {
            overlay_agrees(lab, &store, &own, node, id)
                .with_context(|| format!("{} on {}", store.networks[id].name, node.name()))?;
        }
        names_and_traffic_agree(&store, node, client).with_context(|| format!("seen on {}", node.name()))?;
    }
    Ok(store)
}

/// Each machine's own address on each network: (network id, host) to address.
type Own = BTreeMap<(String, String), String>;

fn balancer_addresses(lab: &Lab, store: &Store) -> Result<Own> {
    let mut own = Own::new();
    for node in lab.nodes() {
        for id in store.networks_of(node.name()) {
            let name = &store.networks[id].name;
            let shown = node.get(&format!("/networks/{id}"))?;
            let leg = text(&shown["Containers"][format!("lb-{name}")]["IPv4Address"]);
            ensure!(!leg.is_empty(), "{} has no balancer on {name}: {shown}", node.name());
            own.insert((id.clone(), node.name().to_owned()), bare(&leg));
        }
    }
    Ok(own)
}

fn no_address_twice(store: &Store, own: &Own) -> Result<()> {
    let mut held: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut hold = |network: &str, address: &str, holder: String| match held
        .insert((network.to_owned(), address.to_owned()), holder.clone())
    {
        Some(other) => bail!("{address} is held by {other} and by {holder}"),
        None => Ok(()),
    };
    for (id, network) in &store.networks {
        hold(id, &network.gateway, "the gateway".into())?;
    }
    for service in &store.services {
        for (network, address) in service.vips.iter().filter(|(network, _)| store.networks.contains_key(*network)) {
            hold(network, address, format!("service {}", service.name))?;
        }
    }
    for task in &store.tasks {
        for (network, address) in &task.addresses {
            hold(network, address, format!("task {}", task.id))?;
        }
    }
    own.iter().try_for_each(|((network, host), address)| hold(network, address, format!("the balancer of {host}")))
}

/// The MAC address that belongs to an address.
pub(crate) fn mac_of(address: &str) -> String {
    let octets = address.split('.').map(|part| part.parse().unwrap_or(0));
    octets.fold("02:42".to_owned(), |mac, octet: u8| format!("{mac}:{octet:02x}"))
}

/// The file by which a network's namespace is entered.
pub(crate) fn balancer_path(network: &str) -> String {
    format!("/run/skep/netd/netns/lb_{}", &network[..9])
}

/// Output of a line in a network's namespace on a machine.
pub(crate) fn in_overlay(node: &Node, network: &str, line: &str) -> Result<String> {
    node.inside_ok(&["nsenter", &format!("--net={}", balancer_path(network)), "sh", "-c", line])
}

/// An overlay's namespace: addresses, tunnel entries, legs and balancing.
fn overlay_agrees(lab: &Lab, store: &Store, own: &Own, node: &Node, id: &str) -> Result<()> {
    let line = format!(
        "ip -4 -o address show dev br0; echo '{SEPARATOR}'; bridge fdb show dev vxlan0; echo '{SEPARATOR}'; \
         ip neigh show dev vxlan0 nud permanent; echo '{SEPARATOR}'; ip -o link show master br0; echo '{SEPARATOR}'; \
         nft -j list table inet skep"
    );
    let shown = in_overlay(node, id, &line)?;
    let parts: Vec<&str> = shown.split(SEPARATOR).collect();
    let [addresses, stations, neighbours, legs, rules] = parts[..] else { bail!("{shown}") };
    let column = |text: &str, at: usize| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.split_whitespace().nth(at).map(bare)).collect()
    };
    let own_address = own[&(id.to_owned(), node.name().to_owned())].clone();
    let vips = store.services.iter().filter_map(|service| service.vips.get(id).cloned());
    let expect: BTreeSet<String> = vips.chain([store.networks[id].gateway.clone(), own_address]).collect();
    same("addresses of the balancer", &column(addresses, 3), &expect)?;

    let mut remote: BTreeMap<String, String> = BTreeMap::new();
    for ((_, host), address) in own.iter().filter(|((network, host), _)| network == id && host != node.name()) {
        remote.insert(address.clone(), lab.by_name(host)?.address());
    }
    for task in store.tasks.iter().filter(|task| task.host != node.name()) {
        if let Some(address) = task.addresses.get(id) {
            remote.insert(address.clone(), lab.by_name(&task.host)?.address());
        }
    }
    let behind: BTreeSet<String> = stations.lines().filter_map(station_and_node).collect();
    let expect = remote.iter().map(|(address, node)| format!("{} at {node}", mac_of(address))).collect();
    same("stations behind the tunnel", &behind, &expect)?;
    let known = neighbours.lines().filter(|line| line.contains("lladdr")).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words.first().unwrap_or(&""), words.get(2).unwrap_or(&""))
    });
    let expect = remote.keys().map(|address| format!("{address} {}", mac_of(address))).collect();
    same("known neighbours", &known.collect(), &expect)?;

    let here = store.tasks.iter().filter(|task| task.host == node.name() && task.addresses.contains_key(id)).count();
    let legs = legs.lines().filter(|line| line.contains("veth")).count();
    ensure!(legs == here, "{legs} legs for {here} tasks");
    let maps = maps(rules)?;
    for service in store.services.iter().filter(|service| service.vips.contains_key(id)) {
        let balanced = maps.get(&format!("service_{}_4_backends", service.id)).cloned().unwrap_or_default();
        same(&format!("backends of {}", service.name), &balanced, &store.backends(service, id))?;
    }
    let services: BTreeSet<String> = maps.keys().filter(|name| name.starts_with("service_")).cloned().collect();
    let with_tasks = store.services.iter().filter(|service| service.vips.contains_key(id));
    let with_tasks = with_tasks.filter(|service| !store.backends(service, id).is_empty());
    same("balanced services", &services, &with_tasks.map(|s| format!("service_{}_4_backends", s.id)).collect())
}

/// `MAC at NODE` of a line of `bridge fdb` about what is behind the tunnel.
fn station_and_node(line: &str) -> Option<String> {
    let (mac, node) = (line.split_whitespace().next()?, line.split_once(" dst ")?.1);
    Some(format!("{mac} at {}", node.split_whitespace().next()?))
}

/// The addresses in every map of a table, by the map's name.
fn maps(rules: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let shown: Value = serde_json::from_str(rules).with_context(|| rules.to_owned())?;
    let maps = list(&shown["nftables"]).iter().map(|object| &object["map"]).filter(|map| map.is_object());
    let address = |element: &Value| match &element[1] {
        Value::String(address) => address.clone(),
        concatenated => format!("{}:{}", text(&concatenated["concat"][0]), concatenated["concat"][1]),
    };
    Ok(maps.map(|map| (text(&map["name"]), list(&map["elem"]).iter().map(address).collect())).collect())
}

/// The host's own side: names of namespaces, and published ports.
fn host_agrees(store: &Store, node: &Node) -> Result<()> {
    let names = node.inside_ok(&["ls", "/run/skep/netd/netns"])?;
    let balancers: BTreeSet<String> = names.lines().filter(|name| name.starts_with("lb_")).map(str::to_owned).collect();
    let expect = store.networks_of(node.name()).iter().map(|id| format!("lb_{}", &id[..9])).collect();
    same("named balancers", &balancers, &expect)?;
    let shown = node.inside_ok(&["nft", "-j", "list", "table", "inet", "skep"])?;
    let rules: Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
    let objects = list(&rules["nftables"]);
    let map_sizes: BTreeMap<String, (usize, usize)> = objects
        .iter()
        .map(|object| &object["map"])
        .filter(|map| text(&map["name"]).starts_with("ingress_") && text(&map["name"]).ends_with("_backends"))
        .map(|map| {
            let elements = list(&map["elem"]);
            let elsewhere = elements.iter().filter(|e| text(&e[1]["concat"][0]).starts_with("198.18.")).count();
            (text(&map["name"]), (elements.len() - elsewhere, elsewhere))
        })
        .collect();
    let mut expect = BTreeMap::new();
    for service in &store.services {
        let tasks: Vec<&Task> = store.tasks.iter().filter(|task| task.service == service.id).collect();
        let here = tasks.iter().filter(|task| task.host == node.name()).count();
        for port in &service.ports {
            if !tasks.is_empty() {
                expect.insert(format!("ingress_{port}_backends"), (here, tasks.len() - here));
            }
            if here > 0 {
                expect.insert(format!("ingress_{port}_here_backends"), (here, 0));
            }
        }
    }
    ensure!(map_sizes == expect, "published ports are {map_sizes:?}, not {expect:?}");
    Ok(())
}

/// The file by which the namespace of a service's only task on a machine is entered.
pub(crate) fn task_path(node: &Node, service: &str) -> Result<String> {
    let container = node.ok(&["ps", "-q", "--filter", &format!("name={service}.")])?;
    let pid = node.ok(&["inspect", "--format", "{{.State.Pid}}", &container])?;
    Ok(format!("/proc/{pid}/ns/net"))
}

/// What a task on the machine is told and reaches, for every service of its networks.
fn names_and_traffic_agree(store: &Store, node: &Node, client: &str) -> Result<()> {
    let Some(service) = store.services.iter().find(|service| service.name == client) else { bail!("no {client}") };
    let own = store.tasks.iter().find(|task| task.service == service.id && task.host == node.name());
    let own = own.with_context(|| format!("no task of {client}"))?;
    let mut script = String::new();
    let mut expect = Vec::new();
    for network in own.addresses.keys() {
        for service in store.services.iter().filter(|service| service.vips.contains_key(network)) {
            let name = format!("{}.{}", service.name, store.networks[network].name);
            let backends = store.backends(service, network);
            // Tasks take turns: so many requests reach each of them once.
            let requests = if service.ports.is_empty() { 0 } else { backends.len() };
            let vip = &service.vips[network];
            script += &format!(
                "busybox nslookup -type=a {name} 127.0.0.11; echo '{SEPARATOR}'; busybox nslookup -type=a tasks.{name} 127.0.0.11; \
                 echo '{SEPARATOR}'; for i in $(seq {requests}); do curl -sSf --max-time 3 http://{vip}/ 2>&1 || echo FAILED; \
                 done; echo '{SEPARATOR}'; "
            );
            expect.push((network, service, backends, requests));
        }
    }
    let shown = node.inside_ok(&["nsenter", &format!("--net={}", task_path(node, client)?), "sh", "-c", &script])?;
    let mut answers = shown.split(SEPARATOR);
    for (network, service, backends, requests) in expect {
        let mut next = || answers.next().with_context(|| shown.clone());
        let vip = BTreeSet::from([service.vips[network].clone()]);
        same(&format!("addresses of {}", service.name), &resolved(next()?), &vip)?;
        same(&format!("addresses of tasks.{}", service.name), &resolved(next()?), &backends)?;
        let pages = next()?;
        ensure!(!pages.contains("FAILED"), "{} does not answer on its virtual address: {pages}", service.name);
        let prefix = store.networks[network].gateway.rsplit_once('.').map(|(prefix, _)| prefix.to_owned());
        let prefix = format!("IP: {}.", prefix.unwrap_or_default());
        let answered: BTreeSet<String> = pages
            .lines()
            .filter(|line| line.starts_with(&prefix))
            .filter_map(|line| line.strip_prefix("IP: "))
            .map(str::to_owned)
            .collect();
        if requests > 0 {
            same(&format!("who answers for {}", service.name), &answered, &backends)?;
        }
    }
    Ok(())
}

/// The addresses in what `nslookup` prints.
fn resolved(text: &str) -> BTreeSet<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with("Name:"));
    lines.filter_map(|line| line.strip_prefix("Address: ")).map(|address| address.trim().to_owned()).collect()
}

fn same(what: &str, seen: &BTreeSet<String>, expect: &BTreeSet<String>) -> Result<()> {
    let extra: Vec<&String> = seen.difference(expect).collect();
    let missing: Vec<&String> = expect.difference(seen).collect();
    ensure!(extra.is_empty() && missing.is_empty(), "{what}: too much {extra:?}, missing {missing:?}");
    Ok(())
}
