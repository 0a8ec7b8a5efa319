//! A store with a leader around it, for tests: commands are applied at once and time
//! moves when told.

use crate::command::{Command, Write};
use crate::ids::IdSource;
use crate::plan::{Plan, plan};
use crate::store::{Applied, Rejection, Store};
use crate::{assign, edit};
use skep_model::id::{NodeId, ServiceId};
use skep_model::node::{Availability, Node, NodeDescription, NodeState, Platform, Role};
use skep_model::service::{ServiceMode, ServiceSpec};
use skep_model::task::{Task, TaskContainerStatus, TaskState, TaskStatus};
use skep_model::{Result, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Counts, scattered over the id space like random ids.
#[derive(Default)]
pub(crate) struct Counter(u64);

impl IdSource for Counter {
    fn next(&mut self) -> u128 {
        self.0 += 1;
        u128::from(self.0).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    }
}

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) now: Timestamp,
    pub(crate) ids: Counter,
    commands: u64,
}

impl World {
    /// A swarm of ready nodes `n1`, `n2`, ...; the first is its manager.
    pub(crate) fn with_nodes(count: usize) -> Self {
        let mut world = Self {
            store: Store::default(),
            now: Timestamp(1_800_000_000_000_000_000),
            ids: Counter::default(),
            commands: 0,
        };
        let facts = edit::Bootstrap { cluster: Default::default(), node: node("n1", Role::Manager) };
        let writes = edit::bootstrap(facts, world.now, &mut world.ids);
        world.apply(writes).unwrap();
        for number in 2..=count {
            let writes = edit::join_node(&world.store, node(&format!("n{number}"), Role::Worker)).unwrap();
            world.apply(writes).unwrap();
        }
        for number in 1..=count {
            world.ready(&format!("n{number}"));
        }
        world.settle();
        world
    }

    pub(crate) fn apply(&mut self, writes: Vec<Write>) -> std::result::Result<Applied, Rejection> {
        self.commands += 1;
        let command = Command { id: self.commands.to_string(), at: self.now, writes, independent: false };
        self.store.apply(self.store.index() + 1, &command)
    }

    pub(crate) fn ready(&mut self, node: &str) {
        let description = NodeDescription {
            hostname: node.into(),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            nano_cpus: 2_000_000_000,
            memory_bytes: 4 << 30,
            ..NodeDescription::default()
        };
        let writes = edit::node_ready(&self.store, &NodeId::from(node), description, "192.0.2.1", "192.0.2.1").unwrap();
        self.apply(writes).unwrap();
    }

    pub(crate) fn node_state(&mut self, node: &str, state: NodeState) {
        let writes = edit::node_state(&self.store, &NodeId::from(node), state, "").unwrap();
        self.apply(writes).unwrap();
    }

    pub(crate) fn availability(&mut self, node: &str, availability: Availability) {
        let present = self.store.node(node).unwrap().clone();
        let spec = skep_model::node::NodeSpec { availability, ..present.spec.clone() };
        let writes = edit::update_node(&self.store, &present.id, present.meta.version, spec).unwrap();
        self.apply(writes).unwrap();
    }

