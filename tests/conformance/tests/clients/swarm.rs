//! A swarm of one node.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::host::{HOST_ADDRESS, http_get};
use skep_conformance::{Host, wait};
use std::collections::BTreeMap;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("init_and_leave", init_and_leave),
    ("replicated_service_behind_a_port", replicated_service_behind_a_port),
    ("a_killed_task_is_replaced", a_killed_task_is_replaced),
    ("global_service", global_service),
    ("service_to_service_by_vip", service_to_service_by_vip),
    ("a_missing_image_is_rejected_with_its_reason", a_missing_image_is_rejected_with_its_reason),
    ("nothing_is_left", nothing_is_left),
];

fn init(host: &Host) -> Result<String> {
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])
}

fn init_and_leave(host: &mut Host) -> Result<()> {
    let refusal = host.refused(&["node", "ls"])?;
    ensure!(
        refusal.contains("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\""),
        "{refusal}"
    );
    let shown = init(host)?;
    ensure!(
        shown.contains("is now a manager.") && shown.contains("docker swarm join --token SWMTKN-1-")
            || shown.contains("skep swarm join --token SWMTKN-1-"),
        "{shown}"
    );
    let nodes = host.ok(&["node", "ls", "--format", "{{.Status}} {{.Availability}} {{.ManagerStatus}}"])?;
    ensure!(nodes == "Ready Active Leader", "{nodes}");
    ensure!(host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"])? == "active true");
    let refusal = host.refused(&["swarm", "init", "--advertise-addr", HOST_ADDRESS])?;
    ensure!(refusal.contains("This node is already part of a swarm."), "{refusal}");
    let refusal = host.refused(&["swarm", "leave"])?;
    ensure!(refusal.contains("Removing the last manager erases all current state of the swarm."), "{refusal}");
    ensure!(host.ok(&["swarm", "leave", "--force"])? == "Node left the swarm.");
    ensure!(host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])? == "inactive");
    Ok(())
}

/// Calls until `count` different tasks have answered; gives how often each did.
fn spread(host: &Host, url: &str, count: usize) -> Result<BTreeMap<String, u32>> {
    let mut seen = BTreeMap::new();
    wait::until(&format!("{count} tasks behind {url}"), || {
        *seen.entry(host.who_answers(url)?).or_insert(0) += 1;
        ensure!(seen.len() >= count, "only {seen:?}");
        Ok(())
    })?;
    Ok(seen)
}

fn replicated_service_behind_a_port(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    init(host)?;
    host.ok(&["service", "create", "--name", "web", "--replicas", "3", "-p", "8080:80", "whoami"])?;
    let row = host.ok(&["service", "ls", "--format", "{{.Name}}|{{.Mode}}|{{.Replicas}}|{{.Ports}}"])?;
    ensure!(row == "web|replicated|3/3|*:8080->80/tcp", "{row}");
    let tasks = host.ok(&["service", "ps", "web", "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}"])?;
    for slot in 1..=3 {
        ensure!(tasks.lines().any(|line| line.starts_with(&format!("web.{slot} Running Running"))), "{tasks}");
    }
    for url in ["http://127.0.0.1:8080/", &format!("http://{HOST_ADDRESS}:8080/")] {
        spread(host, url, 3)?;
    }
    wait::until("an answer outside", || host.who_answers_outside(&format!("http://{HOST_ADDRESS}:8080/")))?;
    let text = host.outside_ok(&["curl", "--silent", "--max-time", "5", &format!("http://{HOST_ADDRESS}:8080/")])?;
    ensure!(text.contains("RemoteAddr: 10.99.0.254:"), "the client's address is lost: {text}");

    let seen = host.inspect(&["service", "inspect", "web"])?;
    ensure!(seen["Spec"]["Mode"]["Replicated"]["Replicas"] == 3, "{seen}");
    ensure!(host.ok(&["service", "inspect", "--pretty", "web"])?.contains("Replicas:"));
    ensure!(host.ok(&["service", "scale", "web=5"])?.contains("web scaled to 5"));
    ensure!(host.ok(&["service", "ls", "--format", "{{.Replicas}}"])? == "5/5");
    spread(host, "http://127.0.0.1:8080/", 5)?;
    host.ok(&["service", "scale", "web=1"])?;
    wait::until("one task to remain", || {
        let running = host.ok(&["ps", "-q"])?.lines().count();
        ensure!(running == 1, "{running} still run");
        Ok(())
    })?;
    ensure!(host.ok(&["service", "rm", "web"])? == "web");
    wait::until("the tasks to go", || {
        ensure!(host.ok(&["ps", "-aq"])?.is_empty());
        Ok(())
    })
}

