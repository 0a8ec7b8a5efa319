//! A service balanced by IPVS, from the client's words to the kernel's table.

use anyhow::{Context, Result, ensure};
use skep_conformance::host::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use skep_conformance::{Host, leftovers, wait};
use std::collections::BTreeMap;

const REPLICAS: usize = 3;
const CALLS_EACH: usize = 3;

pub(crate) fn run(host: &mut Host) -> Result<()> {
    ensure!(host.ok(&["info"])?.contains("Load Balancer: ipvs"), "info does not name the balancer");
    host.build_whoami()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    host.ok(&["network", "create", "-d", "overlay", "app"])?;
    let replicas = REPLICAS.to_string();
    let create = ["service", "create", "--name", "web", "--replicas", &replicas, "-p", "8080:80", "--network", "app"];
    host.ok(&[&create[..], &["whoami"]].concat())?;
    let service = Service::of(host)?;

    let by_vip = spread(|| service.ask(host))?;
    let by_mesh = spread(|| ask_outside(host))?;
    ensure!(by_vip.keys().eq(by_mesh.keys()), "{by_vip:?} {by_mesh:?}");
    let table = service.table(host)?;
    ensure!(table.iter().filter(|line| line.ends_with("Masq 1")).count() == REPLICAS, "{table:?}");
    ensure_mesh_backends(host, REPLICAS)?;

    a_killed_netd_changes_nothing(host, &service, &table)?;

    host.ok(&["service", "scale", "web=1"])?;
    wait::until("one backend to remain", || {
        let table = service.table(host)?;
        ensure!(table.len() == 2, "{table:?}");
        ensure_mesh_backends(host, 1)
    })?;
    ask_outside(host)?;

    host.ok(&["swarm", "leave", "--force"])?;
    wait::until("everything to be gone", || {
        let table = host.inside_ok(&["ipvsadm", "-S", "-n"])?;
        ensure!(table.is_empty(), "{table}");
        Ok(())
    })?;
    host.stop_daemon()?;
    leftovers::none(host)
}

/// What is to know about the service to ask it from inside its network.
struct Service {
    vip: String,
    /// File name of the network's namespace.
    network: String,
    /// A process of one of its tasks.
    pid: String,
}

impl Service {
    fn of(host: &Host) -> Result<Self> {
        let endpoint = &host.inspect(&["service", "inspect", "web"])?["Endpoint"]["VirtualIPs"];
        let network = host.ok(&["network", "inspect", "--format", "{{.Id}}", "app"])?;
        let vips = endpoint.as_array().context("no virtual addresses")?;
        let on_app = vips.iter().find(|vip| vip["NetworkID"] == network.as_str()).context("none on app")?;
        let vip = on_app["Addr"].as_str().and_then(|text| text.split('/').next()).context("no address")?.to_owned();
        let container = host.ok(&["ps", "-q", "--filter", "name=web.1"])?;
        let pid = host.ok(&["inspect", "--format", "{{.State.Pid}}", &container])?;
        Ok(Self { vip, network, pid })
    }

    /// Who answers at the virtual address.
    fn ask(&self, host: &Host) -> Result<String> {
        let url = format!("http://{}/", self.vip);
        let curl = ["curl", "--silent", "--show-error", "--max-time", "5", &url];
        name_in(&host.inside_ok(&[&["nsenter", "-t", &self.pid, "-n"][..], &curl].concat())?)
    }

    /// The network's balancer as the kernel has it, without counters.
    fn table(&self, host: &Host) -> Result<Vec<String>> {
        let netd = host.role_pids("netd")?.first().context("no netd")?.to_string();
        let path = format!("--net={}/netd/overlays/{}", host.exec_root().display(), self.network);
        let text = host.inside_ok(&["nsenter", "-t", &netd, "-m", "nsenter", &path, "ipvsadm", "-L", "-n"])?;
        let words = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        Ok(text.lines().filter(|line| line.starts_with("FWM") || line.contains("Masq")).map(words).collect())
    }
}

/// The mesh leads to so many tasks, by IPv4 and by IPv6.
fn ensure_mesh_backends(host: &Host, count: usize) -> Result<()> {
    let table = host.inside_ok(&["ipvsadm", "-L", "-n"])?;
    let (ipv6, ipv4): (Vec<&str>, Vec<&str>) =
        table.lines().filter(|line| line.contains("Masq")).partition(|line| line.contains('['));
    ensure!((ipv4.len(), ipv6.len()) == (count, count), "{table}");
    Ok(())
}

/// Calls so often that each replica has the same share, and demands exactly that.
fn spread(ask: impl Fn() -> Result<String>) -> Result<BTreeMap<String, usize>> {
    // The last replica may just have become a backend: the first calls do not count.
    let mut seen = BTreeMap::new();
    wait::until("all replicas to answer", || {
        *seen.entry(ask()?).or_insert(0) += 1;
        ensure!(seen.len() == REPLICAS, "{seen:?}");
        Ok(())
    })?;
    let mut counts = BTreeMap::new();
    for _ in 0..REPLICAS * CALLS_EACH {
        *counts.entry(ask()?).or_insert(0) += 1;
    }
    ensure!(counts.len() == REPLICAS && counts.values().all(|count| *count == CALLS_EACH), "not even: {counts:?}");
    Ok(counts)
}

fn ask_outside(host: &Host) -> Result<String> {
    let url = format!("http://{HOST_ADDRESS}:8080/");
    let text = host.outside_ok(&["curl", "--silent", "--show-error", "--max-time", "5", &url])?;
    ensure!(text.contains(&format!("RemoteAddr: {OUTSIDE_ADDRESS}:")), "the client's address is lost: {text}");
    name_in(&text)
}

fn name_in(text: &str) -> Result<String> {
    let name = text.lines().find_map(|line| line.strip_prefix("Hostname: "));
    Ok(name.with_context(|| format!("not an answer of whoami: {text}"))?.to_owned())
}

fn a_killed_netd_changes_nothing(host: &Host, service: &Service, table: &[String]) -> Result<()> {
    let before = *host.role_pids("netd")?.first().context("no netd")?;
    host.inside_ok(&["kill", "-9", &before.to_string()])?;
    ask_outside(host)?;
    service.ask(host)?;
    wait::until("another netd", || {
        let now = host.role_pids("netd")?;
        ensure!(now.first().is_some_and(|pid| *pid != before), "still {before}");
        ensure!(host.ok(&["info"])?.contains("Load Balancer: ipvs"));
        Ok(())
    })?;
    let after = service.table(host)?;
    ensure!(after == table, "before: {table:?}, after: {after:?}");
    Ok(())
}
