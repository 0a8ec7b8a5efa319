//! Managers made of workers and workers of managers.

use crate::Scenario;
use crate::swarm::{all_ready, create, formed, leader, nodes, nodes_become, settled};
use anyhow::{Result, ensure};
use skep_conformance::{Client, Lab, Options, wait};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "promotion_and_demotion",
        options: || Options::for_test(4),
        run: promotion_and_demotion,
        every_client: true,
    },
    Scenario {
        name: "steps_that_break_quorum_are_refused",
        options: || Options::for_test(3),
        run: steps_that_break_quorum_are_refused,
        every_client: false,
    },
    Scenario {
        name: "tasks_move_back_and_say_why_they_wait",
        options: || Options::for_test(3),
        run: tasks_move_back_and_say_why_they_wait,
        every_client: false,
    },
    Scenario {
        name: "jobs_run_to_their_end",
        options: || Options::for_test(3),
        run: jobs_run_to_their_end,
        every_client: true,
    },
];

fn promotion_and_demotion(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    create(lab.node(1), "web", &["--replicas", "4", "busybox", "sleep", "100000"])?;
    let before = settled(lab.node(1), "web", 4)?;
    ensure!(lab.node(1).ok(&["node", "promote", "h2", "h3"])?.contains("Node h2 promoted to a manager in the swarm."));
    let three = ["h1 Ready Active Leader", "h2 Ready Active Reachable", "h3 Ready Active Reachable", "h4 Ready Active"];
    nodes_become(lab.node(1), &three)?;
    for number in [2, 3] {
        wait::until("the new manager to answer", || {
            let seen = nodes(lab.node(number))?;
            ensure!(seen == three, "{seen:?}");
            Ok(())
        })?;
    }
    ensure!(lab.node(2).ok(&["node", "promote", "h3"])?.contains(" is already a manager."));
    // A manager that leads hands over before it becomes a worker.
    ensure!(lab.node(2).ok(&["node", "demote", "h1"])?.contains("Manager h1 demoted in the swarm."));
    wait::until("another leader, and a worker less", || {
        let seen = nodes(lab.node(2))?;
        let leaders = seen.iter().filter(|row| row.ends_with(" Leader")).count();
        ensure!(leaders == 1 && seen[0] == "h1 Ready Active", "{seen:?}");
        Ok(())
    })?;
    wait::until("the demoted manager to be a worker", || {
        let said = lab.node(1).refused(&["node", "ls"])?;
        ensure!(said.contains("Worker nodes can't be used to view or modify cluster state."), "{said}");
        Ok(())
    })?;
    let after = settled(lab.node(2), "web", 4)?;
    let ids = |tasks: &[crate::swarm::Task]| crate::swarm::ids_beside(tasks, "");
    ensure!(ids(&before) == ids(&after), "tasks were replaced: {before:?} {after:?}");
    ensure!(lab.node(2).ok(&["node", "promote", "h1"])?.contains("Node h1 promoted"));
    wait::until("the old leader to answer again", || {
        let seen = nodes(lab.node(1))?;
        ensure!(seen[0] == "h1 Ready Active Reachable", "{seen:?}");
        Ok(())
    })
}

