//! What a service is waiting for, in words: what every planner says of it now, what its
//! tasks say of themselves, and which slots are given up.

use super::slots::{Slot, SlotKey, Vacancy, iteration, slots, vacancy, wanted};
use super::{Plan, plan};
use crate::command::{Key, Kind};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::node::NodeState;
use skep_model::service::{RestartCondition, Service, ServiceMode, UpdateState};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The state of one task that is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReason {
    pub task: Arc<str>,
    /// `web.2`
    pub name: String,
    pub state: TaskState,
    pub desired_state: TaskState,
    /// Its node's host name, else id; empty when it has none.
    pub node: String,
    /// What it waits for, or why it ended.
    pub reason: String,
}

/// Everything that keeps a service from being as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Why {
    pub service: String,
    /// One line: how much runs.
    pub summary: String,
    /// What the planners wait for.
    pub waiting: Vec<String>,
    pub tasks: Vec<TaskReason>,
}

/// Ids for a plan that nobody will carry out.
struct Throwaway(u128);

impl IdSource for Throwaway {
    fn next(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

/// Explains a service. Any manager can: it plans once more on its own copy and keeps only
/// what the planners say.
pub fn why(store: &Store, service: &Service, now: Timestamp) -> Why {
    let dirty = BTreeSet::from([Key::new(Kind::Service, service.id.as_str())]);
    let Plan { report, .. } = plan(store, &dirty, now, &mut Throwaway(0));
    let tasks: Vec<&Arc<Task>> = store.tasks_of_service(service.id.as_str()).collect();
    let named = [format!("service {}:", service.spec.name), format!("service {} ", service.spec.name)];
    let about = |line: &&String| {
        named.iter().any(|name| line.starts_with(name.as_str()))
            || tasks.iter().any(|task| line.contains(task.id.as_str()))
    };
    let mut waiting: Vec<String> = report.iter().filter(about).cloned().collect();
    waiting.extend(given_up(store, service, now));
    waiting.dedup();
    let mut reasons: Vec<TaskReason> = tasks.iter().filter_map(|task| reason(store, service, task, now)).collect();
    reasons.sort_by(|a, b| (a.name.len(), &a.name, &a.task).cmp(&(b.name.len(), &b.name, &b.task)));
    Why { service: service.spec.name.clone(), summary: summary(service, &tasks), waiting, tasks: reasons }
}

fn summary(service: &Service, tasks: &[&Arc<Task>]) -> String {
    let running = tasks.iter().filter(|task| task.is_wanted() && task.status.state == TaskState::Running).count();
    let wanted = tasks.iter().filter(|task| task.is_wanted()).count();
    let done =
        |task: &&&Arc<Task>| task.status.state == TaskState::Complete && task.job_iteration == iteration(service);
    let mut text = match service.spec.mode {
        ServiceMode::Replicated { replicas } => format!("{running} of {replicas} tasks run"),
        ServiceMode::Global => format!("{running} of {wanted} tasks run"),
        ServiceMode::ReplicatedJob { total_completions, .. } => {
            let done = tasks.iter().filter(done).count();
            format!("{done} of {total_completions} tasks are completed, {running} run")
        }
        ServiceMode::GlobalJob => {
            let done = tasks.iter().filter(done).count();
            format!("{done} tasks are completed, {running} of {wanted} run")
        }
    };
    if service.pending_delete {
        text.push_str("; it is being removed");
    }
    if let Some(status) = &service.update_status {
        let shown = !matches!(status.state, UpdateState::Completed | UpdateState::RollbackCompleted);
        text.push_str(&if shown { format!("; {}", status.message) } else { String::new() });
    }
    text
}

/// A line for every slot that nothing will fill any more.
fn given_up(store: &Store, service: &Service, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, slot) in slots(store, service.id.as_str()) {
        let result = slot.iter().any(|task| super::slots::is_result(service, task));
        if wanted(&slot).next().is_some() || result {
            continue;
        }
        lines.extend(given_up_slot(service, &key, &slot, now));
    }
    lines
}

fn given_up_slot(service: &Service, key: &SlotKey, slot: &Slot, now: Timestamp) -> Option<String> {
    let last = slot.iter().rev().find(|task| task.desired_state != TaskState::Remove)?;
    let Vacancy::Finished { until } = vacancy(service, key, slot, now) else { return None };
    let policy = &service.spec.task.restart;
    let cause = match (until, policy.condition) {
        (Some(at), _) => {
            format!("{} attempts were made; the next may begin at {}", policy.max_attempts, at.to_rfc3339())
        }
        (None, RestartCondition::None) => "its restart condition is none".into(),
        (None, _) if last.status.state == TaskState::Complete => "it ended well".into(),
        (None, RestartCondition::OnFailure | RestartCondition::Any) => {
            format!("all {} attempts were made", policy.max_attempts)
        }
    };
    let error = if last.status.err.is_empty() { String::new() } else { format!(" ({})", last.status.err) };
    Some(format!("{}: {}{error} and not started again: {cause}", last.slot_name(), last.status.state.as_str()))
}

/// What keeps a task from its desired state; `None` when it is there, or is history.
fn reason(store: &Store, service: &Service, task: &Task, now: Timestamp) -> Option<TaskReason> {
    let stopping = task.desired_state > TaskState::Complete;
    let over = task.status.state.is_terminal() || (stopping && task.status.state < TaskState::Assigned);
    let there = task.status.state == TaskState::Running && !stopping;
    if over || there {
        return None;
    }
    let node = store.node(task.node_id.as_str());
    let away = node.is_some_and(|node| node.status.state == NodeState::Down);
    let since = now.since(task.status.timestamp).as_secs();
    let reason = match (stopping, task.status.state) {
        (true, _) if away => "it was told to stop, but its node is down".into(),
        (true, _) => "it was told to stop and has not said that it has".into(),
        (false, _) if !task.status.err.is_empty() => task.status.err.clone(),
        (false, TaskState::New) => format!("waits for its addresses and ports since {since} s"),
        (false, TaskState::Pending) => format!("waits for a node since {since} s"),
        (false, TaskState::Ready) if task.desired_state == TaskState::Ready => held(task, now),
        (false, TaskState::Starting) if service.spec.task.container.healthcheck.is_some() => {
            format!("waits for its first successful health check since {since} s")
        }
        (false, state) => format!("{} since {since} s", state.as_str()),
    };
    let host = node.map(|node| node.description.hostname.clone()).filter(|name| !name.is_empty());
    Some(TaskReason {
        task: task.id.as_str().into(),
        name: task.slot_name(),
        state: task.status.state,
        desired_state: task.desired_state,
        node: host.unwrap_or_else(|| task.node_id.0.clone()),
        reason,
    })
}

fn held(task: &Task, now: Timestamp) -> String {
    if task.start_not_before > now {
        return format!("is ready; its restart delay ends at {}", task.start_not_before.to_rfc3339());
    }
    match &task.replaces {
        Some(old) => format!("is ready and waits until {old} has stopped"),
        None => "is ready and waits to be let go".into(),
    }
}
