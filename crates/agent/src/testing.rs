//! Stand-ins for the machine and the manager, for the tests of this crate.

use crate::executor::{Executor, Seen, Until};
use crate::local_db::LocalDb;
use crate::network::NetworkKeeper;
use crate::report::Reporter;
use crate::step::Started;
use crate::task_loop::Shared;
use async_trait::async_trait;
use skep_model::container::InjectedFile;
use skep_model::id::TaskId;
use skep_model::netstate::ClusterNetState;
use skep_model::task::{Task, TaskContainerStatus, TaskState};
use skep_model::{Error, Result};
use skep_proto::codec;
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::assignments_message::Kind;
use skep_proto::dispatcher::{AssignmentChange, AssignmentsMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Default)]
struct FakeContainer {
    started: bool,
    exit_code: Option<i32>,
    healthy: bool,
}

#[derive(Debug, Default)]
struct FakeMachine {
    containers: BTreeMap<TaskId, FakeContainer>,
    log: Vec<String>,
    prepare_error: Option<Error>,
    pull_hangs: bool,
    has_health_check: bool,
    network_failures: u32,
    network_generations: Vec<u64>,
}

/// An executor whose containers are entries of a map.
#[derive(Debug, Default)]
pub(crate) struct FakeExecutor {
    machine: Mutex<FakeMachine>,
    changed: watch::Sender<u64>,
}

impl FakeExecutor {
    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(crate) fn exit(&self, task: &str, exit_code: i32) {
        self.lock().containers.get_mut(task).unwrap().exit_code = Some(exit_code);
        self.touch();
    }

    pub(crate) fn become_healthy(&self, task: &str) {
        self.lock().containers.get_mut(task).unwrap().healthy = true;
        self.touch();
    }

    pub(crate) fn use_health_check(&self) {
        self.lock().has_health_check = true;
    }

    pub(crate) fn fail_prepare(&self, error: Option<Error>) {
        self.lock().prepare_error = error;
    }

    pub(crate) fn hang_pull(&self) {
        self.lock().pull_hangs = true;
    }

    pub(crate) fn add_container(&self, task: &str) {
        self.lock().containers.insert(task.into(), FakeContainer::default());
    }

    pub(crate) fn fail_network(&self, times: u32) {
        self.lock().network_failures = times;
    }

    pub(crate) fn network_generations(&self) -> Vec<u64> {
        self.lock().network_generations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, FakeMachine> {
        self.machine.lock().unwrap()
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

fn container_status(task: &TaskId, exit_code: i32) -> TaskContainerStatus {
    TaskContainerStatus { container_id: format!("container-{task}").into(), pid: 0, ipv6: false, exit_code }
}

#[async_trait]
impl Executor for FakeExecutor {
    async fn prepare(&self, task: &Task, _: Vec<InjectedFile>, cancel: &CancellationToken) -> Result<()> {
        self.lock().log.push(format!("prepare {}", task.id));
        if self.lock().pull_hangs {
            cancel.cancelled().await;
            return Err(Error::unavailable("given up"));
        }
        let mut machine = self.lock();
        if let Some(error) = machine.prepare_error.clone() {
            return Err(error);
        }
        machine.containers.entry(task.id.clone()).or_default();
        Ok(())
    }

    async fn start(&self, task: &Task, _: Vec<InjectedFile>) -> Result<Started> {
        let mut machine = self.lock();
        let checked = machine.has_health_check;
        let container = machine.containers.entry(task.id.clone()).or_default();
        let healthy = !checked || container.healthy;
        if !std::mem::replace(&mut container.started, true) {
            machine.log.push(format!("start {}", task.id));
        }
        Ok(Started { container: container_status(&task.id, 0), ports: Vec::new(), healthy })
    }

    async fn watch(&self, task: &Task, until: Until) -> Result<Seen> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let machine = self.lock();
                let container =
                    machine.containers.get(&task.id).ok_or_else(|| Error::not_found("No such container"))?;
                if let Some(exit_code) = container.exit_code {
                    let container = container_status(&task.id, exit_code);
                    return Ok(Seen::Exited { container, cause: String::new() });
                }
                if until == Until::Healthy && container.healthy {
                    return Ok(Seen::Healthy);
                }
            }
            changed.changed().await.unwrap();
        }
    }

    async fn stop(&self, task: &Task) -> Result<Option<TaskContainerStatus>> {
        let mut machine = self.lock();
        machine.log.push(format!("stop {}", task.id));
        let container = machine.containers.get_mut(&task.id);
        Ok(container.map(|container| {
            container.exit_code = Some(143);
            container_status(&task.id, 143)
        }))
    }

    async fn remove(&self, task: &TaskId) -> Result<()> {
        let mut machine = self.lock();
        machine.log.push(format!("remove {task}"));
        machine.containers.remove(task);
        Ok(())
    }

    async fn tasks(&self) -> Result<BTreeSet<TaskId>> {
        Ok(self.lock().containers.keys().cloned().collect())
    }

    async fn apply_network(&self, state: &ClusterNetState) -> Result<()> {
        let mut machine = self.lock();
        if machine.network_failures > 0 {
            machine.network_failures -= 1;
            return Err(Error::unavailable("netd is away"));
        }
        machine.network_generations.push(state.generation);
        Ok(())
    }

    async fn clear_network(&self) -> Result<()> {
        self.lock().log.push("clear network".into());
        Ok(())
    }
}

/// What task loops share, over a fake machine. The network keeper does not run.
pub(crate) fn shared(directory: &Path, executor: Arc<FakeExecutor>) -> Arc<Shared> {
    Arc::new(Shared {
        executor,
        db: LocalDb::open(directory).unwrap(),
        reporter: Arc::new(Reporter::default()),
        network: Arc::new(NetworkKeeper::new()),
        dependencies: std::sync::RwLock::default(),
        told: watch::Sender::new(false),
    })
}

/// A fresh task as a manager assigns it.
pub(crate) fn task(id: &str, desired_state: TaskState) -> Task {
    let mut task = Task { id: id.into(), service_name: "web".into(), slot: 1, desired_state, ..Task::default() };
    task.status.state = TaskState::Assigned;
    task
}

pub(crate) fn message(
    kind: Kind,
    applies_to: u64,
    results_in: u64,
    changes: Vec<AssignmentChange>,
) -> AssignmentsMessage {
    AssignmentsMessage { kind: kind as i32, applies_to, results_in, changes }
}

pub(crate) fn updated(task: &Task) -> AssignmentChange {
    AssignmentChange { action: Action::Update as i32, item: Some(Item::Task(codec::encode(task))) }
}

pub(crate) fn removed(task: &Task) -> AssignmentChange {
    AssignmentChange { action: Action::Remove as i32, item: Some(Item::Task(codec::encode(task))) }
}
