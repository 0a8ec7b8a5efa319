//! The decision of a task's life: one pure function from what is to what to do next.
//!
//! A task climbs `ASSIGNED, ACCEPTED, PREPARING, READY, STARTING, RUNNING` and ends in
//! one of `COMPLETE, SHUTDOWN, FAILED, REJECTED`. It never goes down. It waits in
//! `READY` as long as nobody wants more, and in `STARTING` until it is healthy.

use skep_model::Timestamp;
use skep_model::service::PortConfig;
use skep_model::task::{TaskContainerStatus, TaskState, TaskStatus};
use std::time::Duration;

/// Attempts at preparing or starting that may fail for a passing reason.
const PASSING_FAILURES_MAX: u32 = 10;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(8);
/// The cause that clients of the reference know.
const UNHEALTHY: &str = "dockerexec: unhealthy container";

/// What the executor is to do, or what to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Decide again: only the status changed.
    Again,
    /// Nothing until the desired state changes.
    Hold,
    /// Nothing until then, or until the desired state changes.
    HoldUntil(Timestamp),
    Prepare,
    Start,
    /// See the container become healthy, or end.
    AwaitHealthy,
    /// See it end, or become unhealthy.
    AwaitExit,
    Stop,
    /// As `Stop`, because the health check failed.
    StopUnhealthy,
    Remove,
}

/// What came of the last action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Prepared,
    Started(Started),
    Healthy,
    Unhealthy,
    Exited {
        container: TaskContainerStatus,
        /// What the runtime says of it, empty for an ordinary exit.
        cause: String,
    },
    /// `None` when there was no container.
    Stopped(Option<TaskContainerStatus>),
    StoppedUnhealthy(Option<TaskContainerStatus>),
    Removed,
    /// `passing`: the same attempt may succeed later.
    Failed {
        message: String,
        passing: bool,
    },
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    pub container: TaskContainerStatus,
    /// Host-mode ports really bound.
    pub ports: Vec<PortConfig>,
    /// Healthy already, or has no health check.
    pub healthy: bool,
}

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub(crate) struct Situation<'a> {
    pub(crate) status: &'a TaskStatus,
    pub(crate) desired: TaskState,
    pub(crate) start_not_before: Timestamp,
    pub(crate) outcome: Option<Outcome>,
    /// Passing failures of the present action so far.
    pub(crate) failures: u32,
    /// The container was removed already.
    pub(crate) removed: bool,
    pub(crate) now: Timestamp,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) status: TaskStatus,
    pub(crate) action: Action,
}

/// Decides what happens next to a task.
pub(crate) fn step(situation: &Situation<'_>) -> Step {
    let status = match &situation.outcome {
        Some(outcome) => match after_outcome(situation, outcome) {
            Ok(status) => status,
            Err(step) => return step,
        },
        None => situation.status.clone(),
    };
    if status.state != situation.status.state {
        return Step { status, action: Action::Again };
    }
    let action = next_action(situation, &status);
    match action {
        Action::Again => Step { status: climb(situation, &status), action },
        action => Step { status, action },
    }
}

/// The status an outcome leads to, or the step that the outcome itself demands.
fn after_outcome(situation: &Situation<'_>, outcome: &Outcome) -> Result<TaskStatus, Step> {
    let status = situation.status;
    let now = situation.now;
    match outcome {
        Outcome::Prepared => Ok(reach(status, TaskState::Ready, "prepared", now)),
        Outcome::Started(started) => {
            let mut next =
                if started.healthy { reach(status, TaskState::Running, "started", now) } else { status.clone() };
            next.container = Some(started.container.clone());
            next.ports.clone_from(&started.ports);
            Ok(next)
        }
        Outcome::Healthy => Ok(reach(status, TaskState::Running, "started", now)),
        Outcome::Unhealthy => Err(Step { status: status.clone(), action: Action::StopUnhealthy }),
        Outcome::Exited { container, .. } if container.exit_code == 0 => {
            Ok(with_container(reach(status, TaskState::Complete, "finished", now), Some(container)))
        }
        Outcome::Exited { container, cause } => {
            let mut message = format!("task: non-zero exit ({})", container.exit_code);
            if !cause.is_empty() {
                message = format!("{message}: {cause}");
            }
            Ok(with_container(fail(status, &message, now), Some(container)))
        }
        Outcome::Stopped(container) => {
            Ok(with_container(reach(status, TaskState::Shutdown, "shutdown", now), container.as_ref()))
        }
        Outcome::StoppedUnhealthy(container) => {
            let code = container.as_ref().map_or(0, |container| container.exit_code);
            let message =
                if code == 0 { UNHEALTHY.to_owned() } else { format!("task: non-zero exit ({code}): {UNHEALTHY}") };
            Ok(with_container(fail(status, &message, now), container.as_ref()))
        }
        Outcome::Removed => Ok(status.clone()),
        Outcome::Failed { message, passing } => after_failure(situation, message, *passing),
    }
}

