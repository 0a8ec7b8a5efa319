//! Harm: links cut, one way or both, held, slow or lossy; managers and agents that lose power.
//! A seed takes a few kinds of it, so that each is seen alone and together with others.

use crate::shared::{AGENTS, MANAGERS, agent_name, manager_name};
use skep_sim::dice::Dice;
use std::time::Duration;
use turmoil::Sim;

/// Faults at once.
const FAULTS_MAX: usize = 3;
/// Chance per step of one more, where one may be.
const BEGINS_PER_MILLE: u32 = 3;
const LASTS_MS: (u64, u64) = (150, 4_000);
/// Latency of a link in order, and of a slow one.
const LATENCY_MS_MAX: u64 = 8;
const SLOW_MS: (u64, u64) = (40, 250);
/// Chance that a message breaks a lossy link, in ten thousand.
const LOSS_MAX: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A manager hears nobody and nobody hears it.
    Isolate,
    /// The leader likewise.
    IsolateLeader,
    /// Messages of one host to another are lost.
    OneWay,
    /// The managers are cut from all agents.
    ManagersFromAgents,
    /// Messages between two hosts wait.
    Hold,
    Slow,
    Lossy,
    CutManager,
    CutLeader,
    /// All managers lose power together.
    CutAll,
    CutAgent,
}

const KINDS: [Kind; 11] = [
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::OneWay,
    Kind::ManagersFromAgents,
    Kind::Hold,
    Kind::Slow,
    Kind::Lossy,
    Kind::CutManager,
    Kind::CutLeader,
    Kind::CutAll,
    Kind::CutAgent,
];

/// What the world does to hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Power {
    Cut(String),
    Back(String),
}

type Link = (String, String);

enum Undo {
    Repair(Vec<Link>),
    RepairOneWay(Link),
    Release(Link),
    Speed(Link),
    Loss(Link),
    Power(String),
}