    pub(crate) fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        self.try_create(spec).unwrap()
    }

    pub(crate) fn try_create(&mut self, spec: ServiceSpec) -> Result<ServiceId> {
        let (id, writes) = edit::create_service(&self.store, spec, self.now, &mut self.ids)?;
        self.apply(writes).unwrap();
        Ok(id)
    }

    pub(crate) fn update(&mut self, id: &ServiceId, change: impl FnOnce(&mut ServiceSpec)) {
        let present = self.store.service(id.as_str()).unwrap().clone();
        let mut spec = present.spec.clone();
        change(&mut spec);
        let writes = edit::update_service(&self.store, id, present.meta.version, spec, false, self.now).unwrap();
        self.apply(writes).unwrap();
    }

    pub(crate) fn remove(&mut self, id: &ServiceId) {
        let writes = edit::remove_service(&self.store, id, self.now).unwrap();
        self.apply(writes).unwrap();
    }

    /// Plans once and applies it; every write must be accepted.
    pub(crate) fn plan(&mut self) -> Plan {
        let plan = plan(&self.store, &BTreeSet::new(), self.now, &mut self.ids);
        if !plan.writes.is_empty() {
            self.commands += 1;
            let writes = plan.writes.clone();
            let command = Command { id: self.commands.to_string(), at: self.now, writes, independent: true };
            let applied = self.store.apply(self.store.index() + 1, &command).unwrap();
            assert_eq!(applied.dropped, [], "a plan's writes must be acceptable");
        }
        plan
    }

    /// Plans until nothing is left to do; returns the last, empty plan.
    pub(crate) fn settle(&mut self) -> Plan {
        for _ in 0..5 {
            let plan = self.plan();
            if plan.writes.is_empty() {
                return plan;
            }
        }
        panic!("planning does not reach a fixed point");
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    pub(crate) fn report(&mut self, task: &Task, state: TaskState) {
        let container = TaskContainerStatus {
            container_id: format!("c-{}", task.id).as_str().into(),
            pid: 1,
            ipv6: true,
            exit_code: 0,
        };
        let status = TaskStatus { state, timestamp: self.now, container: Some(container), ..TaskStatus::default() };
        let writes = edit::task_status(&self.store, &task.node_id, &[(task.id.0.clone(), status)]).unwrap();
        self.apply(writes).unwrap();
    }

    /// Lets every node do what its assignments say, and the leader plan, until both rest.
    pub(crate) fn work(&mut self) {
        for _ in 0..100 {
            self.settle();
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            for (task, state) in steps {
                self.report(&task, state);
            }
        }
        panic!("nodes and leader never rest");
    }

    /// What ready nodes' healthy tasks do next.
    pub(crate) fn steps(&self) -> Vec<(Arc<Task>, TaskState)> {
        let ready = self.store.nodes().filter(|node| node.status.state == NodeState::Ready);
        let assigned = ready.flat_map(|node| assign::assignments(&self.store, &node.id).tasks.into_values());
        assigned.filter_map(|task| next(&task).map(|state| (task, state))).collect()
    }

    /// Tasks of a service that run and are meant to.
    pub(crate) fn running(&self, service: &ServiceId) -> Vec<Arc<Task>> {
        let tasks = self.store.tasks_of_service(service.as_str());
        let mut tasks: Vec<_> =
            tasks.filter(|t| t.status.state == TaskState::Running && t.is_wanted()).cloned().collect();
        tasks.sort_by_key(|task| (task.slot, task.node_id.clone()));
        tasks
    }

    pub(crate) fn tasks(&self, service: &ServiceId) -> Vec<Arc<Task>> {
        let mut tasks: Vec<_> = self.store.tasks_of_service(service.as_str()).cloned().collect();
        tasks.sort_by_key(|task| (task.slot, task.created_index, task.id.clone()));
        tasks
    }
}

fn next(task: &Task) -> Option<TaskState> {
    let state = task.status.state;
    if state.is_terminal() {
        return None;
    }
    if task.desired_state > TaskState::Complete {
        return Some(TaskState::Shutdown);
    }
    if state < TaskState::Ready {
        return Some(TaskState::Ready);
    }
    (task.desired_state >= TaskState::Running && state < TaskState::Running).then_some(TaskState::Running)
}

fn node(id: &str, role: Role) -> Node {
    let mut node = Node { id: id.into(), role, ..Node::default() };
    node.spec.role = role;
    node
}

pub(crate) fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec =
        ServiceSpec { name: name.into(), mode: ServiceMode::Replicated { replicas }, ..ServiceSpec::default() };
    spec.task.container.image = "busybox".into();
    spec
}
