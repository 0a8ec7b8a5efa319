//! What goes wrong. Every seed gets its own subset of the kinds of faults, so that rare
//! combinations are not always hidden behind common ones.

use crate::dice::Dice;
use crate::manager::Manager;
use crate::net::{Net, Place};
use crate::world::{SimNode, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ManagerCrash,
    ManagerCut,
    LeaderShake,
    AgentCrash,
    AgentCrashWithoutRecords,
    PowerLoss,
    NodeCut,
    NodeCutOneWay,
    LongAbsence,
    Loss,
    Duplicates,
    Delay,
    SlowPulls,
    StartFailures,
    Exits,
    DiskFull,
    IgnoredStops,
    ClockSkew,
    SlowCommits,
}

const ALL: [Kind; 19] = [
    Kind::ManagerCrash,
    Kind::ManagerCut,
    Kind::LeaderShake,
    Kind::AgentCrash,
    Kind::AgentCrashWithoutRecords,
    Kind::PowerLoss,
    Kind::NodeCut,
    Kind::NodeCutOneWay,
    Kind::LongAbsence,
    Kind::Loss,
    Kind::Duplicates,
    Kind::Delay,
    Kind::SlowPulls,
    Kind::StartFailures,
    Kind::Exits,
    Kind::DiskFull,
    Kind::IgnoredStops,
    Kind::ClockSkew,
    Kind::SlowCommits,
];

/// Chance per tick that one more fault of an active kind happens.
const FAULT_PER_MILLE: u32 = 12;

/// What a fault is undone by.
#[derive(Debug, Clone, Copy)]
enum Cure {
    StartManager(usize),
    StartNode(usize),
    Unblock(Place),
    FreeDisk(usize),
}

pub struct Faults {
    active: Vec<Kind>,
    cures: Vec<(u64, Cure)>,
    dice: Dice,
}

impl Faults {
    pub fn new(seed: u64, net: &mut Net, managers: &mut [Manager], nodes: &mut [SimNode]) -> Self {
        let mut dice = Dice::new(seed, "faults");
        let share = [0, 150, 300, 500][dice.below(4)];
        let active: Vec<Kind> = ALL.into_iter().filter(|_| dice.chance(share)).collect();
        let has = |kind| active.contains(&kind);
        if has(Kind::Loss) {
            net.loss_per_mille = dice.between(20, 300) as u32;
        }
        if has(Kind::Duplicates) {
            net.duplicate_per_mille = dice.between(20, 300) as u32;
        }
        net.delay_max_ms = if has(Kind::Delay) { dice.between(500, 4_000) } else { 100 };
        for node in nodes {
            let conditions = &mut node.conditions;
            conditions.pull_max_ms = if has(Kind::SlowPulls) && dice.chance(500) { 30_000 } else { 1_000 };
            conditions.start_failures_per_mille = if has(Kind::StartFailures) { 200 } else { 0 };
            conditions.exits_per_mille = if has(Kind::Exits) { 6 } else { 0 };
            conditions.ignore_stop = has(Kind::IgnoredStops) && dice.chance(500);
        }
        for manager in managers {
            manager.skew_ms = if has(Kind::ClockSkew) { dice.between(0, 6_000) as i64 - 3_000 } else { 0 };
        }
        Self { active, cures: Vec::new(), dice }
    }

    pub fn tick(&mut self, world: &mut World) {
        world.raft.commit_max_ms = if self.active.contains(&Kind::SlowCommits) { 3_000 } else { 400 };
        let due: Vec<Cure> = self.cures.iter().filter(|(at, _)| *at <= world.now_ms).map(|(_, cure)| *cure).collect();
        self.cures.retain(|(at, _)| *at > world.now_ms);
        due.into_iter().for_each(|cure| apply(world, cure));
        if self.dice.chance(FAULT_PER_MILLE * self.active.len().min(6) as u32)
            && let Some(kind) = self.dice.pick(&self.active).copied()
        {
            self.strike(world, kind);
        }
    }

