//! The whole swarm in one thread: time moves in ticks, every tick everyone does what is
//! due, then all checkers look.

use crate::agent::{Agent, Conditions, SmallAgent};
use crate::check::{self, Check};
use crate::dice::Dice;
use crate::faults::Faults;
use crate::kernel::Kernel;
use crate::load::Load;
use crate::manager::Manager;
use crate::net::{Body, Net, Place};
use crate::raft::Raft;
use crate::sabotage::Sabotage;
use crate::trace::Trace;
use skep_cluster::ids::IdSource;
use skep_cluster::store::Store;
use skep_cluster::{Command, Write, edit};
use skep_model::Timestamp;
use skep_model::id::NodeId;
use skep_model::node::{Node, NodeDescription, Platform, Role};
use std::collections::BTreeMap;
use std::fmt::Arguments;

pub const TICK_MS: u64 = 250;
/// Faults and users are at work for so long.
const STORM_TICKS: u64 = 480;
/// Then the swarm has this long to come to rest.
const CALM_TICKS_MAX: u64 = 2_400;
/// Rest must last: the leader must have nothing to write for this many rounds.
const QUIET_ROUNDS: u64 = 100;
const HEARTBEAT_MS: u64 = 5_000;
const REPORT_MS: u64 = 1_000;
/// A manager that does not answer is given up.
const PATIENCE_MS: u64 = 4_000;
/// 2027-01-15, in nanoseconds.
const EPOCH: i64 = 1_800_000_000_000_000_000;

/// A machine of the swarm as seen from outside.
pub struct SimNode {
    pub id: NodeId,
    pub description: NodeDescription,
    pub agent: Box<dyn Agent>,
    pub kernel: Kernel,
    pub conditions: Conditions,
    /// The agent process runs.
    pub up: bool,
    /// Taken out of the swarm for good.
    pub removed: bool,
    target: usize,
    in_session: bool,
    answered_at_ms: u64,
    beat_at_ms: u64,
    report_at_ms: u64,
}

/// What a run came to.
pub struct Outcome {
    pub failure: Option<String>,
    pub events: u64,
    pub hash: u64,
}

pub struct World {
    pub seed: u64,
    pub now_ms: u64,
    pub managers: Vec<Manager>,
    pub raft: Raft,
    pub nodes: Vec<SimNode>,
    pub net: Net,
    pub faults: Option<Faults>,
    pub load: Option<Load>,
    pub ids: Dice,
    pub dice: Dice,
    pub sabotage: Option<Sabotage>,
    pub healed: bool,
    checks: Vec<Box<dyn Check>>,
    /// The first thing that was wrong.
    failure: Option<String>,
    pub trace: Trace,
}

/// Runs one seed to its end.
pub fn run(seed: u64, sabotage: Option<Sabotage>, show: bool) -> Outcome {
    let mut world = World::new(seed, sabotage, show);
    world.run();
    Outcome { failure: world.failure, events: world.trace.events, hash: world.trace.hash() }
}

impl World {
    fn new(seed: u64, sabotage: Option<Sabotage>, show: bool) -> Self {
        let mut dice = Dice::new(seed, "world");
        let managers = [1, 3, 3, 3, 5][dice.below(5)];
        let nodes = managers.min(3) + dice.below(4);
        let mut world = Self {
            seed,
            now_ms: 0,
            managers: (0..managers).map(|_| Manager::default()).collect(),
            raft: Raft::new(seed),
            nodes: Vec::new(),
            net: Net::new(seed),
            faults: None,
            load: None,
            ids: Dice::new(seed, "ids"),
            dice,
            sabotage,
            healed: false,
            checks: check::all(),
            failure: None,
            trace: Trace::new(show),
        };
        world.bootstrap(nodes);
        world.faults = Some(Faults::new(seed, &mut world.net, &mut world.managers, &mut world.nodes));
        world.load = Some(Load::new(seed));
        world
    }

    fn bootstrap(&mut self, nodes: usize) {
        for number in 0..nodes {
            let node = self.make_node(number);
            self.nodes.push(node);
        }
        self.managers.iter_mut().for_each(Manager::start);
        self.raft.leader = Some(0);
        self.managers[0].lead(0);
        let facts = edit::Bootstrap { cluster: Default::default(), node: stored_node(&self.nodes[0], true) };
        let now = self.clock(0);
        let first = edit::bootstrap(facts, now, &mut self.ids);
        self.append("bootstrap", first, now);
        for number in 1..nodes {
            let node = stored_node(&self.nodes[number], number < self.managers.len());
            let writes = edit::join_node(&self.raft.truth, node).expect("ids are fresh");
            self.append(&format!("join-{number}"), writes, now);
        }
    }

