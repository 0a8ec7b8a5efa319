//! Statuses on their way to a manager: the newest of each task, kept until acknowledged.

use skep_model::id::TaskId;
use skep_model::task::TaskStatus;
use skep_proto::codec;
use skep_proto::dispatcher::{TaskStatusUpdate, UpdateTaskStatusRequest};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Statuses that follow each other this closely go in one message.
const BATCH_DELAY: Duration = Duration::from_millis(3);
/// Updates in one message at most, far below the message size limit.
const BATCH_MAX: usize = 1000;

#[derive(Debug, Default)]
struct Pending {
    serial: u64,
    statuses: BTreeMap<TaskId, (u64, TaskStatus)>,
}

/// The queue of statuses; bounded by the number of tasks on this node.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    pending: Mutex<Pending>,
    filled: Notify,
    emptied: Notify,
}

/// Statuses that were taken to be sent, with their serials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch(BTreeMap<TaskId, (u64, TaskStatus)>);

impl Batch {
    pub(crate) fn to_request(&self, session_id: &str) -> UpdateTaskStatusRequest {
        let update = |(id, (_, status)): (&TaskId, &(u64, TaskStatus))| TaskStatusUpdate {
            task_id: id.0.clone(),
            status: codec::encode(status),
        };
        UpdateTaskStatusRequest { session_id: session_id.to_owned(), updates: self.0.iter().map(update).collect() }
    }

    #[cfg(test)]
    pub(crate) fn states(&self) -> Vec<(String, skep_model::task::TaskState)> {
        self.0.iter().map(|(id, (_, status))| (id.0.clone(), status.state)).collect()
    }
}

impl Reporter {
    /// Queues a status; it replaces an older one of the task.
    pub(crate) fn push(&self, id: &TaskId, status: &TaskStatus) {
        let mut pending = self.lock();
        pending.serial += 1;
        let serial = pending.serial;
        pending.statuses.insert(id.clone(), (serial, status.clone()));
        drop(pending);
        self.filled.notify_one();
    }

    /// The task is gone; nobody wants its status any more.
    pub(crate) fn forget(&self, id: &TaskId) {
        self.lock().statuses.remove(id);
    }

    /// Waits for something to report, and a moment for more.
    pub(crate) async fn next_batch(&self) -> Batch {
        loop {
            let filled = self.filled.notified();
            if !self.lock().statuses.is_empty() {
                break;
            }
            filled.await;
        }
        tokio::time::sleep(BATCH_DELAY).await;
        let pending = self.lock();
        Batch(pending.statuses.iter().take(BATCH_MAX).map(|(id, entry)| (id.clone(), entry.clone())).collect())
    }

    /// A manager has the batch: what changed meanwhile stays queued.
    pub(crate) fn acknowledge(&self, batch: &Batch) {
        let mut pending = self.lock();
        for (id, (serial, _)) in &batch.0 {
            if pending.statuses.get(id).is_some_and(|(now, _)| now == serial) {
                pending.statuses.remove(id);
            }
        }
        if pending.statuses.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until everything is acknowledged.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().statuses.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::task::TaskState;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus { state, ..TaskStatus::default() }
    }

    #[tokio::test]
    async fn the_newest_status_of_each_task_is_kept_until_acknowledged() {
        let reporter = Reporter::default();
        reporter.push(&"a".into(), &status(TaskState::Accepted));
        reporter.push(&"a".into(), &status(TaskState::Preparing));
        reporter.push(&"b".into(), &status(TaskState::Running));
        let batch = reporter.next_batch().await;
        assert_eq!(batch.states(), [("a".to_owned(), TaskState::Preparing), ("b".to_owned(), TaskState::Running)]);
        reporter.push(&"a".into(), &status(TaskState::Ready));
        reporter.acknowledge(&batch);
        assert_eq!(reporter.next_batch().await.states(), [("a".to_owned(), TaskState::Ready)]);
        reporter.forget(&"a".into());
        assert!(reporter.is_empty());
    }

    #[tokio::test]
    async fn waits_while_there_is_nothing() {
        let reporter = Reporter::default();
        assert!(tokio::time::timeout(Duration::from_millis(20), reporter.next_batch()).await.is_err());
    }
}
