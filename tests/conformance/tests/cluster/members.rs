//! Joining, node states, and where tasks go.

use crate::Scenario;
use crate::swarm::{
    create, formed, formed_with, ids_beside, nodes, nodes_become, on_all, running, settled, spread, tasks,
};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Lab, Options, wait};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "three_managers_and_two_workers",
        options: || Options::for_test(5),
        run: three_managers_and_two_workers,
        every_client: true,
    },
    Scenario {
        name: "availability_moves_tasks",
        options: || Options::for_test(3),
        run: availability_moves_tasks,
        every_client: true,
    },
    Scenario {
        name: "labels_say_where_tasks_go",
        options: || Options::for_test(3),
        run: labels_say_where_tasks_go,
        every_client: false,
    },
    Scenario {
        name: "a_lost_node_is_replaced_and_comes_back",
        options: || Options::for_test(3).images(512),
        run: a_lost_node_is_replaced_and_comes_back,
        every_client: false,
    },
    Scenario {
        name: "nodes_leave_and_are_removed",
        options: || Options::for_test(3),
        run: nodes_leave_and_are_removed,
        every_client: true,
    },
];

/// The `swarm join` line that a verb printed, without its program.
fn join_line(shown: &str) -> Result<Vec<String>> {
    let line = shown.lines().find(|line| line.contains("swarm join --token")).with_context(|| shown.to_owned())?;
    Ok(line.split_whitespace().skip(1).map(str::to_owned).collect())
}