    fn make_node(&mut self, number: usize) -> SimNode {
        let mut agent = SmallAgent::new(self.seed, number);
        agent.takes_stale_sets = self.sabotage == Some(Sabotage::StaleSets);
        agent.reports_once = self.sabotage == Some(Sabotage::ReportOnce);
        let description = NodeDescription {
            hostname: format!("host{number}"),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 4_000_000_000,
            memory_bytes: 4 << 30,
            generic_resources: BTreeMap::from([("disk".to_owned(), 2)]),
            named_resources: BTreeMap::from([("card".to_owned(), ["red".to_owned(), "blue".to_owned()].into())]),
            ..NodeDescription::default()
        };
        SimNode {
            id: NodeId(self.ids.swarm_id()),
            description,
            agent: Box::new(agent),
            kernel: Kernel::new(self.sabotage == Some(Sabotage::KernelForgets)),
            conditions: Conditions { pull_max_ms: 1_000, ..Conditions::default() },
            up: true,
            removed: false,
            target: 0,
            in_session: false,
            answered_at_ms: 0,
            beat_at_ms: 0,
            report_at_ms: 0,
        }
    }

    /// Puts a command on the log before anything can go wrong.
    fn append(&mut self, id: &str, writes: Vec<Write>, at: Timestamp) {
        let command = Command { id: id.into(), at, writes, independent: false };
        self.raft.log.push(std::sync::Arc::new(command.clone()));
        let index = self.raft.log.len() as u64;
        self.raft.truth.apply(index, &command).expect("the first commands are sound");
    }

    pub fn time_at(&self, skew_ms: i64) -> Timestamp {
        Timestamp(EPOCH + (self.now_ms as i64 + skew_ms) * 1_000_000)
    }

    pub fn note(&mut self, event: Arguments<'_>) {
        self.trace.note(self.now_ms, event);
    }

    pub fn fail(&mut self, text: String) {
        if self.failure.is_none() {
            self.note(format_args!("FAILED: {text}"));
            self.failure = Some(text);
        }
    }

    fn run(&mut self) {
        for _ in 0..STORM_TICKS {
            self.tick();
            if self.failure.is_some() {
                return;
            }
        }
        self.heal();
        let mut unmet = String::new();
        for tick in 0..CALM_TICKS_MAX {
            self.tick();
            if self.failure.is_some() {
                return;
            }
            if tick % 8 == 0 {
                match check::converge::unmet(self) {
                    None => return self.stay_quiet(),
                    Some(reason) => unmet = reason,
                }
            }
        }
        self.fail(format!("no rest {} s after healing: {unmet}", CALM_TICKS_MAX * TICK_MS / 1000));
    }

    fn heal(&mut self) {
        self.healed = true;
        self.note(format_args!("heal"));
        if let Some(mut faults) = self.faults.take() {
            faults.heal(self);
        }
        self.net.heal();
        if let Some(load) = &mut self.load {
            load.heal();
        }
    }

    /// At rest, planning must find nothing to do, now and later.
    fn stay_quiet(&mut self) {
        let Some(leader) = self.raft.leader else { return };
        let store = self.managers[leader].store.clone();
        let now = self.clock(leader);
        // What is to happen later by time alone, such as attempts that age, is no unrest.
        let wake_at = skep_cluster::plan::plan(&store, &Default::default(), now, &mut self.ids).wake_at;
        for round in 0..QUIET_ROUNDS {
            let now = now.plus(std::time::Duration::from_secs(round));
            if wake_at.is_some_and(|at| at <= now) {
                break;
            }
            let plan = skep_cluster::plan::plan(&store, &Default::default(), now, &mut self.ids);
            let writes = match self.sabotage {
                Some(sabotage) => sabotage.spoil(plan.writes, &store, &mut self.ids),
                None => plan.writes,
            };
            if let Some(write) = writes.first() {
                self.fail(format!("planning at rest still writes after {round} s: {:?}", write.key()));
                return;
            }
        }
        let mut checks = std::mem::take(&mut self.checks);
        let results: Vec<_> = checks.iter_mut().map(|check| (check.name(), check.finish(self))).collect();
        self.judge(results);
        self.checks = checks;
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        if let Some(mut faults) = self.faults.take() {
            faults.tick(self);
            self.faults = Some(faults);
        }
        self.agree();
        self.apply_log();
        for envelope in self.net.due(self.now_ms) {
            match (envelope.from, envelope.to) {
                (Place::Node(node), Place::Manager(manager)) => self.manager_receives(manager, node, envelope.body),
                (Place::Manager(manager), Place::Node(node)) => self.node_receives(node, manager, envelope.body),
                _ => {}
            }
        }
        for node in 0..self.nodes.len() {
            self.step_node(node);
        }
        for manager in 0..self.managers.len() {
            if self.managers[manager].up && self.managers[manager].leading {
                self.lead(manager);
            }
        }
        if let Some(mut load) = self.load.take() {
            load.tick(self);
            self.load = Some(load);
        }
        let mut checks = std::mem::take(&mut self.checks);
        let results: Vec<_> = checks.iter_mut().map(|check| (check.name(), check.tick(self))).collect();
        self.judge(results);
        self.checks = checks;
    }

