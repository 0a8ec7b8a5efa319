//! Local networks and published ports.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::host::http_get;
use skep_conformance::{Host, wait};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("published_port_from_everywhere", published_port_from_everywhere),
    ("published_on_one_address_only", published_on_one_address_only),
    ("networks_come_and_go", networks_come_and_go),
    ("containers_find_each_other_by_name", containers_find_each_other_by_name),
    ("way_out", way_out),
];

fn published_port_from_everywhere(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    let id = host.ok(&["run", "-d", "--name", "web", "-p", "8081:80", "whoami"])?;
    let name = &id[..12];
    for url in ["http://127.0.0.1:8081/", &format!("http://{HOST_ADDRESS}:8081/")] {
        let answer = wait::until(url, || host.who_answers(url))?;
        ensure!(answer == name, "{url}: {answer}");
    }
    ensure!(host.who_answers_outside(&format!("http://{HOST_ADDRESS}:8081/"))? == name);
    // Hairpin: another container, and the container itself, by the host's address.
    let seen = host.ok(&["run", "--rm", "busybox", "sh", "-c", &http_get(HOST_ADDRESS, 8081)])?;
    ensure!(seen.contains(name), "{seen}");
    let url = format!("http://{HOST_ADDRESS}:8081/");
    // The outside client's address arrives unchanged.
    let text = host.outside_ok(&["curl", "--silent", "--max-time", "5", &url])?;
    ensure!(text.contains("RemoteAddr: 10.99.0.254:"), "{text}");
    ensure!(host.ok(&["port", "web"])?.contains("80/tcp -> 0.0.0.0:8081"));
    Ok(())
}

fn published_on_one_address_only(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.ok(&["run", "-d", "-p", "127.0.0.1:8082:80", "whoami"])?;
    wait::until("an answer on loopback", || host.who_answers("http://127.0.0.1:8082/"))?;
    ensure!(host.who_answers_outside(&format!("http://{HOST_ADDRESS}:8082/")).is_err(), "it was widened");
    Ok(())
}

fn networks_come_and_go(host: &mut Host) -> Result<()> {
    let list = host.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"])?;
    for line in ["bridge bridge local", "host host local", "none null local"] {
        ensure!(list.lines().any(|l| l == line), "{list}");
    }
    let id = host.ok(&["network", "create", "--subnet", "10.123.0.0/24", "--label", "a=b", "net1"])?;
    ensure!(id.len() == 64, "{id}");
    let seen = host.inspect(&["network", "inspect", "net1"])?;
    ensure!(seen["IPAM"]["Config"][0]["Subnet"] == "10.123.0.0/24" && seen["Labels"]["a"] == "b", "{seen}");
    let bridge = format!("br-{}", &id[..12]);
    ensure!(host.inside_ok(&["ip", "-4", "addr", "show", &bridge])?.contains("10.123.0.1/24"));
    let refusal = host.refused(&["network", "create", "net1"])?;
    ensure!(refusal.contains("network with name net1 already exists"), "{refusal}");
    host.ok(&["network", "rm", "net1"])?;
    wait::until("the bridge to go", || {
        ensure!(!host.inside_ok(&["ip", "-o", "link"])?.contains(&bridge));
        Ok(())
    })?;
    ensure!(host.refused(&["network", "inspect", "net1"])?.contains("net1"));
    Ok(())
}

fn containers_find_each_other_by_name(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    host.ok(&["network", "create", "net1"])?;
    let id = host.ok(&["run", "-d", "--name", "web", "--network", "net1", "--network-alias", "www", "whoami"])?;
    for name in ["web", "www", &id[..12], "web.net1"] {
        let script = http_get(name, 80);
        let text =
            wait::until(name, || host.ok(&["run", "--rm", "--network", "net1", "busybox", "sh", "-c", &script]))?;
        ensure!(text.contains(&id[..12]), "{name}: {text}");
    }
    let refusal = host.refused(&["network", "rm", "net1"])?;
    ensure!(refusal.contains("has active endpoints"), "{refusal}");
    // Not resolvable from another network.
    host.refused(&["run", "--rm", "busybox", "sh", "-c", &http_get("web", 80)])?;
    host.ok(&["rm", "-f", "web"])?;
    host.ok(&["network", "rm", "net1"])?;
    Ok(())
}

fn way_out(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    // The outside machine has no route to the bridge: only masquerading makes this work.
    let shown = host.ok(&["run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", "10.99.0.254"])?;
    ensure!(shown.contains("1 packets received"), "{shown}");
    host.ok(&["network", "create", "--internal", "inside"])?;
    host.refused(&["run", "--rm", "--network", "inside", "busybox", "ping", "-c", "1", "-W", "1", "10.99.0.254"])
        .map(drop)
        .context("an internal network has a way out")
}
