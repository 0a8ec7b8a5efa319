//! Task statuses from all agents, gathered into few commands: what comes in while one
//! command is being committed makes up the next.

use crate::raft::Replicator;
use skep_cluster::Store;
use skep_cluster::command::{Key, Kind, WRITES_PER_COMMAND_MAX, Write};
use skep_cluster::edit::task_status;
use skep_model::Error;
use skep_model::id::NodeId;
use skep_model::task::TaskStatus;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests answered by one round.
const REPORTS_PER_ROUND_MAX: usize = 1000;
/// Tries before writes that are always overtaken are given up.
const TRIES_MAX: usize = 16;

/// Statuses of one call.
pub(crate) struct Report {
    pub(crate) node: NodeId,
    pub(crate) updates: Vec<(String, TaskStatus)>,
    /// Answered when they are facts.
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

type Updates = BTreeMap<NodeId, BTreeMap<String, TaskStatus>>;

/// Runs until `stop`.
pub(crate) async fn run(
    replicator: &Replicator,
    mut reports: mpsc::Receiver<Report>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            report = reports.recv() => report,
        };
        let Some(first) = first else { return Ok(()) };
        let mut round = vec![first];
        while round.len() < REPORTS_PER_ROUND_MAX
            && let Ok(report) = reports.try_recv()
        {
            round.push(report);
        }
        record(replicator, round).await;
    }
}

async fn record(replicator: &Replicator, round: Vec<Report>) {
    let mut failed: BTreeMap<NodeId, Error> = BTreeMap::new();
    let mut updates = merge(&round);
    for _ in 0..TRIES_MAX {
        let writes = decide(&replicator.store().snapshot(), &updates, &mut failed);
        let dropped = match propose(replicator, writes).await {
            Ok(dropped) => dropped,
            Err(error) => {
                failed.extend(updates.keys().map(|node| (node.clone(), error.clone())));
                break;
            }
        };
        // Something else changed these tasks meanwhile: decide for them again.
        for tasks in updates.values_mut() {
            tasks.retain(|task, _| dropped.contains(task));
        }
        updates.retain(|node, tasks| !tasks.is_empty() && !failed.contains_key(node));
        if updates.is_empty() {
            break;
        }
    }
    for node in updates.keys() {
        failed.entry(node.clone()).or_insert_with(|| Error::unavailable("statuses were overtaken again and again"));
    }
    for report in round {
        let result = failed.get(&report.node).map_or(Ok(()), |error| Err(error.clone()));
        // The agent may have gone away; the statuses are recorded all the same.
        let _ = report.done.send(result);
    }
}

/// One status a task: the furthest, and of equal ones the last.
fn merge(round: &[Report]) -> Updates {
    let mut updates = Updates::new();
    for report in round {
        let tasks = updates.entry(report.node.clone()).or_default();
        for (task, status) in &report.updates {
            match tasks.get(task) {
                Some(before) if before.state > status.state => {}
                _ => drop(tasks.insert(task.clone(), status.clone())),
            }
        }
    }
    updates
}

fn decide(store: &Store, updates: &Updates, failed: &mut BTreeMap<NodeId, Error>) -> Vec<Write> {
    let mut writes = Vec::new();
    for (node, tasks) in updates {
        let tasks: Vec<(String, TaskStatus)> = tasks.iter().map(|(id, status)| (id.clone(), status.clone())).collect();
        match task_status(store, node, &tasks) {
            Ok(decided) => writes.extend(decided),
            Err(error) => drop(failed.insert(node.clone(), error)),
        }
    }
    writes
}

/// Answers the ids of the tasks whose write was overtaken.
async fn propose(replicator: &Replicator, writes: Vec<Write>) -> Result<BTreeSet<String>, Error> {
    let mut dropped = BTreeSet::new();
    for chunk in writes.chunks(WRITES_PER_COMMAND_MAX) {
        let applied = replicator.propose(chunk.to_vec(), true).await?;
        dropped.extend(applied.dropped.into_iter().filter_map(|Key { kind, id }| (kind == Kind::Task).then_some(id)));
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::task::TaskState;

    #[test]
    fn the_furthest_status_of_a_task_wins() {
        let status = |state, message: &str| TaskStatus { state, message: message.into(), ..TaskStatus::default() };
        let report = |node: &str, updates| Report { node: node.into(), updates, done: oneshot::channel().0 };
        let round = [
            report("a", vec![("t".to_owned(), status(TaskState::Running, "1"))]),
            report("a", vec![("t".to_owned(), status(TaskState::Starting, "2"))]),
            report("a", vec![("u".to_owned(), status(TaskState::Running, "3"))]),
            report("a", vec![("u".to_owned(), status(TaskState::Running, "4"))]),
            report("b", vec![("t".to_owned(), status(TaskState::Failed, "5"))]),
        ];
        let merged = merge(&round);
        assert_eq!(merged[&NodeId::from("a")]["t"].message, "1");
        assert_eq!(merged[&NodeId::from("a")]["u"].message, "4");
        assert_eq!(merged[&NodeId::from("b")]["t"].message, "5");
    }
}
