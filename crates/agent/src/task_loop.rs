//! One task's loop: asks [`crate::step`] what to do, does it, writes down what came of it.

use crate::executor::{Executor, Seen, Until};
use crate::files::Dependencies;
use crate::local_db::LocalDb;
use crate::network::NetworkKeeper;
use crate::report::Reporter;
use crate::step::{Action, Outcome, Situation, step};
use chrono::Utc;
use skep_model::task::{Task, TaskState, TaskStatus};
use skep_model::{Error, ErrorKind, Result, Timestamp};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all task loops of a node share.
pub(crate) struct Shared {
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) db: LocalDb,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) network: Arc<NetworkKeeper>,
    pub(crate) dependencies: RwLock<Dependencies>,
    /// A manager has said since the start what this node is to run. Before that nothing
    /// new is begun, since it may be running elsewhere by now.
    pub(crate) told: watch::Sender<bool>,
}

/// What is wanted of a task; all of it that may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) desired: TaskState,
    pub(crate) start_not_before: Timestamp,
    /// Once the task is no longer assigned, its container and record go.
    pub(crate) assigned: bool,
}

impl Wanted {
    pub(crate) fn of(task: &Task) -> Self {
        Self { desired: task.desired_state, start_not_before: task.start_not_before, assigned: true }
    }

    /// The task is no longer in the set.
    pub(crate) fn gone() -> Self {
        Self { desired: TaskState::Remove, start_not_before: Timestamp::NEVER, assigned: false }
    }
}

pub(crate) struct TaskLoop {
    shared: Arc<Shared>,
    task: Task,
    wanted: watch::Receiver<Wanted>,
    status: watch::Sender<TaskStatus>,
    failures: u32,
    removed: bool,
}

impl TaskLoop {
    /// `task.status` is where the task is by this node's own record, else the manager's.
    pub(crate) fn new(
        shared: Arc<Shared>,
        task: Task,
        wanted: watch::Receiver<Wanted>,
        status: watch::Sender<TaskStatus>,
    ) -> Self {
        Self { shared, task, wanted, status, failures: 0, removed: false }
    }

