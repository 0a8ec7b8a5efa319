//! One manager: its copy of the store, and what it does while it thinks it leads.

use crate::net::{Body, Place};
use crate::raft::{Committed, Origin};
use crate::sabotage::Sabotage;
use crate::world::World;
use skep_cluster::assign::{Assignments, assignments};
use skep_cluster::command::{Key, WRITES_PER_COMMAND_MAX};
use skep_cluster::store::Store;
use skep_cluster::{Command, Write, edit, plan};
use skep_model::Timestamp;
use skep_model::node::NodeState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HEARTBEAT_TIMEOUT_MS: u64 = 15_000;
/// A new leader has heard of nobody yet.
const GRACE_AFTER_ELECTION_MS: u64 = 30_000;
/// A set that was not confirmed is sent again.
const RESEND_AFTER_MS: u64 = 2_000;
/// Reports that planners keep overtaking come again from the node.
const STATUS_ATTEMPTS_MAX: u32 = 5;
/// A plan whose commands were not agreed on by then is given up.
const PLAN_TIMEOUT_MS: u64 = 10_000;

pub struct Session {
    heard_at_ms: u64,
    sent: Option<(u64, Arc<Assignments>)>,
    sent_at_ms: u64,
    /// The generation the node says it has.
    confirmed: u64,
}

#[derive(Default)]
pub struct Manager {
    pub up: bool,
    pub store: Store,
    snapshot: Vec<u8>,
    /// It thinks so.
    pub leading: bool,
    led_since_ms: u64,
    dirty: BTreeSet<Key>,
    all_dirty: bool,
    wake_at: Option<Timestamp>,
    plans_in_flight: usize,
    planned_at_ms: u64,
    pub sessions: BTreeMap<usize, Session>,
    /// How wrong its clock is.
    pub skew_ms: i64,
    commands: u64,
    /// Index at which sets were last derived.
    derived_at: u64,
}

impl Manager {
    /// Everything in memory is lost; the log and the last snapshot are not.
    pub fn crash(&mut self) {
        let snapshot = std::mem::take(&mut self.snapshot);
        *self = Self { snapshot, skew_ms: self.skew_ms, commands: self.commands, ..Self::default() };
    }

    pub fn start(&mut self) {
        self.up = true;
        if !self.snapshot.is_empty() {
            self.store = Store::from_bytes(&self.snapshot).expect("its own snapshot is readable");
        }
    }

    pub fn lead(&mut self, now_ms: u64) {
        self.leading = true;
        self.led_since_ms = now_ms;
        self.all_dirty = true;
        self.plans_in_flight = 0;
        self.wake_at = None;
        self.sessions.clear();
        self.derived_at = 0;
    }

    /// Nothing to look at, and nothing on its way.
    pub fn idle(&self) -> bool {
        self.plans_in_flight == 0 && self.dirty.is_empty() && !self.all_dirty
    }

    fn snapshot_now(&mut self) {
        self.snapshot = self.store.to_bytes();
    }
}

impl World {
    pub fn clock(&self, manager: usize) -> Timestamp {
        self.time_at(self.managers[manager].skew_ms)
    }

    /// Applies what is agreed: leaders at once, others as they get it.
    pub fn apply_log(&mut self) {
        for number in 0..self.managers.len() {
            let leads = self.raft.leader == Some(number);
            let reachable = self.raft.leader.is_some_and(|leader| self.managers_connected(leader, number));
            let lags = !self.healed && self.dice.chance(300);
            if self.managers[number].up && (leads || (reachable && !lags)) {
                self.apply_some(number, if leads || self.healed { usize::MAX } else { 6 });
            }
        }
    }

    fn apply_some(&mut self, number: usize, limit: usize) {
        let applied = self.managers[number].store.index() as usize;
        let end = self.raft.log.len().min(applied.saturating_add(limit));
        for at in applied..end {
            let mut command = Arc::clone(&self.raft.log[at]);
            if self.sabotage == Some(Sabotage::LoseWrite) && !self.managers[number].leading && self.dice.chance(50) {
                Arc::make_mut(&mut command).writes.pop();
            }
            let manager = &mut self.managers[number];
            if let Ok(applied) = manager.store.apply(at as u64 + 1, &command) {
                manager.dirty.extend(applied.changed.into_iter().chain(applied.dropped));
            }
            if (at + 1) % 64 == 0 {
                manager.snapshot_now();
            }
        }
        if !self.managers[number].leading {
            self.managers[number].dirty.clear();
        }
    }

