//! Reaching into tasks of other machines from every manager.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::terminal::Terminal;
use skep_conformance::{Ending, Lab, Node, Options, wait};
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "tasks_are_reached_from_every_manager", options, run: tasks_are_reached, every_client: true },
    Scenario { name: "logs_outlive_a_node_that_goes_and_comes", options, run: logs_outlive, every_client: false },
    Scenario { name: "a_follower_that_stops_reading_holds_up_nothing", options, run: slow_reader, every_client: false },
];

/// Two managers, of which the first leads, and a worker.
fn options() -> Options {
    Options::for_test(3)
}

/// Clients that read nothing of what they follow.
const FOLLOWERS: usize = 8;
/// Counts aloud, ten lines a second.
const COUNT: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done";

/// A task of `web` on every machine, slots in no order.
fn start(lab: &Lab, command: &str) -> Result<()> {
    lab.form_swarm(2, &[])?;
    for node in lab.nodes() {
        node.import_busybox()?;
    }
    let create = ["service", "create", "--detach", "--name", "web", "--replicas", "3", "--replicas-max-per-node", "1"];
    lab.node(1).ok(&[&create[..], &["busybox", "sh", "-c", command]].concat())?;
    wait::until("three tasks on three machines", || {
        let rows = lab.node(1).ok(&["service", "ps", "web", "--format", "{{.Node}} {{.CurrentState}}"])?;
        let running = rows.lines().filter(|row| row.contains("Running")).count();
        ensure!(running == 3, "{rows}");
        Ok(())
    })
}

/// `web.N` that runs on that machine.
fn slot_on(lab: &Lab, host: &str) -> Result<String> {
    let rows = lab.node(1).ok(&["service", "ps", "web", "--format", "{{.Node}} {{.Name}}"])?;
    let row = rows.lines().find_map(|row| row.strip_prefix(&format!("{host} ")));
    row.map(str::to_owned).with_context(|| rows.clone())
}

fn tasks_are_reached(lab: &mut Lab) -> Result<()> {
    start(lab, COUNT)?;
    for manager in [lab.node(1), lab.node(2)] {
        let mut seen = BTreeSet::new();
        for slot in ["web.1", "web.2", "web.3"] {
            let name = manager.ok(&["exec", slot, "hostname"])?;
            ensure!(manager.ok(&["exec", slot, "sh", "-c", "exit 7"]).is_err());
            ensure!(manager.ok(&["logs", "--tail", "1", slot])?.starts_with("line "));
            ensure!(manager.ok(&["top", slot])?.contains("sleep 0.1"));
            let id = manager.ok(&["container", "inspect", "--format", "{{.Id}}", slot])?;
            ensure!(id.starts_with(&name), "{slot} is {name}, of {id}");
            ensure!(manager.ok(&["exec", &id, "hostname"])? == name, "by the container's id");
            seen.insert(name);
        }
        ensure!(seen.len() == 3, "three containers answer: {seen:?}");
        far_shell(manager, &slot_on(lab, "h3")?)?;
        let all = manager.ok(&["service", "logs", "--tail", "2", "web"])?;
        for slot in ["web.1.", "web.2.", "web.3."] {
            ensure!(
                all.lines().filter(|line| line.starts_with(slot) && line.contains("| line ")).count() == 2,
                "{all}"
            );
        }
    }
    // A worker answers for its own tasks alone, and nobody for containers that are no tasks.
    let (own, other) = (slot_on(lab, "h3")?, slot_on(lab, "h1")?);
    lab.node(3).ok(&["exec", &own, "true"])?;
    ensure!(lab.node(3).refused(&["exec", &other, "true"])?.contains("No such container"));
    let private = lab.node(3).ok(&["run", "-d", "busybox", "sleep", "10000"])?;
    ensure!(lab.node(1).refused(&["exec", &private, "true"])?.contains("No such container"));
    Ok(())
}

