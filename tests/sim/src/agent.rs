//! What runs on a node. The trait is what the world needs of an agent; [`SmallAgent`] is
//! a faithful small one: assigned tasks climb the ladder, containers outlive the agent,
//! reports are repeated until they are stored.

use crate::dice::Dice;
use skep_cluster::assign::Assignments;
use skep_model::Timestamp;
use skep_model::netstate::ClusterNetState;
use skep_model::task::{Task, TaskContainerStatus, TaskState, TaskStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// How a node is treated at the moment.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    pub pull_max_ms: u64,
    /// Starts fail.
    pub start_failures_per_mille: u32,
    /// Running tasks end by themselves, per step.
    pub exits_per_mille: u32,
    /// Nothing can be prepared.
    pub disk_full: bool,
    /// Containers ignore the stop signal until they are killed.
    pub ignore_stop: bool,
}

pub trait Agent {
    /// A set arrives; false when it is refused as older than the present one.
    fn accept(&mut self, generation: u64, set: &Assignments) -> bool;
    fn generation(&self) -> u64;
    fn network(&self) -> &ClusterNetState;
    fn step(&mut self, now_ms: u64, now: Timestamp, conditions: &Conditions);
    /// What the managers have not stored yet.
    fn reports(&mut self) -> Vec<(String, TaskStatus)>;
    fn stored(&mut self, reports: &[(String, TaskState)]);
    /// The process is gone; containers stay. Without its records it starts from nothing.
    fn crash(&mut self, keep_records: bool);
    /// The machine lost power.
    fn power_off(&mut self);
    fn containers(&self) -> Vec<&Container>;
    fn secrets(&self) -> &BTreeSet<String>;
    /// The set it has.
    fn tasks(&self) -> Vec<&Task>;
    /// Its records were never lost.
    fn records_kept(&self) -> bool;
}

/// The truth about a container, which only the world sees.
#[derive(Debug, Clone)]
pub struct Container {
    pub task: Arc<Task>,
    pub running: bool,
    pub addresses: Vec<(String, IpAddr)>,
    stop_at_ms: Option<u64>,
}

struct Local {
    task: Arc<Task>,
    status: TaskStatus,
    /// The last state the managers have.
    stored: Option<TaskState>,
    /// The present stage ends then.
    until_ms: Option<u64>,
}

const STOP_GRACE_MS: u64 = 10_000;
/// Chance per step that a job's task is done.
const JOB_ENDS_PER_MILLE: u32 = 40;

pub struct SmallAgent {
    tasks: BTreeMap<String, Local>,
    generation: u64,
    network: ClusterNetState,
    secrets: BTreeSet<String>,
    containers: BTreeMap<String, Container>,
    dice: Dice,
    lost_records: bool,
    pub takes_stale_sets: bool,
    pub reports_once: bool,
}

impl SmallAgent {
    pub fn new(seed: u64, number: usize) -> Self {
        Self {
            tasks: BTreeMap::new(),
            generation: 0,
            network: ClusterNetState::default(),
            secrets: BTreeSet::new(),
            containers: BTreeMap::new(),
            dice: Dice::new(seed, &format!("agent {number}")),
            lost_records: false,
            takes_stale_sets: false,
            reports_once: false,
        }
    }
}

impl Agent for SmallAgent {
    fn accept(&mut self, generation: u64, set: &Assignments) -> bool {
        if generation < self.generation && !self.takes_stale_sets {
            return false;
        }
        self.generation = generation;
        self.network = set.network.clone();
        self.secrets = set.secrets.keys().cloned().collect();
        self.tasks.retain(|id, _| set.tasks.contains_key(id));
        for (id, task) in &set.tasks {
            match self.tasks.get_mut(id) {
                Some(local) => local.task = Arc::clone(task),
                None => {
                    let status = TaskStatus { ports: Vec::new(), ..task.status.clone() };
                    let stored = Some(task.status.state);
                    self.tasks.insert(id.clone(), Local { task: Arc::clone(task), status, stored, until_ms: None });
                }
            }
        }
        true
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn network(&self) -> &ClusterNetState {
        &self.network
    }

    fn step(&mut self, now_ms: u64, now: Timestamp, conditions: &Conditions) {
        self.stop_strangers(now_ms, conditions);
        let ids: Vec<String> = self.tasks.keys().cloned().collect();
        for id in ids {
            self.step_task(&id, now_ms, now, conditions);
        }
        let over = |container: &Container| container.stop_at_ms.is_some_and(|at| at <= now_ms);
        self.containers.retain(|_, container| !over(container));
    }

    fn reports(&mut self) -> Vec<(String, TaskStatus)> {
        let unstored = self.tasks.iter_mut().filter(|(_, local)| local.stored != Some(local.status.state));
        let once = self.reports_once;
        unstored
            .map(|(id, local)| {
                if once {
                    local.stored = Some(local.status.state);
                }
                (id.clone(), local.status.clone())
            })
            .collect()
    }

    fn stored(&mut self, reports: &[(String, TaskState)]) {
        for (id, state) in reports {
            if let Some(local) = self.tasks.get_mut(id).filter(|local| local.status.state == *state) {
                local.stored = Some(*state);
            }
        }
    }

    fn crash(&mut self, keep_records: bool) {
        if !keep_records {
            self.tasks.clear();
            self.secrets.clear();
            self.generation = 0;
            self.lost_records = true;
        }
    }

    fn power_off(&mut self) {
        self.containers.clear();
    }

    fn containers(&self) -> Vec<&Container> {
        self.containers.values().collect()
    }

    fn secrets(&self) -> &BTreeSet<String> {
        &self.secrets
    }

    fn tasks(&self) -> Vec<&Task> {
        self.tasks.values().map(|local| &*local.task).collect()
    }

    fn records_kept(&self) -> bool {
        !self.lost_records
    }
}

impl SmallAgent {
    /// Containers of tasks that are not in the set are stopped.
    fn stop_strangers(&mut self, now_ms: u64, conditions: &Conditions) {
        let unknown: Vec<String> = self.containers.keys().filter(|id| !self.tasks.contains_key(*id)).cloned().collect();
        for id in unknown {
            self.stop(&id, now_ms, conditions);
        }
    }

