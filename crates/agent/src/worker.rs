//! Owns the assigned set and one task loop per task: what the manager wants becomes loops,
//! what it no longer wants is removed.

use crate::assigned::{AssignedSet, Refused};
use crate::task_loop::{Shared, TaskLoop, Wanted};
use skep_model::id::TaskId;
use skep_model::task::{Task, TaskState, TaskStatus};
use skep_model::{Error, Result};
use skep_proto::dispatcher::AssignmentsMessage;
use skep_proto::dispatcher::assignments_message::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long the loops may take to end what they are doing.
const LOOPS_END_MAX: Duration = Duration::from_secs(3);

/// One task on this node.
struct Running {
    wanted: watch::Sender<Wanted>,
    status: watch::Receiver<TaskStatus>,
    handle: JoinHandle<()>,
}

/// See the module. Dropping it ends the loops and leaves the containers as they are.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    assigned: AssignedSet,
    running: BTreeMap<TaskId, Running>,
}

impl Worker {
    /// Takes up the tasks that were on this node before: their containers are watched, and
    /// what they do is reported, with or without a manager.
    pub(crate) fn open(shared: Arc<Shared>) -> Result<Self> {
        let mut worker = Self { shared, assigned: AssignedSet::default(), running: BTreeMap::new() };
        for task in worker.shared.db.tasks()? {
            let wanted = Wanted::of(&task);
            worker.spawn(task, wanted);
        }
        Ok(worker)
    }

    /// Takes a manager's message.
    ///
    /// # Errors
    /// When it does not fit what is known; a new session then brings a complete set.
    pub(crate) async fn apply(&mut self, message: &AssignmentsMessage) -> Result<(), Refused> {
        let first = !self.assigned.is_complete();
        self.assigned.apply(message)?;
        // Networks and files first, since the tasks wait for them.
        if let Some(network) = &self.assigned.network {
            self.shared.network.want(network.clone());
        }
        self.shared.network.note_assigned(self.assigned.generation());
        let dependencies = self.assigned.dependencies.clone();
        *self.shared.dependencies.write().unwrap_or_else(PoisonError::into_inner) = dependencies;
        self.reconcile();
        if message.kind == Kind::Complete as i32 {
            self.report_differences();
        }
        self.shared.told.send_replace(true);
        if first {
            self.remove_strangers().await;
        }
        Ok(())
    }

    /// Removes every task of this node; the node leaves its swarm.
    pub(crate) async fn remove_all(&mut self) -> Result<()> {
        self.end_loops().await;
        let mut failures = Vec::new();
        for id in self.shared.executor.tasks().await? {
            if let Err(error) = self.shared.executor.remove(&id).await {
                failures.push(format!("task {id}: {error}"));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::internal(failures.join("; "))) }
    }

    /// Ends the loops and leaves the containers as they are. What is being done to one is
    /// done to its end, within a limit.
    pub(crate) async fn end_loops(&mut self) {
        let until = tokio::time::Instant::now() + LOOPS_END_MAX;
        let loops = std::mem::take(&mut self.running).into_values();
        // Without its sender a loop ends at its next wait.
        let mut handles: Vec<JoinHandle<()>> = loops.map(|running| running.handle).collect();
        for handle in &mut handles {
            if tokio::time::timeout_at(until, &mut *handle).await.is_err() {
                handle.abort();
                // An aborted loop ends with an error that says just that.
                let _ = handle.await;
            }
        }
    }

    /// Makes the loops equal to the set.
    fn reconcile(&mut self) {
        self.running.retain(|_, running| !running.handle.is_finished());
        let new: Vec<Arc<Task>> =
            self.assigned.tasks.values().filter(|task| !self.running.contains_key(&task.id)).cloned().collect();
        for task in new {
            let wanted = Wanted::of(&task);
            self.spawn(Task::clone(&task), wanted);
        }
        for (id, running) in &self.running {
            let wanted = self.assigned.tasks.get(id.as_str()).map_or_else(Wanted::gone, |task| Wanted::of(task));
            running.wanted.send_if_modified(|now| {
                let changed = *now != wanted;
                *now = wanted;
                changed
            });
        }
    }

    fn spawn(&mut self, task: Task, wanted: Wanted) {
        let id = task.id.clone();
        let (wanted, wanted_receiver) = watch::channel(wanted);
        let (status_sender, status) = watch::channel(task.status.clone());
        let task_loop = TaskLoop::new(self.shared.clone(), task, wanted_receiver, status_sender);
        let handle = tokio::spawn(task_loop.run());
        self.running.insert(id, Running { wanted, status, handle });
    }

    /// What the manager has not heard of, because a report was lost with its session.
    fn report_differences(&self) {
        for (id, running) in &self.running {
            let status = running.status.borrow().clone();
            let known = self.assigned.tasks.get(id.as_str()).map(|task| task.status.state);
            if known.is_some_and(|known| status.state > known && known <= TaskState::Running) {
                self.shared.reporter.push(id, &status);
            }
        }
    }

    /// Containers of tasks that nobody knows: left by a swarm this node was in, or of tasks
    /// that were removed while it was away.
    async fn remove_strangers(&self) {
        let tasks = match self.shared.executor.tasks().await {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::warn!(%error, "cannot list the containers of tasks");
                return;
            }
        };
        for id in tasks.iter().filter(|id| !self.running.contains_key(*id)) {
            tracing::info!(task = %id, "removing the container of an unknown task");
            if let Err(error) = self.shared.executor.remove(id).await {
                tracing::warn!(task = %id, %error, "cannot remove the container of an unknown task");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.handle.abort();
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