/// A failed end of the container is never believed: it is tried again for ever, so that
/// `SHUTDOWN` always means that the process is gone. Other failures end the task unless
/// they pass.
fn after_failure(situation: &Situation<'_>, message: &str, passing: bool) -> Result<TaskStatus, Step> {
    let ending = situation.desired >= TaskState::Shutdown;
    let again = ending || (passing && situation.failures < PASSING_FAILURES_MAX);
    if !again {
        return Ok(fail(situation.status, message, situation.now));
    }
    let mut status = situation.status.clone();
    if status.err != message && !status.state.is_terminal() {
        message.clone_into(&mut status.err);
        status.timestamp = situation.now;
    }
    let until = situation.now.plus(retry_delay(situation.failures));
    Err(Step { status, action: Action::HoldUntil(until) })
}

fn retry_delay(failures: u32) -> Duration {
    RETRY_DELAY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_DELAY_MAX)
}

/// What to do in `status`; `Again` says that only the next rung is to be taken.
fn next_action(situation: &Situation<'_>, status: &TaskStatus) -> Action {
    if situation.desired >= TaskState::Shutdown {
        return match (status.state.is_terminal(), situation.desired, situation.removed) {
            (false, _, _) => Action::Stop,
            (true, TaskState::Remove, false) => Action::Remove,
            (true, _, _) => Action::Hold,
        };
    }
    match status.state {
        // What was begun is finished, even when nobody wants more than this.
        TaskState::Preparing => Action::Prepare,
        TaskState::Starting if status.container.is_none() || situation.outcome.is_none() => Action::Start,
        TaskState::Starting => Action::AwaitHealthy,
        TaskState::Running => Action::AwaitExit,
        TaskState::New | TaskState::Pending | TaskState::Assigned | TaskState::Accepted => {
            if status.state < situation.desired { Action::Again } else { Action::Hold }
        }
        TaskState::Ready if situation.desired <= TaskState::Ready => Action::Hold,
        TaskState::Ready if situation.now < situation.start_not_before => Action::HoldUntil(situation.start_not_before),
        TaskState::Ready => Action::Again,
        TaskState::Complete
        | TaskState::Shutdown
        | TaskState::Failed
        | TaskState::Rejected
        | TaskState::Remove
        | TaskState::Orphaned => Action::Hold,
    }
}

/// The next rung for states that need no effect to leave them.
fn climb(situation: &Situation<'_>, status: &TaskStatus) -> TaskStatus {
    match status.state {
        TaskState::New | TaskState::Pending | TaskState::Assigned => {
            reach(status, TaskState::Accepted, "accepted", situation.now)
        }
        TaskState::Accepted => reach(status, TaskState::Preparing, "preparing", situation.now),
        TaskState::Ready => reach(status, TaskState::Starting, "starting", situation.now),
        TaskState::Preparing
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Complete
        | TaskState::Shutdown
        | TaskState::Failed
        | TaskState::Rejected
        | TaskState::Remove
        | TaskState::Orphaned => status.clone(),
    }
}

/// `status` moved up to `state`; unchanged where that would not be up, and at an end.
fn reach(status: &TaskStatus, state: TaskState, message: &str, now: Timestamp) -> TaskStatus {
    if state <= status.state || status.state.is_terminal() {
        return status.clone();
    }
    TaskStatus { state, message: message.to_owned(), err: String::new(), timestamp: now, ..status.clone() }
}

/// The end by an error: `REJECTED` before the process was to start, `FAILED` after.
fn fail(status: &TaskStatus, err: &str, now: Timestamp) -> TaskStatus {
    if status.state.is_terminal() {
        return status.clone();
    }
    let state = if status.state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed };
    TaskStatus { state, err: err.to_owned(), timestamp: now, ..status.clone() }
}

fn with_container(mut status: TaskStatus, container: Option<&TaskContainerStatus>) -> TaskStatus {
    if let Some(container) = container {
        status.container = Some(container.clone());
    }
    if status.state.is_terminal() {
        status.ports.clear();
    }
    status
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