pub(crate) struct Faults {
    dice: Dice,
    kinds: Vec<Kind>,
    active: Vec<(u64, Undo)>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "faults");
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| dice.chance(450)).collect();
        if kinds.is_empty() {
            kinds.push(Kind::CutLeader);
        }
        Self { dice, kinds, active: Vec::new() }
    }

    /// Ends what is over, begins what is due. `leader` is the manager that leads, if one does.
    pub(crate) fn step(
        &mut self,
        sim: &mut Sim<'_>,
        now_ms: u64,
        leader: Option<usize>,
        note: &mut dyn FnMut(String),
    ) -> Vec<Power> {
        let mut power = self.end(sim, |until| until <= now_ms, note);
        if self.active.len() < FAULTS_MAX && self.dice.chance(BEGINS_PER_MILLE) {
            power.extend(self.begin(sim, now_ms, leader, note));
        }
        power
    }

    /// Everything is in order from here on.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, note: &mut dyn FnMut(String)) -> Vec<Power> {
        let power = self.end(sim, |_| true, note);
        for link in links(&hosts(), &hosts()) {
            sim.set_link_fail_rate(link.0.as_str(), link.1.as_str(), 0.0);
            sim.release(link.0.as_str(), link.1.as_str());
        }
        power
    }

    fn end(&mut self, sim: &mut Sim<'_>, over: impl Fn(u64) -> bool, note: &mut dyn FnMut(String)) -> Vec<Power> {
        let (ended, active) = std::mem::take(&mut self.active).into_iter().partition(|(until, _)| over(*until));
        self.active = active;
        let mut power = Vec::new();
        for (_, undo) in ended as Vec<(u64, Undo)> {
            match undo {
                Undo::Repair(links) => {
                    links.iter().for_each(|(a, b)| sim.repair(a.as_str(), b.as_str()));
                    note(format!("links repaired: {}", links.len()));
                }
                Undo::RepairOneWay((from, to)) => {
                    sim.repair_oneway(from.as_str(), to.as_str());
                    note(format!("{from} reaches {to} again"));
                }
                Undo::Release((a, b)) => {
                    sim.release(a.as_str(), b.as_str());
                    note(format!("{a} and {b} get what was held"));
                }
                Undo::Speed((a, b)) => {
                    set_latency(sim, &a, &b, 0, LATENCY_MS_MAX);
                    note(format!("{a} and {b} are fast again"));
                }
                Undo::Loss((a, b)) => {
                    sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.0);
                    sim.release(a.as_str(), b.as_str());
                    note(format!("{a} and {b} lose nothing any more"));
                }
                Undo::Power(host) => power.push(Power::Back(host)),
            }
        }
        power
    }

    fn begin(
        &mut self,
        sim: &mut Sim<'_>,
        now_ms: u64,
        leader: Option<usize>,
        note: &mut dyn FnMut(String),
    ) -> Vec<Power> {
        let Some(kind) = self.dice.pick(&self.kinds).copied() else { return Vec::new() };
        let until = now_ms + self.dice.between(LASTS_MS.0, LASTS_MS.1);
        let manager = self.dice.below(MANAGERS);
        let led_by = leader.unwrap_or(manager);
        match kind {
            Kind::Isolate => self.isolate(sim, until, manager, note),
            Kind::IsolateLeader => self.isolate(sim, until, led_by, note),
            Kind::ManagersFromAgents => {
                let links = links(&managers(), &agents());
                links.iter().for_each(|(a, b)| sim.partition(a.as_str(), b.as_str()));
                note("managers are cut from agents".into());
                self.active.push((until, Undo::Repair(links)));
            }
            Kind::OneWay | Kind::Hold | Kind::Slow | Kind::Lossy => {
                let link = self.link();
                self.spoil_link(sim, until, kind, link, note);
            }
            Kind::CutManager => return self.cut(until, vec![manager_name(manager)]),
            Kind::CutLeader => return self.cut(until, vec![manager_name(led_by)]),
            Kind::CutAll => return self.cut(until, managers()),
            Kind::CutAgent => {
                let agent = self.dice.below(AGENTS);
                return self.cut(until, vec![agent_name(agent)]);
            }
        }
        Vec::new()
    }

    fn spoil_link(&mut self, sim: &mut Sim<'_>, until: u64, kind: Kind, (a, b): Link, note: &mut dyn FnMut(String)) {
        note(format!("{kind:?}: {a} and {b}"));
        let undo = match kind {
            Kind::OneWay => {
                sim.partition_oneway(a.as_str(), b.as_str());
                Undo::RepairOneWay((a, b))
            }
            Kind::Hold => {
                sim.hold(a.as_str(), b.as_str());
                Undo::Release((a, b))
            }
            Kind::Slow => {
                let latency = self.dice.between(SLOW_MS.0, SLOW_MS.1);
                set_latency(sim, &a, &b, latency / 4, latency);
                Undo::Speed((a, b))
            }
            _ => {
                let rate = self.dice.between(1, LOSS_MAX) as f64 / 10_000.0;
                sim.set_link_fail_rate(a.as_str(), b.as_str(), rate);
                Undo::Loss((a, b))
            }
        };
        self.active.push((until, undo));
    }

    fn isolate(&mut self, sim: &mut Sim<'_>, until: u64, manager: usize, note: &mut dyn FnMut(String)) {
        let name = manager_name(manager);
        let links = links(std::slice::from_ref(&name), &hosts());
        links.iter().for_each(|(a, b)| sim.partition(a.as_str(), b.as_str()));
        note(format!("{name} is isolated"));
        self.active.push((until, Undo::Repair(links)));
    }

    /// Hosts without power come back one by one.
    fn cut(&mut self, until: u64, hosts: Vec<String>) -> Vec<Power> {
        let is_off =
            |host: &String| self.active.iter().any(|(_, undo)| matches!(undo, Undo::Power(off) if off == host));
        let hosts: Vec<String> = hosts.into_iter().filter(|host| !is_off(host)).collect();
        for host in &hosts {
            let late = self.dice.between(0, 500);
            self.active.push((until + late, Undo::Power(host.clone())));
        }
        hosts.into_iter().map(Power::Cut).collect()
    }

    fn link(&mut self) -> Link {
        let manager = self.dice.below(MANAGERS);
        let others: Vec<String> = hosts().into_iter().filter(|host| *host != manager_name(manager)).collect();
        let other = others[self.dice.below(others.len())].clone();
        if self.dice.chance(500) { (manager_name(manager), other) } else { (other, manager_name(manager)) }
    }
}

fn set_latency(sim: &Sim<'_>, a: &str, b: &str, least_ms: u64, most_ms: u64) {
    sim.set_link_latency(a, b, Duration::from_millis(least_ms));
    sim.set_link_max_message_latency(a, b, Duration::from_millis(most_ms));
}

fn managers() -> Vec<String> {
    (0..MANAGERS).map(manager_name).collect()
}

fn agents() -> Vec<String> {
    (0..AGENTS).map(agent_name).collect()
}

fn hosts() -> Vec<String> {
    managers().into_iter().chain(agents()).collect()
}

/// Between different hosts, each pair once.
fn links(some: &[String], others: &[String]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for a in some {
        for b in others.iter().filter(|b| *b != a) {
            if !links.contains(&(b.clone(), a.clone())) {
                links.push((a.clone(), b.clone()));
            }
        }
    }
    links
}