    /// Asks a container to stop; whether it is gone.
    fn stop(&mut self, id: &str, now_ms: u64, conditions: &Conditions) -> bool {
        let grace = if conditions.ignore_stop { STOP_GRACE_MS } else { self.dice.between(0, 2_000) };
        let Some(container) = self.containers.get_mut(id) else { return true };
        let running = container.running;
        let at = *container.stop_at_ms.get_or_insert(if running { now_ms + grace } else { now_ms });
        if at <= now_ms {
            self.containers.remove(id);
        }
        at <= now_ms
    }

    fn step_task(&mut self, id: &str, now_ms: u64, now: Timestamp, conditions: &Conditions) {
        let Some(local) = self.tasks.get(id) else { return };
        let (state, desired) = (local.status.state, local.task.desired_state);
        if state.is_terminal() {
            self.stop(id, now_ms, conditions);
            return;
        }
        if desired > TaskState::Complete {
            if self.stop(id, now_ms, conditions) {
                self.enter(id, TaskState::Shutdown, now);
            }
            return;
        }
        match state {
            TaskState::Assigned => self.enter(id, TaskState::Accepted, now),
            TaskState::Accepted => {
                self.enter(id, TaskState::Preparing, now);
                self.create(id);
            }
            TaskState::Preparing => {
                let pull = self.dice.between(0, conditions.pull_max_ms);
                if self.stage_is_over(id, now_ms, pull) {
                    self.prepared(id, now, conditions);
                }
            }
            TaskState::Ready if desired >= TaskState::Running => self.enter(id, TaskState::Starting, now),
            TaskState::Starting => {
                let start = self.dice.between(0, 1_000);
                if self.stage_is_over(id, now_ms, start) {
                    self.started(id, now, conditions);
                }
            }
            TaskState::Running => self.watch(id, now, conditions),
            _ => {}
        }
    }

    fn create(&mut self, id: &str) {
        let Some(local) = self.tasks.get(id) else { return };
        let task = Arc::clone(&local.task);
        let legs = task.attachments.iter();
        let addresses = legs.flat_map(|leg| leg.addresses.iter().map(|net| (leg.network.0.clone(), net.addr())));
        let addresses = addresses.collect();
        let container = Container { task, running: false, addresses, stop_at_ms: None };
        self.containers.entry(id.to_owned()).or_insert(container);
    }

    fn prepared(&mut self, id: &str, now: Timestamp, conditions: &Conditions) {
        let missing = self.tasks.get(id).is_some_and(|local| local.task.spec.container.image == "missing");
        if missing || conditions.disk_full {
            self.containers.remove(id);
            self.enter(id, TaskState::Rejected, now);
        } else {
            self.create(id);
            self.enter(id, TaskState::Ready, now);
        }
    }

    fn started(&mut self, id: &str, now: Timestamp, conditions: &Conditions) {
        let broken = self.tasks.get(id).is_some_and(|local| local.task.spec.container.image == "broken");
        let failed = broken || self.dice.chance(conditions.start_failures_per_mille);
        match self.containers.get_mut(id) {
            Some(container) if !failed => {
                container.running = true;
                self.enter(id, TaskState::Running, now);
            }
            _ => {
                self.containers.remove(id);
                self.enter(id, TaskState::Failed, now);
            }
        }
    }

    /// Notices when a container has ended.
    fn watch(&mut self, id: &str, now: Timestamp, conditions: &Conditions) {
        let job = self.tasks.get(id).is_some_and(|local| local.task.job_iteration.is_some());
        // A job's task ends sooner or later, and where things go well it ends well.
        let failing = conditions.exits_per_mille > 0;
        let ends = self.dice.chance(if job { JOB_ENDS_PER_MILLE } else { conditions.exits_per_mille });
        if ends {
            self.containers.remove(id);
        }
        if !self.containers.get(id).is_some_and(|container| container.running) {
            self.containers.remove(id);
            let well = ends && ((job && !failing) || self.dice.chance(if job { 700 } else { 300 }));
            self.enter(id, if well { TaskState::Complete } else { TaskState::Failed }, now);
        }
    }

    fn stage_is_over(&mut self, id: &str, now_ms: u64, lasts_ms: u64) -> bool {
        let Some(local) = self.tasks.get_mut(id) else { return false };
        now_ms >= *local.until_ms.get_or_insert(now_ms + lasts_ms)
    }

    fn enter(&mut self, id: &str, state: TaskState, now: Timestamp) {
        let Some(local) = self.tasks.get_mut(id) else { return };
        local.until_ms = None;
        local.status.state = state;
        local.status.timestamp = now;
        local.status.message = state.as_str().into();
        let container_id = format!("container-{id}").as_str().into();
        local.status.container = Some(TaskContainerStatus { container_id, pid: 1, ipv6: false, exit_code: 0 });
    }
}
