//! The set of things a manager wants of this node, and how messages change it.

use crate::files::Dependencies;
use skep_model::netstate::ClusterNetState;
use skep_model::secret::{Config, Secret};
use skep_model::task::Task;
use skep_proto::codec::{DecodeError, decode};
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::assignments_message::Kind;
use skep_proto::dispatcher::{AssignmentChange, AssignmentsMessage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a message was not taken. The session reconnects and gets a complete set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("assignments apply to generation {applies_to}, but this node is at {generation}")]
    Gap { applies_to: u64, generation: u64 },
    #[error("assignments of generation {offered} are older than {generation}")]
    Older { offered: u64, generation: u64 },
    #[error("assignments: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// All that is assigned to this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AssignedSet {
    generation: u64,
    /// A complete set has arrived since the start.
    complete: bool,
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) dependencies: Dependencies,
    pub(crate) network: Option<ClusterNetState>,
}

impl AssignedSet {
    /// The newest message that was taken.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes a message, or leaves the set as it was.
    pub(crate) fn apply(&mut self, message: &AssignmentsMessage) -> Result<(), Refused> {
        let kind = Kind::try_from(message.kind).map_err(|_| Refused::Malformed("unknown kind"))?;
        if message.results_in < self.generation {
            return Err(Refused::Older { offered: message.results_in, generation: self.generation });
        }
        let mut next = match kind {
            Kind::Complete => Self { complete: true, ..Self::default() },
            Kind::Incremental if !self.complete || message.applies_to != self.generation => {
                return Err(Refused::Gap { applies_to: message.applies_to, generation: self.generation });
            }
            Kind::Incremental => self.clone(),
        };
        for change in &message.changes {
            next.change(change)?;
        }
        next.generation = message.results_in;
        // A manager that sends no network state in a complete set says nothing of it.
        if next.network.is_none() {
            next.network = self.network.take();
        }
        *self = next;
        Ok(())
    }

    fn change(&mut self, change: &AssignmentChange) -> Result<(), Refused> {
        let action = Action::try_from(change.action).map_err(|_| Refused::Malformed("unknown action"))?;
        let item = change.item.as_ref().ok_or(Refused::Malformed("a change without an item"))?;
        let update = action == Action::Update;
        match item {
            Item::Task(bytes) => {
                let mut task: Task = decode(bytes)?;
                let auth = std::mem::take(&mut Arc::make_mut(&mut task.spec).container.pull_auth);
                self.dependencies.pull_auth.remove(&task.id);
                if update && !auth.is_empty() {
                    self.dependencies.pull_auth.insert(task.id.clone(), auth);
                }
                change_in(&mut self.tasks, task.id.0.clone(), task, update);
            }
            Item::Secret(bytes) => {
                let secret: Secret = decode(bytes)?;
                change_in(&mut self.dependencies.secrets, secret.id.0.clone(), secret, update);
            }
            Item::Config(bytes) => {
                let config: Config = decode(bytes)?;
                change_in(&mut self.dependencies.configs, config.id.0.clone(), config, update);
            }
            Item::NetworkState(bytes) => self.network = if update { Some(decode(bytes)?) } else { None },
        }
        Ok(())
    }
}

fn change_in<T>(map: &mut BTreeMap<String, Arc<T>>, id: String, value: T, update: bool) {
    if update {
        map.insert(id, Arc::new(value));
    } else {
        map.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{message, removed, updated};
    use skep_model::service::PullAuth;

    fn task(id: &str, slot: u64) -> Task {
        Task { id: id.into(), slot, ..Task::default() }
    }

    #[test]
    fn differences_build_on_a_complete_set() {
        let mut set = AssignedSet::default();
        set.apply(&message(Kind::Complete, 0, 5, vec![updated(&task("a", 1)), updated(&task("b", 2))])).unwrap();
        set.apply(&message(Kind::Incremental, 5, 9, vec![removed(&task("a", 1)), updated(&task("b", 3))])).unwrap();
        assert_eq!(set.tasks.len(), 1);
        assert_eq!(set.tasks["b"].slot, 3);
    }

    #[test]
    fn a_complete_set_replaces_everything() {
        let mut set = AssignedSet::default();
        set.apply(&message(Kind::Complete, 0, 5, vec![updated(&task("a", 1))])).unwrap();
        set.apply(&message(Kind::Complete, 0, 6, Vec::new())).unwrap();
        assert!(set.tasks.is_empty() && set.is_complete());
    }

    #[test]
    fn gaps_and_older_sets_are_refused_and_change_nothing() {
        let mut set = AssignedSet::default();
        let early = message(Kind::Incremental, 0, 1, Vec::new());
        assert!(matches!(set.apply(&early), Err(Refused::Gap { .. })), "nothing to build on");
        set.apply(&message(Kind::Complete, 0, 5, vec![updated(&task("a", 1))])).unwrap();
        let before = set.clone();
        let gap = message(Kind::Incremental, 6, 7, vec![removed(&task("a", 1))]);
        assert!(matches!(set.apply(&gap), Err(Refused::Gap { applies_to: 6, generation: 5 })));
        let older = message(Kind::Complete, 0, 4, Vec::new());
        assert!(matches!(set.apply(&older), Err(Refused::Older { offered: 4, generation: 5 })));
        assert_eq!(set, before);
    }

    #[test]
    fn credentials_stand_apart_from_tasks_and_go_with_them() {
        let mut with_auth = task("a", 1);
        Arc::make_mut(&mut with_auth.spec).container.pull_auth =
            PullAuth { username: "u".into(), password: "p".into(), ..PullAuth::default() };
        let mut set = AssignedSet::default();
        set.apply(&message(Kind::Complete, 0, 5, vec![updated(&with_auth)])).unwrap();
        assert!(set.tasks["a"].spec.container.pull_auth.is_empty());
        assert_eq!(set.dependencies.pull_auth["a"].password, "p");
        set.apply(&message(Kind::Incremental, 5, 6, vec![removed(&with_auth)])).unwrap();
        assert!(set.dependencies.pull_auth.is_empty());
    }

    #[test]
    fn foreign_bytes_change_nothing() {
        let mut set = AssignedSet::default();
        set.apply(&message(Kind::Complete, 0, 5, vec![updated(&task("a", 1))])).unwrap();
        let before = set.clone();
        let mut bad = message(Kind::Incremental, 5, 6, vec![removed(&task("a", 1))]);
        bad.changes.push(AssignmentChange { action: 0, item: Some(Item::Secret(b"\xff\x00".to_vec())) });
        assert!(set.apply(&bad).is_err());
        bad.changes.pop();
        bad.changes.push(AssignmentChange { action: 0, item: None });
        assert!(set.apply(&bad).is_err());
        bad.kind = 77;
        assert!(set.apply(&bad).is_err());
        assert_eq!(set, before);
    }
}