    /// The result of a proposal reaches the manager that made it, if it is still there.
    pub fn answer(&mut self, committed: Committed) {
        let Committed { manager, origin, result, command } = committed;
        let index = self.raft.log.len();
        self.note(format_args!("log: {index} {} {:?} {}", command.id, origin_name(&origin), command.writes.len()));
        if self.trace.shows() {
            let dropped = result.as_ref().map(|applied| applied.dropped.clone()).unwrap_or_default();
            command.writes.iter().for_each(|write| self.trace.detail(format_args!("{}", shown(write, &dropped))));
        }
        if let Origin::User(request) = origin {
            let heard = self.managers[manager].up && self.raft.leader == Some(manager);
            self.users_answer(request, heard, &result);
            return;
        }
        if !self.managers[manager].up || self.raft.leader != Some(manager) {
            return;
        }
        match origin {
            Origin::Plan => {
                let manager = &mut self.managers[manager];
                manager.plans_in_flight = manager.plans_in_flight.saturating_sub(1);
            }
            Origin::Status { node, updates, attempts } => {
                let dropped = result.map(|applied| applied.dropped).unwrap_or_default();
                self.status_stored(manager, node, updates, attempts, &dropped);
            }
            Origin::Fact | Origin::User(_) => {}
        }
    }

    fn status_stored(
        &mut self,
        manager: usize,
        node: usize,
        updates: Vec<(String, skep_model::task::TaskStatus)>,
        attempts: u32,
        dropped: &[Key],
    ) {
        let (again, done): (Vec<_>, Vec<_>) =
            updates.into_iter().partition(|(id, _)| dropped.iter().any(|key| key.id == *id));
        let reports = done.into_iter().map(|(id, status)| (id, status.state)).collect();
        self.net.send(self.now_ms, Place::Manager(manager), Place::Node(node), Body::Stored { reports });
        if !again.is_empty() && attempts < STATUS_ATTEMPTS_MAX {
            self.apply_some(manager, usize::MAX);
            self.propose_status(manager, node, again, attempts + 1);
        }
    }

    pub fn propose_status(
        &mut self,
        manager: usize,
        node: usize,
        updates: Vec<(String, skep_model::task::TaskStatus)>,
        attempts: u32,
    ) {
        let id = self.nodes[node].id.clone();
        let Ok(writes) = edit::task_status(&self.managers[manager].store, &id, &updates) else { return };
        if writes.is_empty() {
            let reports = updates.into_iter().map(|(id, status)| (id, status.state)).collect();
            self.net.send(self.now_ms, Place::Manager(manager), Place::Node(node), Body::Stored { reports });
            return;
        }
        self.propose(manager, writes, true, Origin::Status { node, updates, attempts });
    }

    pub fn propose(&mut self, manager: usize, writes: Vec<Write>, independent: bool, origin: Origin) {
        let at = self.clock(manager);
        let own = &mut self.managers[manager];
        own.commands += 1;
        let id = format!("m{manager}-{}", own.commands);
        self.raft.propose(self.now_ms, manager, Command { id, at, writes, independent }, origin);
    }

    /// A message from a node.
    pub fn manager_receives(&mut self, manager: usize, node: usize, body: Body) {
        if !self.managers[manager].up {
            return;
        }
        if !self.managers[manager].leading {
            let hint = self.raft.leader.filter(|leader| self.managers_connected(*leader, manager));
            self.net.send(self.now_ms, Place::Manager(manager), Place::Node(node), Body::NotLeader { hint });
            return;
        }
        let now_ms = self.now_ms;
        if let Body::Register = body {
            self.register(manager, node);
            return;
        }
        let Some(session) = self.managers[manager].sessions.get_mut(&node) else {
            self.net.send(now_ms, Place::Manager(manager), Place::Node(node), Body::Unknown);
            return;
        };
        session.heard_at_ms = now_ms;
        match body {
            Body::Heartbeat { generation } => session.confirmed = generation,
            Body::Status { updates } => self.propose_status(manager, node, updates, 0),
            _ => {}
        }
    }