/// A terminal, input, and files over two machines.
fn far_shell(manager: &Node, slot: &str) -> Result<()> {
    // Some clients tell the size only once the command runs.
    let size = "until stty size 2>/dev/null | grep \"33 101\"; do :; done";
    let shown = Terminal::start(&manager.command(&["exec", "-it", slot, "sh", "-c", size]), 33, 101)?.finish()?;
    ensure!(shown.contains("33 101"), "{shown}");
    let file = manager.scratch().join("sent");
    fs::write(&file, "x".repeat(300_000))?;
    manager.ok(&["cp", &file.to_string_lossy(), &format!("{slot}:/tmp/sent")])?;
    ensure!(manager.ok(&["exec", slot, "wc", "-c", "/tmp/sent"])?.starts_with("300000"));
    let back = manager.scratch().join("back");
    manager.ok(&["cp", &format!("{slot}:/tmp/sent"), &back.to_string_lossy()])?;
    ensure!(fs::read(&back)? == fs::read(&file)?);
    Ok(())
}

fn logs_outlive(lab: &mut Lab) -> Result<()> {
    start(lab, COUNT)?;
    let far = slot_on(lab, "h3")?;
    let followed = lab.node(2).scratch().join("followed");
    let output = fs::File::create(&followed)?;
    let mut follow = lab.node(2).command(&["service", "logs", "--follow", "web"]);
    let _follower = Ending(follow.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?);
    let lines_of_far = || -> Result<Vec<String>> {
        let all = fs::read_to_string(&followed)?;
        Ok(all.lines().filter(|line| line.starts_with(&far)).map(str::to_owned).collect())
    };
    let numbers = || -> Result<Vec<u64>> {
        Ok(lines_of_far()?.iter().filter_map(|line| line.split("| line ").nth(1)?.parse().ok()).collect())
    };
    wait::until("the first lines", || {
        ensure!(numbers()?.len() > 5);
        Ok(())
    })?;
    lab.node(3).kill_daemon()?;
    wait::until("the warning", || {
        let lines = lines_of_far()?;
        ensure!(lines.iter().any(|line| line.contains("warning: this task's logs are interrupted")), "{lines:?}");
        Ok(())
    })?;
    let refusal = lab.node(1).refused(&["exec", &far, "true"])?;
    ensure!(refusal.contains("node h3 cannot be reached"), "{refusal}");
    let partial = lab.node(1).command(&["service", "logs", "--tail", "1", "web"]).output()?;
    let (lines, warning) = (String::from_utf8_lossy(&partial.stdout), String::from_utf8_lossy(&partial.stderr));
    ensure!(lines.lines().count() == 2, "the others' lines are there: {lines}");
    ensure!(
        warning.contains("warning: incomplete log stream") && warning.contains(&format!("task {far}")),
        "{warning}"
    );

    let before = numbers()?.len();
    lab.node(3).start_daemon()?;
    wait::until("the lines to go on", || {
        ensure!(numbers()?.len() > before + 30);
        Ok(())
    })?;
    let numbers = numbers()?;
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(gap.is_none(), "no line is lost or told twice: {gap:?}");
    lab.node(1).ok(&["exec", &far, "true"]).map(drop)
}

fn slow_reader(lab: &mut Lab) -> Result<()> {
    start(lab, "yes 0123456789012345678901234567890123456789")?;
    let far = slot_on(lab, "h3")?;
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        // Nobody reads the other end of the pipe.
        let mut follow = lab.node(2).command(&["logs", "--follow", &far]);
        followers.push(Ending(follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?));
    }
    // The agents' heartbeats and other tunnels go their own ways.
    for _ in 0..20 {
        lab.node(2).ok(&["exec", &far, "true"])?;
    }
    let nodes = lab.node(1).ok(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
    ensure!(nodes.lines().all(|row| row.ends_with("Ready")), "{nodes}");
    drop(followers);
    Ok(())
}
