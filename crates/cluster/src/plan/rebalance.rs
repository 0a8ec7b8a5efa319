//! Evens out where replicas run, after a node came back or joined: as few tasks as needed
//! are moved, each started on its new node before the old one stops, and only to nodes
//! that may have it.

use super::draft::Draft;
use super::schedule::{Filters, Loads};
use super::slots::{SlotKey, new_task};
use super::update;
use crate::command::{Object, WRITES_PER_COMMAND_MAX, Write};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::id::{NodeId, ServiceId, TaskId};
use skep_model::service::{Service, ServiceMode};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Moves of one request at most: all are one command, and each is two writes.
const MOVES_MAX: usize = WRITES_PER_COMMAND_MAX / 2;
/// Nodes with a load that differs by less are even.
const DIFFERENCE_MIN: u32 = 2;

/// One task that is to run elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub service: ServiceId,
    pub service_name: String,
    pub slot: u64,
    pub task: TaskId,
    pub from: NodeId,
    pub to: NodeId,
}

/// What would even things out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rebalance {
    pub moves: Vec<Move>,
    /// The moves' new tasks.
    pub writes: Vec<Write>,
    /// Services that are left as they are, and why.
    pub skipped: Vec<String>,
}

/// Plans the moves of one service, or of all (`None`), which also evens out the nodes'
/// whole load.
pub fn rebalance(store: &Store, only: Option<&ServiceId>, now: Timestamp, ids: &mut dyn IdSource) -> Rebalance {
    let mut found = Rebalance::default();
    let mut loads = Loads::of(store);
    let mut shares = Vec::new();
    let services = store.services().filter(|service| only.is_none_or(|id| service.id == *id));
    for service in services.filter(|service| !service.pending_delete) {
        match Share::of(store, service, &loads) {
            Ok(share) => shares.extend(share),
            Err(reason) => found.skipped.push(format!("service {}: {reason}", service.spec.name)),
        }
    }
    let mut chosen: Vec<(usize, Arc<Task>, usize)> = Vec::new();
    for (number, share) in shares.iter_mut().enumerate() {
        while chosen.len() < MOVES_MAX
            && let Some((from, to)) = share.uneven_pair(&loads)
        {
            chosen.extend(share.shift(&mut loads, from, to).map(|task| (number, task, to)));
        }
    }
    if only.is_none() {
        even_out_nodes(&mut shares, &mut loads, &mut chosen);
    }
    let mut draft = Draft::new(store, now, ids);
    for (number, task, to) in chosen {
        let (service, to) = (&shares[number].service, loads.0[to].node.id.clone());
        start_there(&mut draft, service, &task, &to);
        found.moves.push(Move {
            service: service.id.clone(),
            service_name: service.spec.name.clone(),
            slot: task.slot,
            task: task.id.clone(),
            from: task.node_id.clone(),
            to,
        });
    }
    // A task must not be moved twice, nor when it has ended meanwhile: each is written as
    // it is, at the version that was looked at.
    let old = found.moves.iter().filter_map(|one| store.task(one.task.as_str()));
    let guards = old.map(|task| Write::put(Object::Task(Box::new((**task).clone()))));
    found.writes = guards.chain(draft.finish().writes).collect();
    found
}

fn start_there(draft: &mut Draft<'_>, service: &Service, old: &Task, to: &NodeId) {
    let mut task = new_task(draft, service, &SlotKey::Number(old.slot));
    task.beside = Some(old.id.clone());
    task.node_id = to.clone();
    draft.put_task(task);
}

/// The nodes of each branch of one parent; a node without further labels is its own branch.
type Siblings<'a> = BTreeMap<(&'a [String], usize), Vec<usize>>;

/// How a replicated service is spread at the moment.
struct Share {
    service: Arc<Service>,
    filters: Filters,
    /// Per node, as in [`Loads`].
    counts: Vec<u32>,
    suits: Vec<bool>,
    /// Each node's values of the spread labels.
    paths: Vec<Vec<String>>,
    /// Node to its tasks that may be moved, the newest last.
    movable: BTreeMap<usize, Vec<Arc<Task>>>,
}

impl Share {
    /// `None` when there is nothing that could be moved.
    ///
    /// # Errors
    /// Why the service must not be touched now.
    fn of(store: &Store, service: &Arc<Service>, loads: &Loads) -> Result<Option<Self>, String> {
        if !matches!(service.spec.mode, ServiceMode::Replicated { .. }) {
            return Ok(None);
        }
        if update::is_under_way(service) {
            return Err("it is being updated".into());
        }
        let tasks: Vec<&Arc<Task>> =
            store.tasks_of_service(service.id.as_str()).filter(|task| task.is_wanted()).collect();
        if tasks.iter().any(|task| task.beside.is_some() && task.status.state < TaskState::Running) {
            return Err("tasks are being moved already".into());
        }
        let Some(sample) = tasks.iter().find(|task| task.status.state == TaskState::Running) else { return Ok(None) };
        let filters = Filters::of(store, sample);
        let mut movable: BTreeMap<usize, Vec<Arc<Task>>> = BTreeMap::new();
        for task in tasks.iter().filter(|task| is_movable(service, task)) {
            if let Some(at) = loads.position(task.node_id.as_str()) {
                movable.entry(at).or_default().push(Arc::clone(task));
            }
        }
        movable.values_mut().for_each(|tasks| tasks.sort_by_key(|task| (task.created_index, task.id.clone())));
        let spread = &service.spec.task.placement.spread;
        let path = |load| spread.iter().map(|key| super::schedule::NodeLoad::label(load, key).to_owned()).collect();
        Ok(Some(Self {
            counts: loads.counts(store, service.id.as_str()),
            suits: loads.0.iter().map(|load| filters.suits(&load.node)).collect(),
            paths: loads.0.iter().map(path).collect(),
            filters,
            movable,
            service: Arc::clone(service),
        }))
    }