fn steps_that_break_quorum_are_refused(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let first = lab.node(1);
    let said = lab.node(2).refused(&["swarm", "leave"])?;
    ensure!(
        said.contains("You are attempting to leave the swarm on a node that is participating as a manager."),
        "{said}"
    );
    lab.node(3).kill_daemon()?;
    wait::until("the dead manager to be unreachable", || {
        let seen = nodes(first)?;
        ensure!(seen.iter().any(|row| row.starts_with("h3 ") && row.ends_with(" Unreachable")), "{seen:?}");
        Ok(())
    })?;
    let said = first.refused(&["node", "demote", "h2"])?;
    ensure!(said.contains("quorum"), "{said}");
    lab.node(3).start_daemon()?;
    all_ready(lab, 3)?;
    // Without a majority nothing is written, and the reason is the reference's.
    let leads = leader(lab, first)?.number();
    let others: Vec<usize> = (1..=3).filter(|number| *number != leads).collect();
    for number in &others {
        lab.node(*number).kill_daemon()?;
    }
    wait::until("the last manager to say that it has no leader", || {
        let said = lab.node(leads).refused(&["service", "create", "--detach", "--no-resolve-image", "busybox"])?;
        ensure!(said.contains("The swarm does not have a leader."), "{said}");
        Ok(())
    })?;
    for number in others {
        lab.node(number).start_daemon()?;
    }
    all_ready(lab, 3)?;
    let remaining = ["h1 Ready Active Leader"];
    for number in [3, 2] {
        wait::until("the demotion", || first.ok(&["node", "demote", &format!("h{number}")]))?;
        wait::until("a worker", || {
            let seen = nodes(first)?;
            ensure!(seen.iter().any(|row| *row == format!("h{number} Ready Active")), "{seen:?}");
            Ok(())
        })?;
    }
    let said = first.refused(&["node", "demote", "h1"])?;
    ensure!(said.contains("attempting to demote the last manager of the swarm"), "{said}");
    for number in [2, 3] {
        lab.node(number).ok(&["swarm", "leave"])?;
        wait::until("the removal", || first.ok(&["node", "rm", &format!("h{number}")]))?;
    }
    nodes_become(first, &remaining)
}

fn tasks_move_back_and_say_why_they_wait(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let manager = lab.node(1);
    let skep = manager.with(Client::skep());
    create(manager, "web", &["--replicas", "6", "busybox", "sleep", "100000"])?;
    settled(manager, "web", 6)?;
    manager.ok(&["node", "update", "--availability", "drain", "h3"])?;
    settled(manager, "web", 6)?;
    manager.ok(&["node", "update", "--availability", "active", "h3"])?;
    let planned = skep.ok(&["service", "rebalance", "--dry-run", "web"])?;
    ensure!(planned.contains("2 tasks would be moved") && planned.matches(" -> h3").count() == 2, "{planned}");
    ensure!(!crate::swarm::spread(&settled(manager, "web", 6)?).contains_key("h3"), "a dry run moved tasks");
    let moved = skep.ok(&["service", "rebalance", "web"])?;
    ensure!(moved.contains("2 tasks to be moved"), "{moved}");
    wait::until("two tasks on each machine", || {
        let spread = crate::swarm::spread(&settled(manager, "web", 6)?);
        ensure!(spread.len() == 3 && spread.values().all(|count| *count == 2), "{spread:?}");
        Ok(())
    })?;
    let again = skep.ok(&["service", "rebalance", "web"])?;
    ensure!(again.contains("nothing to move"), "{again}");

    create(manager, "waits", &["--constraint", "node.labels.disk==ssd", "busybox", "sleep", "100000"])?;
    wait::until("the reason", || {
        let why = skep.ok(&["service", "why", "waits"])?;
        ensure!(why.contains("disk") || why.contains("constraint"), "{why}");
        Ok(())
    })
}

fn jobs_run_to_their_end(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let manager = lab.node(1);
    let job = ["--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2", "busybox", "true"];
    create(manager, "five", &job)?;
    create(manager, "everywhere", &["--mode", "global-job", "busybox", "true"])?;
    for (name, count, ends) in [("five", 5, "(5/5 completed)"), ("everywhere", 3, "(3/3 completed)")] {
        wait::until(name, || {
            let tasks = crate::swarm::tasks(manager, name)?;
            let done = tasks.iter().filter(|task| task.current.starts_with("Complete")).count();
            ensure!(done == count, "{tasks:?}");
            let row =
                manager.ok(&["service", "ls", "--filter", &format!("name={name}"), "--format", "{{.Replicas}}"])?;
            ensure!(row.ends_with(ends), "{row}");
            Ok(())
        })?;
    }
    Ok(())
}
