//! A storm: services, tasks, machines and cables do what they want, and whenever it is quiet
//! everything agrees. A seed says what happens in which order; `SKEP_TEST_SEED` repeats one,
//! `SKEP_TEST_ROUNDS=40` storms for ten minutes.

use crate::network_truth::agrees;
use crate::swarm::{all_ready, create, create_patiently, formed, on_all, settled_within};
use crate::{Scenario, rounds, say};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Lab, Node, Options, wait};
use std::time::{Duration, Instant, SystemTime};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "a_storm_leaves_no_difference",
    options: || Options::for_test(5),
    run: storm,
    every_client: false,
}];

/// Quiet points in a normal run.
const ROUNDS: usize = 3;
/// What happens between two quiet points.
const EVENTS: usize = 6;
const REPLICAS_MAX: usize = 6;
/// The longest pause between two events.
const PAUSE_MAX_MS: usize = 400;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);
const SERVICES: [(&str, &str, &str); 3] =
    [("alpha", "one", "8081:80"), ("beta", "one", "8082:80"), ("gamma", "two", "8083:80")];
const GUEST: (&str, &str) = ("guest", "guests");

/// Chance from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

fn seed() -> u64 {
    let asked = std::env::var("SKEP_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    asked.unwrap_or_else(clock)
}

struct Storm<'a> {
    lab: &'a Lab,
    dice: Dice,
    replicas: [usize; SERVICES.len()],
    guest: bool,
    version: usize,
    /// What happened since the last quiet point.
    events: Vec<String>,
}

fn storm(lab: &mut Lab) -> Result<()> {
    let seed = seed();
    say(&format!("SKEP_TEST_SEED={seed}"));
    formed(lab, 3)?;
    on_all(lab, |node| node.build_whoami().map(drop))?;
    let manager = lab.node(1);
    for network in ["one", "two"] {
        manager.ok(&["network", "create", "-d", "overlay", network])?;
    }
    create_patiently(
        manager,
        "client",
        &["--mode", "global", "--network", "one", "--network", "two", "busybox", "sleep", "100000"],
    )?;
    for (name, network, port) in SERVICES {
        let order = if name == "beta" { "start-first" } else { "stop-first" };
        create_patiently(
            manager,
            name,
            &["--network", network, "-p", port, "--update-order", order, "--replicas", "3", "whoami"],
        )?;
    }
    let mut storm =
        Storm { lab, dice: Dice(seed), replicas: [3; SERVICES.len()], guest: false, version: 0, events: Vec::new() };
    storm.quiet().context("before the storm")?;
    for round in 1..=rounds(ROUNDS) {
        let outcome = (0..EVENTS).try_for_each(|_| storm.event()).and_then(|()| storm.quiet());
        outcome.with_context(|| format!("SKEP_TEST_SEED={seed}, round {round}, after {}", storm.events.join("; ")))?;
    }
    Ok(())
}