    /// Runs until the task is unassigned and gone, or until the worker is.
    pub(crate) async fn run(mut self) {
        let mut outcome = None;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let next = step(&Situation {
                status: &self.task.status,
                desired: wanted.desired,
                start_not_before: wanted.start_not_before,
                failures: self.failures,
                removed: self.removed,
                now: now(),
                outcome: outcome.clone(),
            });
            self.failures = match outcome {
                Some(Outcome::Failed { .. }) => self.failures.saturating_add(1),
                Some(_) => 0,
                None => self.failures,
            };
            self.take_status(next.status).await;
            if next.action == Action::Hold && self.removed && !wanted.assigned {
                return self.forget().await;
            }
            let Some(came) = self.act(next.action).await else { return };
            self.removed |= came == Some(Outcome::Removed);
            outcome = came;
        }
    }

    /// Writes a new status down, then reports it.
    async fn take_status(&mut self, status: TaskStatus) {
        if status == self.task.status {
            return;
        }
        tracing::debug!(task = %self.task.id, state = status.state.as_str(), err = status.err, "task");
        if status.state != self.task.status.state {
            self.failures = 0;
        }
        self.task.status = status;
        if let Err(error) = self.shared.db.put_task(&self.task).await {
            // The container itself tells the state after a restart.
            tracing::error!(task = %self.task.id, %error, "cannot record a task's state");
        }
        self.status.send_replace(self.task.status.clone());
        self.shared.reporter.push(&self.task.id, &self.task.status);
    }

    async fn forget(&self) {
        if let Err(error) = self.shared.db.remove_task(&self.task.id).await {
            tracing::error!(task = %self.task.id, %error, "cannot remove a task's record");
        }
        self.shared.reporter.forget(&self.task.id);
    }

    /// Does one thing. The outer `None`: the worker is gone, so the loop ends and the
    /// container stays as it is. The inner `None`: interrupted or nothing came of it.
    async fn act(&mut self, action: Action) -> Option<Option<Outcome>> {
        match action {
            Action::Again => Some(None),
            Action::Hold => self.changed().await.map(|()| None),
            Action::HoldUntil(at) => {
                let pause = at.since(now()).max(Duration::from_millis(1));
                tokio::select! {
                    changed = self.changed() => changed.map(|()| None),
                    () = tokio::time::sleep(pause) => Some(None),
                }
            }
            Action::Prepare => self.prepare().await,
            Action::Start => self.start().await,
            Action::AwaitHealthy => self.watch(Until::Healthy).await,
            Action::AwaitExit => self.watch(Until::Exit).await,
            Action::Stop => {
                // The swarm takes the task out of its balancers before it ends it.
                if self.task.status.state == TaskState::Running {
                    self.shared.network.drain(&self.task).await;
                }
                Some(Some(self.stop().await.map_or_else(failed, Outcome::Stopped)))
            }
            Action::StopUnhealthy => Some(Some(self.stop().await.map_or_else(failed, Outcome::StoppedUnhealthy))),
            Action::Remove => {
                let removed = self.shared.executor.remove(&self.task.id).await;
                Some(Some(removed.map_or_else(failed, |()| Outcome::Removed)))
            }
        }
    }

    async fn changed(&mut self) -> Option<()> {
        self.wanted.changed().await.ok()
    }

    /// Waits for a manager's word. `Some(false)`: something else is wanted meanwhile.
    async fn told(&mut self) -> Option<bool> {
        let mut told = self.shared.told.subscribe();
        tokio::select! {
            outcome = told.wait_for(|told| *told) => outcome.ok().map(|_| true),
            changed = self.wanted.changed() => changed.ok().map(|()| false),
        }
    }

    async fn prepare(&mut self) -> Option<Option<Outcome>> {
        if !self.told().await? {
            return Some(None);
        }
        let cancel = CancellationToken::new();
        let shared = self.shared.clone();
        let task = self.task.clone();
        let work = prepare(&shared, &task, &cancel);
        tokio::pin!(work);
        let mut worker_is_gone = false;
        loop {
            tokio::select! {
                done = &mut work => {
                    let outcome = match done {
                        Err(_) if cancel.is_cancelled() => None,
                        done => Some(done.map_or_else(failed, |()| Outcome::Prepared)),
                    };
                    return if worker_is_gone { None } else { Some(outcome) };
                }
                changed = self.wanted.changed(), if !worker_is_gone => {
                    worker_is_gone = changed.is_err();
                    if worker_is_gone || self.wanted.borrow_and_update().desired >= TaskState::Shutdown {
                        cancel.cancel();
                    }
                }
            }
        }
    }

    /// Not interrupted: a start is short, and half of one helps nobody.
    async fn start(&mut self) -> Option<Option<Outcome>> {
        if !self.told().await? {
            return Some(None);
        }
        let started = async {
            self.shared.network.wait_for_networks(&self.task).await?;
            let files = files_of(&self.shared, &self.task)?;
            self.shared.executor.start(&self.task, files).await
        };
        let named = |error| failed(with_node_of_port(error, &self.shared.executor.node().hostname));
        Some(Some(started.await.map_or_else(named, Outcome::Started)))
    }

    async fn watch(&mut self, until: Until) -> Option<Option<Outcome>> {
        let shared = self.shared.clone();
        let seen = tokio::select! {
            seen = shared.executor.watch(&self.task, until) => seen,
            changed = self.wanted.changed() => return changed.ok().map(|()| None),
        };
        Some(Some(match seen {
            Ok(Seen::Healthy) => Outcome::Healthy,
            Ok(Seen::Unhealthy) => Outcome::Unhealthy,
            Ok(Seen::Exited { container, cause }) => Outcome::Exited { container, cause },
            Err(error) => failed(error),
        }))
    }

    async fn stop(&self) -> Result<Option<skep_model::task::TaskContainerStatus>> {
        self.shared.executor.stop(&self.task).await
    }
}

async fn prepare(shared: &Shared, task: &Task, cancel: &CancellationToken) -> Result<()> {
    tokio::select! {
        ready = shared.network.wait_for_networks(task) => ready?,
        () = cancel.cancelled() => return Err(Error::unavailable("preparing was given up")),
    }
    let files = files_of(shared, task)?;
    let mut task = task.clone();
    let auth = shared.dependencies.read().unwrap_or_else(PoisonError::into_inner).pull_auth.get(&task.id).cloned();
    task.spec.container.pull_auth = auth.unwrap_or_default();
    shared.executor.prepare(&task, files, cancel).await
}

fn files_of(shared: &Shared, task: &Task) -> Result<Vec<skep_model::container::InjectedFile>> {
    let node = shared.executor.node();
    shared.dependencies.read().unwrap_or_else(PoisonError::into_inner).files_of(task, &node)
}

/// Another node may have the port free: whoever reads the error has to know which has not.
fn with_node_of_port(error: Error, hostname: &str) -> Error {
    if error.message.contains("Bind for ") && !hostname.is_empty() {
        return Error { message: format!("node {hostname}: {}", error.message), ..error };
    }
    error
}

fn failed(error: Error) -> Outcome {
    Outcome::Failed { passing: error.kind == ErrorKind::Unavailable, message: error.message }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(Utc::now())
}
