//! A planner's working copy: the snapshot plus the writes so far, so that each planner
//! sees what those before it decided.

use super::Plan;
use crate::command::{Key, Kind, Object, Write};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::node::Node;
use skep_model::service::{ClusterNetwork, Service, TaskSpec};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A report is for people; beyond this many lines nobody reads it.
const REPORT_LINES_MAX: usize = 200;

pub(crate) struct Draft<'a> {
    base: &'a Store,
    /// The snapshot with all decisions so far.
    pub(crate) store: Store,
    pub(crate) now: Timestamp,
    ids: &'a mut dyn IdSource,
    /// In the order of first touch.
    touched: Vec<Key>,
    known: BTreeSet<Key>,
    /// Nodes whose tasks changed, so their balancer addresses may have to.
    pub(crate) touched_nodes: BTreeSet<String>,
    changes: usize,
    /// Of the last task that was made: the next one probably has the same.
    last_spec: Arc<TaskSpec>,
    wake_at: Option<Timestamp>,
    done: Vec<String>,
    waiting: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a Store, now: Timestamp, ids: &'a mut dyn IdSource) -> Self {
        Self {
            base,
            store: base.clone(),
            now,
            ids,
            touched: Vec::new(),
            known: BTreeSet::new(),
            touched_nodes: BTreeSet::new(),
            changes: 0,
            last_spec: Arc::default(),
            wake_at: None,
            done: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Forgets what the last round waited for; the next one says it again if it still does.
    pub(crate) fn begin_round(&mut self) -> usize {
        self.wake_at = None;
        self.waiting.clear();
        self.changes
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    pub(crate) fn fresh_id(&mut self) -> String {
        self.ids.swarm_id()
    }

    /// `spec` for a task, shared with the task that was made last if that one has the same.
    pub(crate) fn shared_spec(&mut self, spec: &TaskSpec) -> Arc<TaskSpec> {
        if *self.last_spec != *spec {
            self.last_spec = Arc::new(spec.clone());
        }
        Arc::clone(&self.last_spec)
    }

    /// A task as it was before this plan.
    pub(crate) fn stored_task(&self, id: &str) -> Option<&Arc<Task>> {
        self.base.task(id)
    }

    /// A new task.
    pub(crate) fn put_task(&mut self, task: Task) {
        self.touch_node(task.node_id.as_str());
        // Its id is fresh, so nothing was written under it.
        self.changes += 1;
        self.touched.push(Key::new(Kind::Task, task.id.as_str()));
        self.store.insert_task_unchecked(task);
    }

    /// Changes a task in place; the caller knows that it will differ. Nothing happens when
    /// it is gone.
    pub(crate) fn change_task(&mut self, id: &str, change: impl FnOnce(&mut Task)) {
        self.change_task_of_known_node(id, change);
        let Some(task) = self.store.task(id) else { return };
        if !task.node_id.is_empty() && !self.touched_nodes.contains(task.node_id.as_str()) {
            self.touched_nodes.insert(task.node_id.0.clone());
        }
    }

    /// As [`Self::change_task`], for callers that touch the task's node themselves.
    pub(crate) fn change_task_of_known_node(&mut self, id: &str, change: impl FnOnce(&mut Task)) {
        let Some(task) = self.store.change_task_unchecked(id, change) else { return };
        if task.created_index == 0 {
            // It was touched when it was made.
            self.changes += 1;
        } else {
            self.touch(Key::new(Kind::Task, id));
        }
    }

    /// Asks for a later stage; never for an earlier one.
    pub(crate) fn desire(&mut self, id: &str, state: TaskState) {
        if self.store.task(id).is_some_and(|task| task.desired_state < state) {
            self.change_task(id, |task| task.desired_state = state);
        }
    }

    /// Says in a task what it waits for, or why it ended.
    pub(crate) fn say_why(&mut self, id: &str, reason: &str) {
        if self.store.task(id).is_some_and(|task| task.status.err != reason) {
            self.change_task(id, |task| task.status.err = reason.to_owned());
        }
    }

    pub(crate) fn touch_node(&mut self, id: &str) {
        if !id.is_empty() && !self.touched_nodes.contains(id) {
            self.touched_nodes.insert(id.to_owned());
        }
    }

    pub(crate) fn edit_service(&mut self, id: &str, edit: impl FnOnce(&mut Service)) {
        let Some(before) = self.store.service(id).cloned() else { return };
        let mut service = (*before).clone();
        edit(&mut service);
        if service != *before {
            self.put(Object::Service(Box::new(service)));
        }
    }

    pub(crate) fn edit_node(&mut self, id: &str, edit: impl FnOnce(&mut Node)) {
        let Some(before) = self.store.node(id).cloned() else { return };
        let mut node = (*before).clone();
        edit(&mut node);
        if node != *before {
            self.put(Object::Node(Box::new(node)));
        }
    }

    pub(crate) fn edit_network(&mut self, id: &str, edit: impl FnOnce(&mut ClusterNetwork)) {
        let Some(before) = self.store.network(id).cloned() else { return };
        let mut network = (*before).clone();
        edit(&mut network);
        if network != *before {
            self.put(Object::Network(network));
        }
    }

    pub(crate) fn remove_task(&mut self, task: &Arc<Task>) {
        self.touch_node(task.node_id.as_str());
        self.remove(Key::new(Kind::Task, task.id.as_str()));
    }

    pub(crate) fn remove(&mut self, key: Key) {
        self.store.remove_unchecked(&key);
        self.touch(key);
    }

    fn put(&mut self, object: Object) {
        let key = object.key();
        self.store.put_unchecked(object);
        self.touch(key);
    }

    fn touch(&mut self, key: Key) {
        self.changes += 1;
        if self.known.insert(key.clone()) {
            self.touched.push(key);
        }
    }

    /// Plan again at `at`, whatever else happens.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn done(&mut self, line: impl FnOnce() -> String) {
        if self.done.len() < REPORT_LINES_MAX {
            self.done.push(line());
        }
    }

    pub(crate) fn waiting(&mut self, line: impl FnOnce() -> String) {
        if self.waiting.len() < REPORT_LINES_MAX {
            self.waiting.push(line());
        }
    }

    /// The difference to the snapshot, in an order in which the store takes it: what is
    /// freed comes before what uses it. An object that was made and dropped again in the
    /// same plan does not appear at all.
    pub(crate) fn finish(mut self) -> Plan {
        let (mut removes, mut changes, mut creates) = (Vec::new(), Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.touched) {
            let (before, after) = match key.kind {
                // Tasks are many: they are moved out of the working copy, which ends here.
                Kind::Task => {
                    let task = self.store.take_task_unchecked(&key.id).map(Arc::unwrap_or_clone);
                    // One that was never stored need not be looked for.
                    let is_new = task.as_ref().is_some_and(|task| task.created_index == 0);
                    let before = if is_new { None } else { self.base.task(&key.id) };
                    if before.is_some_and(|before| task.as_ref() == Some(&**before)) {
                        continue;
                    }
                    (before.map(|task| task.meta.version), task.map(|task| Object::Task(Box::new(task))))
                }
                _ => {
                    let (before, after) = (self.base.get(&key), self.store.get(&key));
                    if before == after {
                        continue;
                    }
                    (before.map(|object| object.version()), after)
                }
            };
            match (before, after) {
                (None, None) => {}
                (Some(expected), None) => removes.push(Write::Remove { key, expected }),
                (None, Some(after)) => creates.push(Write::put(after)),
                (Some(_), Some(after)) => changes.push(Write::put(after)),
            }
        }
        let writes: Vec<Write> = removes.into_iter().chain(changes).chain(creates).collect();
        let writes =
            if self.base.any_is_held(&writes) { in_order(self.base.clone(), writes, self.now) } else { writes };
        let report = self.done.into_iter().chain(self.waiting).collect();
        Plan { writes, wake_at: self.wake_at, report }
    }
}

/// Moves writes that must wait for others, such as for an address to be freed, behind
/// them. What no order makes acceptable stays at the end, for the store to refuse.
fn in_order(mut store: Store, writes: Vec<Write>, now: Timestamp) -> Vec<Write> {
    let (mut ordered, mut left) = (Vec::with_capacity(writes.len()), writes);
    while !left.is_empty() {
        let before = left.len();
        let (taken, refused): (Vec<_>, Vec<_>) = left.into_iter().partition(|write| store.takes(write, now));
        ordered.extend(taken);
        left = refused;
        if left.len() == before {
            break;
        }
    }
    ordered.extend(left);
    ordered
}