    /// From which node to which one a task should go, looking at whole branches of the
    /// spread labels first, at single nodes last.
    fn uneven_pair(&self, loads: &Loads) -> Option<(usize, usize)> {
        let levels = self.service.spec.task.placement.spread.len();
        (0..=levels).find_map(|level| {
            // Siblings are what has all labels before this level in common.
            let mut families: BTreeMap<&[String], Siblings<'_>> = BTreeMap::new();
            for (at, path) in self.paths.iter().enumerate() {
                let own = if level < levels { (&path[..=level], 0) } else { (&path[..], at) };
                families.entry(&path[..level]).or_default().entry(own).or_default().push(at);
            }
            families.into_values().find_map(|siblings| self.uneven_siblings(loads, siblings.into_values().collect()))
        })
    }

    fn uneven_siblings(&self, loads: &Loads, siblings: Vec<Vec<usize>>) -> Option<(usize, usize)> {
        let total = |nodes: &[usize]| nodes.iter().map(|at| self.counts[*at]).sum::<u32>();
        let source = |nodes: &[usize]| {
            let movable = nodes.iter().filter(|at| self.suits[**at] && self.movable.contains_key(*at));
            movable.max_by_key(|at| (self.counts[**at], loads.0[**at].active)).copied()
        };
        let target = |nodes: &[usize]| {
            let open = nodes.iter().filter(|at| self.takes(loads, **at));
            open.min_by_key(|at| (self.counts[**at], loads.0[**at].active, **at)).copied()
        };
        let fullest =
            siblings.iter().filter_map(|nodes| Some((total(nodes), source(nodes)?))).max_by_key(|(n, _)| *n)?;
        let emptiest =
            siblings.iter().filter_map(|nodes| Some((total(nodes), target(nodes)?))).min_by_key(|(n, _)| *n)?;
        (fullest.0 >= emptiest.0 + DIFFERENCE_MIN).then_some((fullest.1, emptiest.1))
    }

    fn takes(&self, loads: &Loads, at: usize) -> bool {
        self.suits[at] && self.filters.fits(&loads.0[at], self.counts[at])
    }

    /// Whether a move leaves the service at least as even as it is.
    fn stays_even(&self, from: usize, to: usize) -> bool {
        let branch = |at: usize, level: usize| {
            let prefix = &self.paths[at][..=level];
            let members = self.paths.iter().zip(&self.counts).filter(|(path, _)| path.starts_with(prefix));
            members.map(|(_, count)| *count).sum::<u32>()
        };
        let levels = self.paths[from].len();
        let split = (0..levels).find(|level| self.paths[from][*level] != self.paths[to][*level]);
        let branches = split.is_none_or(|level| branch(from, level) > branch(to, level));
        branches && self.counts[from] > self.counts[to]
    }

    /// Takes a task from one node's account to the other's.
    fn shift(&mut self, loads: &mut Loads, from: usize, to: usize) -> Option<Arc<Task>> {
        let tasks = self.movable.get_mut(&from)?;
        let task = tasks.pop();
        if tasks.is_empty() {
            self.movable.remove(&from);
        }
        self.counts[from] -= 1;
        self.counts[to] += 1;
        loads.0[from].active = loads.0[from].active.saturating_sub(1);
        let _reserved = loads.0[to].take(&self.filters);
        task
    }
}

/// It runs as it should and nothing is about to change it.
fn is_movable(service: &Service, task: &Task) -> bool {
    task.status.state == TaskState::Running
        && task.desired_state == TaskState::Running
        && task.spec_version == service.spec_version
}

/// Moves single tasks from nodes that carry much to nodes that carry little.
fn even_out_nodes(shares: &mut [Share], loads: &mut Loads, chosen: &mut Vec<(usize, Arc<Task>, usize)>) {
    while chosen.len() < MOVES_MAX {
        let Some((number, from, to)) = next_of_all(shares, loads) else { return };
        let task = shares[number].shift(loads, from, to);
        chosen.extend(task.map(|task| (number, task, to)));
    }
}

fn next_of_all(shares: &[Share], loads: &Loads) -> Option<(usize, usize, usize)> {
    let mut order: Vec<usize> = (0..loads.0.len()).collect();
    order.sort_by_key(|at| (loads.0[*at].active, *at));
    for from in order.iter().rev() {
        for to in &order {
            if loads.0[*from].active < loads.0[*to].active + DIFFERENCE_MIN {
                break;
            }
            let fits = |share: &Share| {
                share.suits[*from]
                    && share.movable.contains_key(from)
                    && share.takes(loads, *to)
                    && share.stays_even(*from, *to)
            };
            if let Some(number) = shares.iter().position(fits) {
                return Some((number, *from, *to));
            }
        }
    }
    None
}