fn a_killed_task_is_replaced(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    init(host)?;
    host.ok(&["service", "create", "--name", "web", "--replicas", "2", "--restart-delay", "100ms", "whoami"])?;
    let victim = host.ok(&["ps", "-q", "--filter", "name=web.1"])?;
    let pid = host.inspect(&["inspect", &victim])?["State"]["Pid"].as_u64().context("pid")?;
    host.inside_ok(&["kill", "-9", &pid.to_string()])?;
    wait::until("a replacement", || {
        let rows = host.ok(&["service", "ps", "web", "--format", "{{.Name}}|{{.CurrentState}}|{{.Error}}"])?;
        let slot: Vec<&str> = rows.lines().filter(|line| line.contains("web.1")).collect();
        ensure!(slot.len() == 2 && slot[0].contains("|Running"), "{rows}");
        ensure!(slot[1].contains("Failed") && slot[1].contains("non-zero exit (137)"), "{rows}");
        Ok(())
    })
}

fn global_service(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    init(host)?;
    host.ok(&["service", "create", "--name", "agent", "--mode", "global", "whoami"])?;
    let row = host.ok(&["service", "ls", "--format", "{{.Mode}} {{.Replicas}}"])?;
    ensure!(row == "global 1/1", "{row}");
    let refusal = host.refused(&["service", "scale", "agent=2"])?;
    ensure!(refusal.contains("scale can only be used with replicated"), "{refusal}");
    Ok(())
}

fn service_to_service_by_vip(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    init(host)?;
    host.ok(&["network", "create", "-d", "overlay", "app"])?;
    host.ok(&["service", "create", "--name", "web", "--replicas", "3", "--network", "app", "whoami"])?;
    host.ok(&["service", "create", "--name", "client", "--network", "app", "busybox", "sleep", "10000"])?;
    let vip = host.inspect(&["service", "inspect", "web"])?["Endpoint"]["VirtualIPs"][0]["Addr"]
        .as_str()
        .context("vip")?
        .to_owned();
    let vip = vip.split('/').next().unwrap_or_default().to_owned();
    let client = wait::until("the client", || {
        let id = host.ok(&["ps", "-q", "--filter", "name=client.1"])?;
        ensure!(!id.is_empty());
        Ok(id)
    })?;
    let resolved = host.ok(&["exec", &client, "nslookup", "-type=a", "web"])?;
    ensure!(resolved.contains(&vip), "{resolved}");
    let tasks = host.ok(&["exec", &client, "nslookup", "-type=a", "tasks.web"])?;
    ensure!(tasks.matches("Address").count() >= 4, "{tasks}");
    let mut seen = BTreeMap::new();
    for _ in 0..12 {
        let text = host.ok(&["exec", &client, "sh", "-c", &http_get("web", 80)])?;
        let name = text.lines().find_map(|l| l.strip_prefix("Hostname: ")).context("whoami")?.to_owned();
        *seen.entry(name).or_insert(0) += 1;
    }
    ensure!(seen.len() == 3 && seen.values().all(|times| *times == 4), "{seen:?}");
    host.ok(&["exec", &client, "ping", "-c", "1", "-W", "5", &vip]).map(drop)
}

fn a_missing_image_is_rejected_with_its_reason(host: &mut Host) -> Result<()> {
    init(host)?;
    host.ok(&[
        "service",
        "create",
        "--detach",
        "--no-resolve-image",
        "--name",
        "ghost",
        "--restart-delay",
        "200ms",
        "127.0.0.1:1/nosuch",
    ])?;
    wait::until("the rejection", || {
        let rows = host.ok(&["service", "ps", "ghost", "--no-trunc", "--format", "{{.CurrentState}}|{{.Error}}"])?;
        ensure!(rows.lines().filter(|line| line.starts_with("Rejected")).count() >= 2, "{rows}");
        ensure!(rows.contains("nosuch"), "{rows}");
        Ok(())
    })
}

fn nothing_is_left(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    init(host)?;
    host.ok(&["network", "create", "-d", "overlay", "app"])?;
    host.ok(&["network", "create", "local1"])?;
    host.ok(&["service", "create", "--name", "web", "--replicas", "3", "-p", "8080:80", "--network", "app", "whoami"])?;
    host.ok(&["run", "-d", "--name", "one", "--network", "local1", "-p", "9001:80", "whoami"])?;
    host.ok(&["run", "-d", "--name", "two", "-v", "/anonymous", "busybox", "sleep", "1000"])?;
    host.ok(&["rm", "-f", "-v", "one", "two"])?;
    host.ok(&["network", "rm", "local1"])?;
    host.ok(&["swarm", "leave", "--force"])?;
    ensure!(host.ok(&["ps", "-aq"])?.is_empty());
    host.stop_daemon()?;
    skep_conformance::leftovers::none(host)
}