    /// Raft's part: commits, elections, and who knows that it leads.
    fn agree(&mut self) {
        let reaches: Vec<bool> = (0..self.managers.len()).map(|manager| self.reaches_majority(manager)).collect();
        for committed in self.raft.tick(self.now_ms, &reaches) {
            self.answer(committed);
        }
        for (manager, reaches) in reaches.into_iter().enumerate() {
            let leads = self.raft.leader == Some(manager);
            let thinks = self.managers[manager].leading;
            if leads && !thinks && self.managers[manager].up {
                let term = self.raft.term;
                self.note(format_args!("manager {manager} leads term {term}"));
                self.apply_all(manager);
                let now_ms = self.now_ms;
                self.managers[manager].lead(now_ms);
            }
            // One cut off goes on until it notices.
            if thinks && !leads && (reaches || self.dice.chance(80)) {
                self.note(format_args!("manager {manager} steps down"));
                self.managers[manager].leading = false;
                self.managers[manager].sessions.clear();
            }
        }
    }

    fn apply_all(&mut self, manager: usize) {
        let missing = self.raft.log[self.managers[manager].store.index() as usize..].to_vec();
        for command in missing {
            let own = &mut self.managers[manager].store;
            // A refused command is as much part of the log as any other.
            let _outcome = own.apply(own.index() + 1, &command);
        }
    }

    pub fn managers_connected(&self, a: usize, b: usize) -> bool {
        self.net.connected(Place::Manager(a), Place::Manager(b))
    }

    fn reaches_majority(&self, manager: usize) -> bool {
        let up = |other: &usize| self.managers[*other].up && self.managers_connected(manager, *other);
        self.managers[manager].up && (0..self.managers.len()).filter(up).count() * 2 > self.managers.len()
    }

    fn node_receives(&mut self, node: usize, manager: usize, body: Body) {
        let now_ms = self.now_ms;
        let own = &mut self.nodes[node];
        if !own.up || own.removed {
            return;
        }
        if let Body::NotLeader { hint } = body {
            // An answer from a manager it has left says nothing new.
            if own.target == manager {
                own.target = hint.unwrap_or((manager + 1) % self.managers.len());
                own.in_session = false;
                own.beat_at_ms = 0;
            }
            return;
        }
        own.answered_at_ms = now_ms;
        match body {
            Body::Registered => own.in_session = true,
            Body::Unknown => own.in_session = false,
            Body::Assign { generation, set } => {
                let taken = own.agent.accept(generation, &set);
                self.note(format_args!("node {node}: set {generation} of {} tasks, taken {taken}", set.tasks.len()));
                self.beat(node);
            }
            Body::Stored { reports } => own.agent.stored(&reports),
            _ => {}
        }
    }

    fn step_node(&mut self, node: usize) {
        let (now_ms, now) = (self.now_ms, self.time_at(0));
        let managers = self.managers.len();
        let own = &mut self.nodes[node];
        if !own.up || own.removed {
            return;
        }
        let conditions = own.conditions.clone();
        own.agent.step(now_ms, now, &conditions);
        let failures = if self.healed { 0 } else { 100 };
        own.kernel.reconcile(own.agent.network(), failures, &mut self.dice);
        if now_ms - own.answered_at_ms > PATIENCE_MS + HEARTBEAT_MS {
            own.target = (own.target + 1) % managers;
            own.in_session = false;
            own.answered_at_ms = now_ms;
        }
        if now_ms >= own.beat_at_ms {
            self.beat(node);
        }
        let own = &mut self.nodes[node];
        if own.in_session && now_ms >= own.report_at_ms {
            let updates = own.agent.reports();
            own.report_at_ms = now_ms + if updates.is_empty() { 0 } else { REPORT_MS };
            let target = own.target;
            if !updates.is_empty() {
                self.net.send(now_ms, Place::Node(node), Place::Manager(target), Body::Status { updates });
            }
        }
    }

    /// A heartbeat, or a registration where there is no session.
    fn beat(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let own = &mut self.nodes[node];
        own.beat_at_ms = now_ms + if own.in_session { HEARTBEAT_MS } else { 1_000 };
        let generation = own.agent.generation();
        let body = if own.in_session { Body::Heartbeat { generation } } else { Body::Register };
        let target = own.target;
        self.net.send(now_ms, Place::Node(node), Place::Manager(target), body);
    }

    /// Forgets a node's session, as a restarted agent does.
    pub fn lose_session(&mut self, node: usize) {
        self.nodes[node].in_session = false;
        self.nodes[node].beat_at_ms = 0;
    }

    pub fn check_plan(&mut self, snapshot: &Store, writes: &[Write], now: Timestamp) {
        let mut checks = std::mem::take(&mut self.checks);
        let results: Vec<_> =
            checks.iter_mut().map(|check| (check.name(), check.planned(snapshot, writes, now))).collect();
        self.judge(results);
        self.checks = checks;
    }

    fn judge(&mut self, results: Vec<(&'static str, Result<(), String>)>) {
        for (name, result) in results {
            if let Err(text) = result {
                self.fail(format!("{name}: {text}"));
            }
        }
    }
}

fn stored_node(node: &SimNode, manager: bool) -> Node {
    let role = if manager { Role::Manager } else { Role::Worker };
    let mut stored = Node { id: node.id.clone(), role, ..Node::default() };
    stored.spec.role = role;
    stored
}