    fn strike(&mut self, world: &mut World, kind: Kind) {
        let manager = self.dice.below(world.managers.len());
        let node = self.dice.below(world.nodes.len());
        let short = world.now_ms + self.dice.between(1_000, 25_000);
        match kind {
            Kind::ManagerCrash => {
                world.note(format_args!("manager {manager} crashes"));
                world.managers[manager].crash();
                self.cures.push((short, Cure::StartManager(manager)));
            }
            Kind::ManagerCut => {
                world.note(format_args!("manager {manager} is cut off"));
                cut(world, Place::Manager(manager), true, true);
                self.cures.push((short, Cure::Unblock(Place::Manager(manager))));
            }
            Kind::LeaderShake => {
                world.note(format_args!("the leader is shaken"));
                for committed in world.raft.shake(world.now_ms) {
                    world.answer(committed);
                }
            }
            Kind::AgentCrash | Kind::AgentCrashWithoutRecords | Kind::PowerLoss => {
                let power = kind == Kind::PowerLoss;
                self.stop_node(world, node, kind != Kind::AgentCrashWithoutRecords, power, short);
            }
            Kind::LongAbsence => {
                let until = world.now_ms + self.dice.between(25_000, 60_000);
                if self.dice.chance(500) {
                    self.stop_node(world, node, true, true, until);
                } else {
                    cut(world, Place::Node(node), true, true);
                    self.cures.push((until, Cure::Unblock(Place::Node(node))));
                }
            }
            Kind::NodeCut | Kind::NodeCutOneWay => {
                let (out, back) = if kind == Kind::NodeCut {
                    (true, true)
                } else {
                    (node.is_multiple_of(2), !node.is_multiple_of(2))
                };
                world.note(format_args!("node {node} is cut off: out {out}, in {back}"));
                cut(world, Place::Node(node), out, back);
                self.cures.push((short, Cure::Unblock(Place::Node(node))));
            }
            Kind::DiskFull => {
                world.note(format_args!("node {node} has a full disk"));
                world.nodes[node].conditions.disk_full = true;
                self.cures.push((short, Cure::FreeDisk(node)));
            }
            Kind::Loss
            | Kind::Duplicates
            | Kind::Delay
            | Kind::SlowPulls
            | Kind::StartFailures
            | Kind::Exits
            | Kind::IgnoredStops
            | Kind::ClockSkew
            | Kind::SlowCommits => {}
        }
    }

    fn stop_node(&mut self, world: &mut World, node: usize, keep_records: bool, power: bool, until_ms: u64) {
        world.note(format_args!("node {node} stops, records kept {keep_records}, power lost {power}"));
        let own = &mut world.nodes[node];
        own.up = false;
        own.agent.crash(keep_records);
        if power {
            own.agent.power_off();
            own.kernel.reset();
        }
        world.lose_session(node);
        self.cures.push((until_ms, Cure::StartNode(node)));
    }

    /// Undoes everything.
    pub fn heal(&mut self, world: &mut World) {
        std::mem::take(&mut self.cures).into_iter().for_each(|(_, cure)| apply(world, cure));
        world.raft.commit_max_ms = 250;
        world.net.delay_max_ms = 100;
        for node in &mut world.nodes {
            node.conditions = crate::agent::Conditions { pull_max_ms: 1_000, ..Default::default() };
        }
    }
}

/// Between managers and nodes, and among managers.
fn cut(world: &mut World, place: Place, out: bool, back: bool) {
    let managers = (0..world.managers.len()).map(Place::Manager);
    let nodes = (0..world.nodes.len()).map(Place::Node);
    for other in managers.chain(nodes).filter(|other| *other != place) {
        if out {
            world.net.block(place, other);
        }
        if back {
            world.net.block(other, place);
        }
    }
}

fn apply(world: &mut World, cure: Cure) {
    match cure {
        Cure::StartManager(manager) if !world.managers[manager].up => world.managers[manager].start(),
        Cure::StartManager(_) => {}
        Cure::StartNode(node) => world.nodes[node].up = true,
        Cure::Unblock(place) => world.net.unblock(place),
        Cure::FreeDisk(node) => world.nodes[node].conditions.disk_full = false,
    }
}
