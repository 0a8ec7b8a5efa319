//! A task is not let go before its restart delay has passed, nor before what it replaces
//! has stopped (or a minute is over).

use super::{Check, Verdict};
use skep_cluster::command::{Object, Write};
use skep_cluster::store::Store;
use skep_model::Timestamp;
use skep_model::node::NodeState;
use skep_model::task::{Task, TaskState};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Held;

impl Check for Held {
    fn name(&self) -> &'static str {
        "held tasks wait"
    }

    fn planned(&mut self, snapshot: &Store, writes: &[Write], now: Timestamp) -> Verdict {
        for write in writes {
            let Write::Put { object: Object::Task(task), .. } = write else { continue };
            if task.desired_state != TaskState::Running {
                continue;
            }
            if task.start_not_before > now {
                return Err(format!("task {} is let go before its delay has passed", task.id));
            }
            let before = snapshot.task(task.id.as_str());
            let released = before.is_none_or(|before| before.desired_state < TaskState::Running);
            if released && old_runs(snapshot, task) && before.is_none_or(|b| b.meta.created_at.plus(PATIENCE) > now) {
                return Err(format!("task {} is let go while the one it replaces runs", task.id));
            }
        }
        Ok(())
    }
}

fn old_runs(snapshot: &Store, task: &Task) -> bool {
    let Some(old) = task.replaces.as_ref().and_then(|id| snapshot.task(id.as_str())) else { return false };
    let node = snapshot.node(old.node_id.as_str());
    let reachable = node.is_some_and(|node| node.status.state != NodeState::Down);
    reachable && old.status.state >= TaskState::Assigned && !old.status.state.is_terminal()
}