impl Storm<'_> {
    fn event(&mut self) -> Result<()> {
        let number = 1 + self.dice.below(self.lab.nodes().len());
        let node = self.lab.node(number);
        match self.dice.below(12) {
            0..=2 => self.scale()?,
            3 => self.update()?,
            4 | 5 => self.kill_task(node)?,
            6 => {
                self.note(format!("netd of {} dies", node.name()));
                // Between two of them there is none to kill.
                wait::until("a netd to kill", || node.kill_netd())?;
            }
            7 => {
                self.note(format!("daemon of {} dies", node.name()));
                node.kill_daemon()?;
                node.start_daemon()?;
            }
            8 => {
                self.note(format!("{} reboots", node.name()));
                node.power_off()?;
                node.power_on()?;
                node.start_daemon()?;
            }
            9 => {
                let other = 1 + self.dice.below(self.lab.nodes().len());
                self.note(format!("{} and {} are cut off from each other", number, other));
                self.lab.part(&[number], &[other])?;
            }
            10 => {
                self.note(format!("cable of {} is out", node.name()));
                self.lab.cut(&[number])?;
                self.pause();
                self.lab.mend(&[number])?;
            }
            _ => self.guest()?,
        }
        self.pause();
        Ok(())
    }

    fn note(&mut self, event: String) {
        if std::env::var_os("SKEP_TEST_SHOW_COMMANDS").is_some() {
            say(&event);
        }
        self.events.push(event);
    }

    /// Time in which what was begun goes on, or not.
    fn pause(&mut self) {
        std::thread::sleep(Duration::from_millis(self.dice.below(PAUSE_MAX_MS) as u64));
    }

    /// A verb that may have to wait for the next leader.
    fn told(&self, args: &[&str]) -> Result<()> {
        wait::until("a manager that writes", || self.lab.node(1).ok(args).map(drop))
    }

    /// The same for a removal, of which the answer may have been lost.
    fn gone(&self, args: &[&str]) -> Result<()> {
        wait::until("a manager that removes", || match self.lab.node(1).ok(args) {
            Err(error) if !format!("{error:#}").to_lowercase().contains("not found") => Err(error),
            _ => Ok(()),
        })
    }

    fn scale(&mut self) -> Result<()> {
        let at = self.dice.below(SERVICES.len());
        let count = self.dice.below(REPLICAS_MAX + 1);
        self.note(format!("{} is scaled to {count}", SERVICES[at].0));
        self.replicas[at] = count;
        self.told(&["service", "scale", "--detach", &format!("{}={count}", SERVICES[at].0)])
    }

    fn update(&mut self) -> Result<()> {
        let name = SERVICES[self.dice.below(SERVICES.len())].0;
        self.version += 1;
        self.note(format!("{name} is updated"));
        let variable = format!("VERSION={}", self.version);
        self.told(&["service", "update", "--detach", "--no-resolve-image", "--env-add", &variable, name])
    }

    fn kill_task(&mut self, node: &Node) -> Result<()> {
        let name = SERVICES[self.dice.below(SERVICES.len())].0;
        let ids = node.ok(&["ps", "-q", "--filter", &format!("name={name}.")])?;
        let ids: Vec<&str> = ids.lines().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.dice.below(ids.len())];
        self.note(format!("a task of {name} on {} dies", node.name()));
        // It may have ended by itself meanwhile.
        let outcome = node.ok(&["kill", id]);
        ensure!(outcome.is_ok() || !node.ok(&["ps", "-q"])?.contains(id), "{outcome:?}");
        Ok(())
    }

    /// A service with a network of its own comes or goes.
    fn guest(&mut self) -> Result<()> {
        let (service, network) = GUEST;
        self.guest = !self.guest;
        if self.guest {
            self.note("a guest comes".into());
            // The last one's network may still be on its way out, under the same name.
            wait::until("a network for the guest", || {
                match self.lab.node(1).ok(&["network", "create", "-d", "overlay", network]) {
                    Err(error) if !format!("{error:#}").contains("already exists") => return Err(error),
                    _ => {}
                }
                let args = ["--network", network, "-p", "8090:80", "--replicas", "4", "whoami"];
                match create(self.lab.node(1), service, &args) {
                    Err(error) if !format!("{error:#}").contains("name conflicts with") => Err(error),
                    _ => Ok(()),
                }
            })
        } else {
            self.note("the guest goes".into());
            self.gone(&["service", "rm", service])?;
            self.gone(&["network", "rm", network])
        }
    }

    fn quiet(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.lab.heal()?;
        all_ready(self.lab, 3)?;
        for ((name, _, _), count) in SERVICES.iter().zip(self.replicas) {
            settled_within(SETTLE_TIMEOUT, self.lab.node(1), name, count)?;
        }
        let settled = begin.elapsed();
        let store = agrees(self.lab, "client")?;
        let guests = store.services.iter().filter(|service| service.name == GUEST.0).count();
        ensure!(guests == usize::from(self.guest), "{guests} guests");
        say(&format!("{} events; settled after {settled:?}, agreed after {:?}", self.events.len(), begin.elapsed()));
        self.events.clear();
        Ok(())
    }
}
