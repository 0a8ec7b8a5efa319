//! Managers that die, are cut off, and are gone altogether.

use crate::Scenario;
use crate::swarm::{all_ready, create, formed, leader, running, settled};
use crate::writer::{Writers, same_state};
use crate::{rounds, say};
use anyhow::{Result, ensure};
use skep_conformance::{Cli, Lab, Node, Options, wait};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_killed_leader_costs_no_write",
        options: || Options::for_test(3),
        run: a_killed_leader_costs_no_write,
        every_client: false,
    },
    Scenario {
        name: "a_leader_cut_off_refuses_writes",
        options: || Options::for_test(3),
        run: a_leader_cut_off_refuses_writes,
        every_client: false,
    },
    Scenario {
        name: "tasks_outlive_their_managers",
        options: || Options::for_test(5),
        run: tasks_outlive_their_managers,
        every_client: false,
    },
];

/// Rounds in a normal run; `SKEP_TEST_ROUNDS` asks for more.
const ROUNDS: usize = 3;
const CLIENTS: usize = 4;
/// Writes between two kills.
const WRITES: u64 = 40;
/// What a leader's end may cost at most.
const WORST: Duration = Duration::from_secs(3);

fn clis(lab: &Lab, managers: &[usize]) -> Vec<Cli> {
    managers.iter().map(|number| (**lab.node(*number)).clone()).collect()
}

fn a_killed_leader_costs_no_write(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let managers = clis(lab, &[1, 2, 3]);
    let writers = Writers::start(&managers, CLIENTS);
    writers.wait_for(WRITES)?;
    let mut gaps = Vec::new();
    for _ in 0..rounds(ROUNDS) {
        let victim = leader(lab, lab.node(1))?;
        let killed = Instant::now();
        victim.kill_daemon()?;
        gaps.push(writers.accepted_after(killed)?);
        writers.wait_for(WRITES)?;
        victim.start_daemon()?;
        all_ready(lab, 3)?;
    }
    let accepted = writers.finish(&managers)?;
    same_state(lab, &[1, 2, 3])?;
    let in_order = gaps.clone();
    gaps.sort();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    say(&format!(
        "{} leaders killed, {accepted} writes accepted; until the next one: median {median:?}, worst {worst:?}",
        gaps.len()
    ));
    ensure!(worst <= WORST, "{in_order:?}");
    Ok(())
}

/// A write at one manager, with what it answers.
fn write(node: &Node, name: &str) -> Result<(u16, String)> {
    let spec = serde_json::json!({
        "Name": name,
        "TaskTemplate": { "ContainerSpec": { "Image": "busybox" } },
        "Mode": { "Replicated": { "Replicas": 0 } },
    });
    node.request("POST", "/services/create", Some(&spec), Duration::from_secs(20))
}

fn a_leader_cut_off_refuses_writes(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let old = leader(lab, lab.node(1))?;
    let others: Vec<usize> = (1..=3).filter(|number| *number != old.number()).collect();
    create(old, "before", &["--replicas", "0", "busybox", "true"])?;
    lab.part(&[old.number()], &others)?;
    let parted = Instant::now();
    // It must never say yes: nobody else can hear of it.
    wait::within(Duration::from_secs(5), "the old leader to refuse", || {
        let (status, text) = write(old, "lost")?;
        ensure!(status >= 500, "{status} {text}");
        Ok(())
    })?;
    let refused = parted.elapsed();
    let begin = Instant::now();
    let (status, text) = write(old, "lost-too")?;
    ensure!(status >= 500 && begin.elapsed() < Duration::from_secs(6), "{status} {text} after {:?}", begin.elapsed());
    let majority = lab.node(others[0]);
    wait::within(Duration::from_secs(10), "the majority to go on", || {
        let (status, text) = write(majority, "during")?;
        ensure!(status == 201 || text.contains("name conflicts"), "{status} {text}");
        Ok(())
    })?;
    say(&format!("cut off: refuses after {refused:?}, the majority writes after {:?}", parted.elapsed()));
    let names = majority.ok(&["service", "ls", "--format", "{{.Name}}"])?;
    ensure!(names.contains("before") && names.contains("during"), "{names}");
    lab.heal()?;
    all_ready(lab, 3)?;
    same_state(lab, &[1, 2, 3])?;
    for number in 1..=3 {
        let names = lab.node(number).ok(&["service", "ls", "--format", "{{.Name}}"])?;
        ensure!(names.contains("during") && !names.contains("lost"), "{names}");
    }
    write(old, "after").and_then(|(status, text)| {
        ensure!(status == 201, "{status} {text}");
        Ok(())
    })
}

fn tasks_outlive_their_managers(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let manager = lab.node(1);
    create(manager, "web", &["--replicas", "4", "--constraint", "node.role==worker", "busybox", "sleep", "100000"])?;
    let before = settled(manager, "web", 4)?;
    let containers = |number: usize| lab.node(number).ok(&["ps", "-q", "--no-trunc"]);
    let held = (containers(4)?, containers(5)?);

    // All managers away from the workers, for less than the time after which a node is missed.
    lab.part(&[1, 2, 3], &[4, 5])?;
    ensure!((containers(4)?, containers(5)?) == held, "tasks ended when the managers were cut off");
    lab.heal()?;
    all_ready(lab, 3)?;
    ensure!(running(manager, "web")?.len() == 4);
    let same = |when: &str| -> Result<()> {
        let after = settled(manager, "web", 4)?;
        let ids = |tasks: &[crate::swarm::Task]| crate::swarm::ids_beside(tasks, "");
        ensure!(ids(&before) == ids(&after), "{when}: tasks were replaced: {before:?} {after:?}");
        ensure!((containers(4)?, containers(5)?) == held, "{when}: containers were replaced");
        Ok(())
    };
    same("cut off")?;

    // All managers dead at once, their disks kept.
    for number in 1..=3 {
        lab.node(number).kill_daemon()?;
    }
    ensure!((containers(4)?, containers(5)?) == held, "tasks ended with their managers");
    for number in 1..=3 {
        lab.node(number).start_daemon()?;
    }
    all_ready(lab, 3)?;
    same("killed")?;
    manager.ok(&["service", "scale", "--detach", "web=6"])?;
    settled(manager, "web", 6).map(drop)
}