fn three_managers_and_two_workers(lab: &mut Lab) -> Result<()> {
    let first = lab.node(1);
    let shown = first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
    let worker = join_line(&shown)?;
    let manager = join_line(&first.ok(&["swarm", "join-token", "manager"])?)?;
    ensure!(worker.last().is_some_and(|remote| *remote == format!("{}:2377", first.address())), "{worker:?}");
    ensure!(join_line(&first.ok(&["swarm", "join-token", "worker"])?)? == worker);
    for (number, line) in [(2, &manager), (3, &manager), (4, &worker), (5, &worker)] {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        let said = lab.node(number).ok(&words)?;
        let role = if number <= 3 { "manager" } else { "worker" };
        ensure!(said == format!("This node joined a swarm as a {role}."), "{said}");
        let again = lab.node(number).refused(&words)?;
        ensure!(again.contains("This node is already part of a swarm."), "{again}");
    }
    let expect = [
        "h1 Ready Active Leader",
        "h2 Ready Active Reachable",
        "h3 Ready Active Reachable",
        "h4 Ready Active",
        "h5 Ready Active",
    ];
    for number in 1..=3 {
        let node = lab.node(number);
        nodes_become(node, &expect)?;
        let own = node.ok(&["node", "ls", "--format", "{{.Self}} {{.Hostname}}"])?;
        let own: Vec<&str> = own.lines().filter_map(|row| row.strip_prefix("true ")).collect();
        ensure!(own == [node.name()], "{own:?}");
        let info =
            node.ok(&["info", "--format", "{{.Swarm.ControlAvailable}} {{.Swarm.Managers}} {{.Swarm.Nodes}}"])?;
        ensure!(info == "true 3 5", "{info}");
    }
    for number in [4, 5] {
        let node = lab.node(number);
        for verb in [["node", "ls"], ["service", "ls"], ["secret", "ls"]] {
            let said = node.refused(&verb)?;
            let expect = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster \
                          state. Please run this command on a manager node or promote the current node to a manager.";
            ensure!(said.contains(expect), "{said}");
        }
        let info = node.ok(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"])?;
        ensure!(info == "active false", "{info}");
        // It knows all managers, not only the one it joined through.
        wait::until("the list of managers", || {
            let known = node.ok(&["info", "--format", "{{range .Swarm.RemoteManagers}}{{.Addr}} {{end}}"])?;
            ensure!(known.split_whitespace().count() == 3, "{known}");
            Ok(())
        })?;
    }
    on_all(lab, |node| node.import_busybox())?;
    // Any manager takes a write and answers a read of it.
    create(lab.node(2), "spread", &["--replicas", "5", "busybox", "sleep", "100000"])?;
    let placed = settled(lab.node(3), "spread", 5)?;
    ensure!(spread(&placed).values().all(|count| *count == 1) && spread(&placed).len() == 5, "{placed:?}");
    let containers: usize = lab.nodes().iter().map(|n| n.ok(&["ps", "-q"]).map_or(0, |ids| ids.lines().count())).sum();
    ensure!(containers == 5, "{containers} containers");
    lab.node(3).ok(&["service", "rm", "spread"])?;
    for node in lab.nodes() {
        wait::until("the tasks to go", || {
            ensure!(node.ok(&["ps", "-aq"])?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}

fn availability_moves_tasks(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let manager = lab.node(1);
    create(manager, "web", &["--replicas", "6", "busybox", "sleep", "100000"])?;
    let placed = settled(manager, "web", 6)?;
    ensure!(spread(&placed).values().all(|count| *count == 2), "{placed:?}");

    ensure!(manager.ok(&["node", "update", "--availability", "pause", "h2"])? == "h2");
    nodes_become(manager, &["h1 Ready Active Leader", "h2 Ready Pause", "h3 Ready Active"])?;
    manager.ok(&["service", "scale", "--detach", "web=10"])?;
    let paused = settled(manager, "web", 10)?;
    ensure!(spread(&paused).get("h2") == Some(&2), "a paused node takes tasks or loses its own: {paused:?}");

    ensure!(manager.ok(&["node", "update", "--availability", "drain", "h2"])? == "h2");
    let drained = settled(manager, "web", 10)?;
    ensure!(!spread(&drained).contains_key("h2") && spread(&drained).len() == 2, "{drained:?}");
    wait::until("the drained node to be empty", || {
        ensure!(lab.node(2).ok(&["ps", "-q"])?.is_empty());
        Ok(())
    })?;
    let kept = ids_beside(&paused, "h2");
    ensure!(kept.iter().all(|id| drained.iter().any(|task| task.id == *id)), "tasks of other nodes moved: {drained:?}");

    ensure!(manager.ok(&["node", "update", "--availability", "active", "h2"])? == "h2");
    // What runs stays where it is; new tasks go to the empty node.
    manager.ok(&["service", "scale", "--detach", "web=12"])?;
    let active = settled(manager, "web", 12)?;
    ensure!(spread(&active).get("h2") == Some(&2), "{active:?}");
    let refusal = manager.refused(&["node", "update", "--availability", "idle", "h2"])?;
    ensure!(refusal.to_lowercase().contains("invalid availability"), "{refusal}");
    Ok(())
}

fn labels_say_where_tasks_go(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let manager = lab.node(1);
    manager.ok(&["node", "update", "--label-add", "zone=a", "--label-add", "disk=ssd", "h2"])?;
    manager.ok(&["node", "update", "--label-add", "zone=b", "h3"])?;
    let labels = manager.ok(&["node", "inspect", "--format", "{{json .Spec.Labels}}", "h2"])?;
    ensure!(labels == r#"{"disk":"ssd","zone":"a"}"#, "{labels}");
    let place = |name: &str, constraints: &[&str], expect: &[&str]| -> Result<()> {
        let mut args = vec!["--replicas", "2"];
        for constraint in constraints {
            args.extend(["--constraint", constraint]);
        }
        args.extend(["busybox", "sleep", "100000"]);
        create(manager, name, &args)?;
        let placed = spread(&settled(manager, name, 2)?);
        let hosts: Vec<&str> = placed.keys().map(String::as_str).collect();
        ensure!(hosts == expect, "{name}: {placed:?}");
        Ok(())
    };
    place("ssd", &["node.labels.disk==ssd"], &["h2"])?;
    place("other", &["node.labels.zone != a", "node.role == worker"], &["h3"])?;
    place("boss", &["node.role==manager"], &["h1"])?;
    place("byname", &["node.hostname == h3"], &["h3"])?;

    create(manager, "nowhere", &["--constraint", "node.labels.zone==c", "busybox", "sleep", "100000"])?;
    wait::until("the reason of the wait", || {
        let seen = tasks(manager, "nowhere")?;
        let waits =
            seen.iter().any(|task| task.current.starts_with("Pending") && task.error.contains("no suitable node"));
        ensure!(waits, "{seen:?}");
        Ok(())
    })?;
    manager.ok(&["node", "update", "--label-add", "zone=c", "h1"])?;
    ensure!(settled(manager, "nowhere", 1)?[0].node == "h1");
    // A label that goes takes its tasks along.
    manager.ok(&["node", "update", "--label-rm", "disk", "h2"])?;
    wait::until("the tasks to leave", || {
        let seen = running(manager, "ssd")?;
        ensure!(seen.is_empty(), "{seen:?}");
        Ok(())
    })?;
    let bad = manager.refused(&["service", "create", "--constraint", "node.hostname=h1", "busybox"])?;
    ensure!(bad.contains("constraint expected one operator from ==, !="), "{bad}");
    Ok(())
}

/// Heartbeat of the swarm in this scenario; a node is down after three of them.
const HEARTBEAT: &str = "1s";
const DEAD_TIME: Duration = Duration::from_secs(3);
/// Beyond the dead time and its spread: noticing, planning, starting.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

fn a_lost_node_is_replaced_and_comes_back(lab: &mut Lab) -> Result<()> {
    formed_with(lab, 1, &["--dispatcher-heartbeat", HEARTBEAT])?;
    let manager = lab.node(1);
    create(manager, "web", &["--replicas", "6", "busybox", "sleep", "100000"])?;
    let before = settled(manager, "web", 6)?;
    let begin = Instant::now();
    lab.node(3).power_off()?;
    wait::until("the tasks to run elsewhere", || {
        let placed = running(manager, "web")?;
        let elsewhere = placed.iter().filter(|task| task.node != "h3").count();
        ensure!(elsewhere == 6, "{placed:?}");
        Ok(())
    })?;
    ensure!(begin.elapsed() < DEAD_TIME + REPLACED_WITHIN, "only after {:?}", begin.elapsed());
    ensure!(nodes(manager)?.contains(&"h3 Down Active".to_owned()), "{:?}", nodes(manager)?);

    lab.node(3).power_on()?;
    lab.node(3).start_daemon()?;
    nodes_become(manager, &["h1 Ready Active Leader", "h2 Ready Active", "h3 Ready Active"])?;
    let after = settled(manager, "web", 6)?;
    ensure!(after.iter().all(|task| task.node != "h3"), "tasks moved back by themselves: {after:?}");
    let kept = ids_beside(&before, "h3");
    ensure!(kept.iter().all(|id| after.iter().any(|task| task.id == *id)), "tasks of other nodes moved: {after:?}");
    wait::until("the old tasks to be gone", || {
        let left = lab.node(3).ok(&["ps", "-q"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    manager.ok(&["service", "scale", "--detach", "web=9"])?;
    let scaled = settled(manager, "web", 9)?;
    ensure!(spread(&scaled).values().all(|count| *count == 3), "{scaled:?}");
    Ok(())
}

fn nodes_leave_and_are_removed(lab: &mut Lab) -> Result<()> {
    formed_with(lab, 1, &["--dispatcher-heartbeat", HEARTBEAT])?;
    let manager = lab.node(1);
    create(manager, "web", &["--replicas", "3", "busybox", "sleep", "100000"])?;
    settled(manager, "web", 3)?;
    let said = manager.refused(&["node", "rm", "h2"])?;
    ensure!(said.contains("is not down and can't be removed"), "{said}");
    ensure!(lab.node(2).ok(&["swarm", "leave"])? == "Node left the swarm.");
    ensure!(lab.node(2).ok(&["ps", "-aq"])?.is_empty(), "a node that left keeps tasks");
    nodes_become(manager, &["h1 Ready Active Leader", "h2 Down Active", "h3 Ready Active"])?;
    let placed = settled(manager, "web", 3)?;
    ensure!(!spread(&placed).contains_key("h2"), "{placed:?}");
    ensure!(manager.ok(&["node", "rm", "h2"])? == "h2");

    // Removed by force while it lives: it is locked out and can come back only by token.
    ensure!(manager.ok(&["node", "rm", "--force", "h3"])? == "h3");
    nodes_become(manager, &["h1 Ready Active Leader"])?;
    let placed = settled(manager, "web", 3)?;
    ensure!(spread(&placed).len() == 1, "{placed:?}");
    lab.node(3).ok(&["swarm", "leave", "--force"])?;
    let token = manager.ok(&["swarm", "join-token", "--quiet", "worker"])?;
    let remote = format!("{}:2377", manager.address());
    for number in [2, 3] {
        lab.node(number).ok(&["swarm", "join", "--token", &token, &remote])?;
    }
    nodes_become(manager, &["h1 Ready Active Leader", "h2 Ready Active", "h3 Ready Active"])?;
    manager.ok(&["service", "scale", "--detach", "web=9"])?;
    ensure!(spread(&settled(manager, "web", 9)?).len() == 3);

    let rotated = manager.ok(&["swarm", "join-token", "--quiet", "--rotate", "worker"])?;
    ensure!(rotated != token);
    lab.node(3).ok(&["swarm", "leave"])?;
    let said = lab.node(3).refused(&["swarm", "join", "--token", &token, &remote])?;
    ensure!(said.contains("token"), "{said}");
    lab.node(3).ok(&["swarm", "join", "--token", &rotated, &remote])?;

    Ok(())
}
