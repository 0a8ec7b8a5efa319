//! Power cuts at random moments, on disks that lose what was not synced.

use crate::Scenario;
use crate::swarm::{all_ready, create, formed, settled};
use crate::writer::{PREFIX, Writers, same_state};
use crate::{rounds, say};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Cli, Lab, Node, Options, wait};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "power_cuts_of_the_only_manager_lose_no_write",
        options: || Options::for_test(1).images(1024),
        run: power_cuts_of_the_only_manager_lose_no_write,
        every_client: false,
    },
    Scenario {
        name: "power_cuts_of_any_manager_lose_no_write",
        options: || Options::for_test(3).images(1024),
        run: power_cuts_of_any_manager_lose_no_write,
        every_client: false,
    },
    Scenario {
        name: "power_cuts_lose_no_container_and_no_image",
        options: || Options::for_test(1).images(1024),
        run: power_cuts_lose_no_container_and_no_image,
        every_client: false,
    },
];

/// Rounds in a normal run; `SKEP_TEST_ROUNDS` asks for more.
const ROUNDS: usize = 3;
/// A power cut comes at most this many acknowledged writes after the last.
const WRITES_MAX: u64 = 60;

/// Numbers that differ from run to run; a failing run prints the moment it cut at.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(now.as_nanos() as u64 | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        // xorshift; good enough to choose a moment.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn off_and_on(node: &Node) -> Result<()> {
    node.power_off()?;
    node.power_on()?;
    node.start_daemon()
}

fn power_cuts_of_the_only_manager_lose_no_write(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let node = lab.node(1);
    create(node, "steady", &["--replicas", "2", "busybox", "sleep", "100000"])?;
    settled(node, "steady", 2)?;
    let managers = vec![(**node).clone()];
    let mut dice = Dice::new();
    let mut accepted = 0;
    for round in 1..=rounds(ROUNDS) {
        let writers = Writers::start(&managers, 4);
        writers.wait_for(1 + dice.below(WRITES_MAX))?;
        off_and_on(node)?;
        accepted += writers.finish(&managers).with_context(|| format!("power cut {round}"))?;
        // A new start, the tasks of the old one are dead: the same service runs again.
        settled(node, "steady", 2)?;
        remove_services(node, PREFIX)?;
    }
    say(&format!("{} power cuts of the only manager, {accepted} acknowledged writes kept", rounds(ROUNDS)));
    Ok(())
}

/// Clients number their services from the start again.
fn remove_services(node: &Node, prefix: &str) -> Result<()> {
    let names = node.ok(&["service", "ls", "--format", "{{.Name}}"])?;
    for name in names.lines().filter(|name| name.starts_with(prefix)) {
        node.ok(&["service", "rm", name])?;
    }
    Ok(())
}

fn power_cuts_of_any_manager_lose_no_write(lab: &mut Lab) -> Result<()> {
    formed(lab, 3)?;
    let node = lab.node(1);
    create(node, "steady", &["--replicas", "3", "busybox", "sleep", "100000"])?;
    settled(node, "steady", 3)?;
    let managers: Vec<Cli> = lab.nodes().iter().map(|node| (**node).clone()).collect();
    let writers = Writers::start(&managers, 4);
    let mut dice = Dice::new();
    for _ in 0..rounds(ROUNDS) {
        writers.wait_for(1 + dice.below(WRITES_MAX))?;
        let number = 1 + dice.below(3) as usize;
        off_and_on(lab.node(number))?;
        all_ready(lab, 3).with_context(|| format!("after a power cut of machine {number}"))?;
    }
    let accepted = writers.finish(&managers)?;
    same_state(lab, &[1, 2, 3])?;
    settled(node, "steady", 3)?;
    say(&format!("{} power cuts of managers, {accepted} acknowledged writes kept", rounds(ROUNDS)));
    Ok(())
}

/// Creates containers, volumes, networks and images without a pause; gives what was acknowledged.
fn engine_writer(cli: &Cli, round: usize, stop: &AtomicBool) -> Result<BTreeMap<String, &'static str>> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        let name = format!("r{round}n{number}");
        let (kind, args): (&str, Vec<&str>) = match number % 4 {
            0 => ("container", vec!["create", "--name", &name, "busybox", "true"]),
            1 => ("volume", vec!["volume", "create", &name]),
            2 => ("image", vec!["tag", "busybox", &name]),
            _ => ("network", vec!["network", "create", &name]),
        };
        // More bridges than a handful are slow to make and prove nothing more.
        if kind == "network" && number > 12 {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if cli.ok(&args).is_ok() {
            acknowledged.insert(name, kind);
        }
    }
    Ok(acknowledged)
}

fn power_cuts_lose_no_container_and_no_image(lab: &mut Lab) -> Result<()> {
    let node = lab.node(1);
    node.import_busybox()?;
    let mut dice = Dice::new();
    let mut kept = 0;
    for round in 1..=rounds(ROUNDS) {
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| -> Result<_> {
            let writer = scope.spawn(|| engine_writer(node, round, &stop));
            let volumes = 1 + dice.below(8) as usize;
            let prefix = format!("r{round}n");
            let seen = wait::within(Duration::from_secs(30), "the client", || {
                let count = node.ok(&["volume", "ls", "-q"])?.lines().filter(|name| name.starts_with(&prefix)).count();
                ensure!(count >= volumes, "{count} of {volumes}");
                Ok(())
            });
            let off = seen.and_then(|()| node.power_off());
            stop.store(true, Ordering::Relaxed);
            let acknowledged = writer.join().unwrap()?;
            off.map(|()| acknowledged)
        })?;
        node.power_on()?;
        node.start_daemon()?;
        for (name, kind) in &acknowledged {
            node.ok(&[kind, "inspect", name]).with_context(|| format!("{kind} {name} was acknowledged"))?;
        }
        for (name, _) in acknowledged.iter().filter(|(_, kind)| **kind == "container") {
            node.ok(&["start", "--attach", name])?;
        }
        ensure!(node.ok(&["run", "--rm", "busybox", "echo", "works"])? == "works");
        kept += acknowledged.len();
    }
    say(&format!("{} power cuts of an engine, {kept} acknowledged objects kept", rounds(ROUNDS)));
    Ok(())
}