    fn register(&mut self, manager: usize, node: usize) {
        let sim_node = &self.nodes[node];
        let store = &self.managers[manager].store;
        let address = format!("192.0.2.{}", node + 1);
        let description = sim_node.description.clone();
        let Ok(writes) = edit::node_ready(store, &sim_node.id, description, &address, &address) else { return };
        if !writes.is_empty() {
            self.propose(manager, writes, false, Origin::Fact);
        }
        let session = Session { heard_at_ms: self.now_ms, sent: None, sent_at_ms: 0, confirmed: 0 };
        self.managers[manager].sessions.insert(node, session);
        self.net.send(self.now_ms, Place::Manager(manager), Place::Node(node), Body::Registered);
    }

    /// One round of everything a leader does.
    pub fn lead(&mut self, manager: usize) {
        self.expire_sessions(manager);
        self.plan(manager);
        self.dispatch(manager);
    }

    fn expire_sessions(&mut self, manager: usize) {
        let now_ms = self.now_ms;
        let own = &mut self.managers[manager];
        own.sessions.retain(|_, session| now_ms - session.heard_at_ms <= HEARTBEAT_TIMEOUT_MS);
        let grace = if self.healed { HEARTBEAT_TIMEOUT_MS } else { GRACE_AFTER_ELECTION_MS };
        if now_ms - own.led_since_ms < grace {
            return;
        }
        let away = |node: &usize| {
            let id = self.nodes[*node].id.as_str();
            let state = self.managers[manager].store.node(id).map(|node| node.status.state);
            !self.managers[manager].sessions.contains_key(node) && state.is_some_and(|state| state != NodeState::Down)
        };
        for node in (0..self.nodes.len()).filter(away).collect::<Vec<_>>() {
            let (store, id) = (&self.managers[manager].store, &self.nodes[node].id);
            if let Ok(writes) = edit::node_state(store, id, NodeState::Down, "heartbeat failure") {
                self.propose(manager, writes, false, Origin::Fact);
            }
        }
    }

    fn plan(&mut self, manager: usize) {
        let now = self.clock(manager);
        let now_ms = self.now_ms;
        let own = &mut self.managers[manager];
        if own.plans_in_flight > 0 && now_ms - own.planned_at_ms > PLAN_TIMEOUT_MS {
            own.plans_in_flight = 0;
            own.all_dirty = true;
        }
        let woken = own.wake_at.is_some_and(|at| at <= now);
        if self.raft.is_catching_up(own.led_since_ms) {
            return;
        }
        if own.plans_in_flight > 0 || !(own.all_dirty || woken || !own.dirty.is_empty()) {
            return;
        }
        if woken {
            own.wake_at = None;
        }
        let everything = std::mem::take(&mut own.all_dirty) || woken;
        let dirty = std::mem::take(&mut own.dirty);
        let dirty = if everything { BTreeSet::new() } else { dirty };
        let snapshot = own.store.clone();
        let plan = self.planned(&snapshot, &dirty, now);
        let own = &mut self.managers[manager];
        let earliest = [own.wake_at, plan.wake_at].into_iter().flatten().min();
        own.wake_at = earliest.filter(|_| self.sabotage != Some(Sabotage::ForgetWake));
        own.planned_at_ms = now_ms;
        if self.trace.shows() {
            plan.writes.iter().for_each(|write| self.trace.detail(format_args!("plan {}", shown(write, &[]))));
            plan.report.iter().for_each(|line| self.trace.detail(format_args!("plan says: {line}")));
        }
        if self.raft.leader == Some(manager) {
            self.check_plan(&snapshot, &plan.writes, now);
        }
        for chunk in plan.writes.chunks(WRITES_PER_COMMAND_MAX) {
            self.managers[manager].plans_in_flight += 1;
            self.propose(manager, chunk.to_vec(), true, Origin::Plan);
        }
    }

    /// The plan, with the planted bug if there is one.
    fn planned(&mut self, snapshot: &Store, dirty: &BTreeSet<Key>, now: Timestamp) -> plan::Plan {
        let hasty = (self.sabotage == Some(Sabotage::UpdateAll)).then(|| hasty(snapshot, now));
        let mut plan = plan::plan(hasty.as_ref().unwrap_or(snapshot), dirty, now, &mut self.ids);
        if hasty.is_some() {
            plan.writes.iter_mut().for_each(|write| unhurried(write, snapshot));
        }
        if let Some(sabotage) = self.sabotage {
            plan.writes = sabotage.spoil(plan.writes, snapshot, &mut self.ids);
        }
        plan
    }

    /// Sends every node its set when it differs from the last, or was not confirmed.
    fn dispatch(&mut self, manager: usize) {
        let index = self.managers[manager].store.index();
        let changed = self.managers[manager].derived_at != index;
        self.managers[manager].derived_at = index;
        let nodes: Vec<usize> = self.managers[manager].sessions.keys().copied().collect();
        for node in nodes {
            let Some(session) = self.managers[manager].sessions.get(&node) else { continue };
            let last = session.sent.clone();
            let unconfirmed = last.as_ref().is_some_and(|(generation, _)| session.confirmed < *generation);
            let overdue = unconfirmed && self.now_ms - session.sent_at_ms > RESEND_AFTER_MS;
            if !(changed || overdue || last.is_none()) {
                continue;
            }
            let mut set = assignments(&self.managers[manager].store, &self.nodes[node].id);
            if self.sabotage == Some(Sabotage::AllSecrets) {
                set.secrets = self.managers[manager].store.secrets().map(|s| (s.id.0.clone(), Arc::clone(s))).collect();
            }
            let same = last.as_ref().is_some_and(|(_, last)| **last == set);
            if same && !overdue {
                continue;
            }
            let generation = last.filter(|_| same).map_or(index, |(generation, _)| generation);
            let set = Arc::new(set);
            if let Some(session) = self.managers[manager].sessions.get_mut(&node) {
                session.sent = Some((generation, Arc::clone(&set)));
                session.sent_at_ms = self.now_ms;
            }
            let body = Body::Assign { generation, set };
            self.net.send(self.now_ms, Place::Manager(manager), Place::Node(node), body);
        }
    }
}

/// The same state, but every update may take all slots.
fn hasty(snapshot: &Store, now: Timestamp) -> Store {
    let mut store = snapshot.clone();
    let services: Vec<_> = store.services().cloned().collect();
    let writes = services.into_iter().map(|service| {
        let mut service = (*service).clone();
        service.spec.update.get_or_insert_default().parallelism = 0;
        Write::put(skep_cluster::Object::Service(Box::new(service)))
    });
    let command = Command { id: String::new(), at: now, writes: writes.collect(), independent: true };
    let applied = store.apply(store.index() + 1, &command);
    if applied.is_ok() { store } else { snapshot.clone() }
}

/// Makes a write planned from the hasty state one of the real state.
fn unhurried(write: &mut Write, snapshot: &Store) {
    if let Write::Put { object: skep_cluster::Object::Service(service), expected } = write
        && let Some(real) = snapshot.service(service.id.as_str())
    {
        service.spec.update = real.spec.update.clone();
        *expected = real.meta.version;
    } else if let Write::Remove { key, expected } = write
        && let Some(real) = snapshot.service(&key.id)
    {
        *expected = real.meta.version;
    }
}

fn origin_name(origin: &Origin) -> &'static str {
    match origin {
        Origin::Plan => "plan",
        Origin::Status { .. } => "status",
        Origin::Fact => "fact",
        Origin::User(_) => "user",
    }
}

/// A write in a few words.
fn shown(write: &Write, dropped: &[Key]) -> String {
    use skep_cluster::command::Object;
    let fate = if dropped.contains(&write.key()) { " DROPPED" } else { "" };
    let text = match write {
        Write::Remove { key, .. } => format!("- {:?} {}", key.kind, key.id),
        Write::Put { object: Object::Task(task), expected } => format!(
            "{} task {} of {} spec {}: {} wants {} on {} {}{}",
            if *expected == 0 { "+" } else { "=" },
            &task.id.as_str()[..6],
            task.slot_name(),
            task.spec_version,
            task.status.state.as_str(),
            task.desired_state.as_str(),
            task.node_id.as_str().get(..6).unwrap_or("-"),
            task.replaces.as_ref().map_or("", |_| "replaces "),
            task.status.err,
        ),
        Write::Put { object: Object::Service(service), .. } => format!(
            "= service {} {} {:?} {:?} update {:?} now {:?}",
            service.spec.name,
            service.spec.task.container.image,
            service.spec.mode,
            service.spec.task.restart,
            service.spec.update,
            service.update_status.as_ref().map(|status| (status.state, &status.message)),
        ),
        Write::Put { object: Object::Node(node), .. } => {
            format!("= node {} {:?} {:?}", &node.id.as_str()[..6], node.status.state, node.spec.availability)
        }
        Write::Put { object, .. } => format!("= {:?}", object.key()),
    };
    text + fate
}
