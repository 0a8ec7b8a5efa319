//! Planted bugs. A checker that never failed proves nothing: each of these must be
//! found within a few seeds.

use skep_cluster::command::{Key, Kind, Object, Write};
use skep_cluster::ids::IdSource;
use skep_cluster::store::Store;
use skep_model::task::{AssignedResource, Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// The planner fills every slot twice.
    FillTwice,
    /// The scheduler takes the first node there is.
    AnyNode,
    /// Two tasks get the same address.
    ShareAddress,
    /// A task told to stop is taken for stopped.
    TrustTheOrder,
    /// Restart delays are ignored.
    NoDelay,
    /// A rolling update takes all slots at once.
    UpdateAll,
    /// Tasks stay on drained nodes.
    IgnoreDrain,
    /// Nothing is ever reaped.
    NeverReap,
    /// The leader forgets when to wake up.
    ForgetWake,
    /// Users are answered before the commit.
    AnswerEarly,
    /// A follower now and then loses a write of a command.
    LoseWrite,
    /// Nodes take older sets of assignments for new.
    StaleSets,
    /// Nodes are sent all secrets.
    AllSecrets,
    /// Nodes report each status once.
    ReportOnce,
    /// The kernel's failures are not retried.
    KernelForgets,
    /// A job starts two tasks where one is due.
    JobsTwice,
    /// What a job has achieved is reaped.
    ForgetResults,
    /// A task that is being moved stops as soon as its successor is made.
    StopBeforeRelief,
    /// A service that is being removed is gone at once.
    HastyRemoval,
    /// All tasks are given the same named resource.
    ShareCard,
}

impl Sabotage {
    pub const ALL: [Self; 20] = [
        Self::FillTwice,
        Self::AnyNode,
        Self::ShareAddress,
        Self::TrustTheOrder,
        Self::NoDelay,
        Self::UpdateAll,
        Self::IgnoreDrain,
        Self::NeverReap,
        Self::ForgetWake,
        Self::AnswerEarly,
        Self::LoseWrite,
        Self::StaleSets,
        Self::AllSecrets,
        Self::ReportOnce,
        Self::KernelForgets,
        Self::JobsTwice,
        Self::ForgetResults,
        Self::StopBeforeRelief,
        Self::HastyRemoval,
        Self::ShareCard,
    ];

    /// What the planner would have written had it this bug.
    pub fn spoil(self, writes: Vec<Write>, store: &Store, ids: &mut dyn IdSource) -> Vec<Write> {
        match self {
            Self::FillTwice => fill_twice(writes, ids),
            Self::AnyNode => each_task(writes, |task, _| {
                let first = store.nodes().next().map(|node| node.id.clone());
                if task.status.state == TaskState::Assigned && task.slot > 0 {
                    task.node_id = first.unwrap_or_default();
                }
            }),
            Self::ShareAddress => share_address(writes),
            Self::TrustTheOrder => each_task(writes, |task, expected| {
                if expected > 0 && task.desired_state > TaskState::Complete && !task.status.state.is_terminal() {
                    task.status.state = TaskState::Shutdown;
                }
            }),
            Self::NoDelay => each_task(writes, |task, _| {
                if task.desired_state == TaskState::Ready && task.replaces.is_none() {
                    task.desired_state = TaskState::Running;
                }
            }),
            Self::IgnoreDrain => writes.into_iter().filter(|write| !leaves_drained(write, store)).collect(),
            Self::NeverReap => writes.into_iter().filter(|write| matches!(write, Write::Put { .. })).collect(),
            Self::JobsTwice => jobs_twice(writes, ids),
            Self::ForgetResults => {
                let result =
                    |task: &&Arc<Task>| task.job_iteration.is_some() && task.status.state == TaskState::Complete;
                let removed =
                    store.tasks().filter(result).map(|task| remove(Kind::Task, task.id.as_str(), task.meta.version));
                beside_others(writes, removed.collect())
            }
            Self::StopBeforeRelief => beside_others(writes, stopped_early(store)),
            Self::HastyRemoval => {
                let leaving = store.services().filter(|service| service.pending_delete);
                let removed = leaving.map(|s| remove(Kind::Service, s.id.as_str(), s.meta.version));
                beside_others(writes, removed.collect())
            }
            Self::ShareCard => each_task(writes, |task, _| {
                for given in task.resources.values_mut() {
                    if let AssignedResource::Named(names) = given {
                        *names = ["red".to_owned()].into();
                    }
                }
            }),
            Self::UpdateAll
            | Self::ForgetWake
            | Self::AnswerEarly
            | Self::LoseWrite
            | Self::StaleSets
            | Self::AllSecrets
            | Self::ReportOnce
            | Self::KernelForgets => writes,
        }
    }
}

fn each_task(mut writes: Vec<Write>, mut change: impl FnMut(&mut skep_model::task::Task, u64)) -> Vec<Write> {
    for write in &mut writes {
        if let Write::Put { object: Object::Task(task), expected } = write {
            change(task, *expected);
        }
    }
    writes
}

fn jobs_twice(writes: Vec<Write>, ids: &mut dyn IdSource) -> Vec<Write> {
    let mut doubled = Vec::new();
    for write in writes {
        if let Write::Put { object: Object::Task(task), expected: 0 } = &write
            && task.job_iteration.is_some()
            && task.slot > 0
        {
            let mut twin = task.clone();
            twin.id = ids.swarm_id().into();
            twin.slot += 1;
            twin.attachments.clear();
            doubled.push(Write::Put { object: Object::Task(twin), expected: 0 });
        }
        doubled.push(write);
    }
    doubled
}

fn remove(kind: Kind, id: &str, expected: u64) -> Write {
    Write::Remove { key: Key::new(kind, id), expected }
}

/// Adds writes of objects that the plan does not touch.
fn beside_others(mut writes: Vec<Write>, more: Vec<Write>) -> Vec<Write> {
    let untouched = more.into_iter().filter(|new| !writes.iter().any(|write| write.key() == new.key()));
    let untouched: Vec<Write> = untouched.collect();
    writes.extend(untouched);
    writes
}

fn stopped_early(store: &Store) -> Vec<Write> {
    let heirs = store.tasks().filter(|task| task.is_wanted());
    let relieved = heirs.filter_map(|heir| store.task(heir.beside.as_ref()?.as_str()));
    let stop = |old: &Arc<Task>| {
        let mut old = (**old).clone();
        old.desired_state = TaskState::Shutdown;
        Write::put(Object::Task(Box::new(old)))
    };
    relieved.filter(|old| old.is_wanted()).map(stop).collect()
}

fn fill_twice(writes: Vec<Write>, ids: &mut dyn IdSource) -> Vec<Write> {
    let mut doubled = Vec::new();
    for write in writes {
        if let Write::Put { object: Object::Task(task), expected: 0 } = &write {
            let mut twin = task.clone();
            twin.id = ids.swarm_id().into();
            twin.attachments.clear();
            doubled.push(Write::Put { object: Object::Task(twin), expected: 0 });
        }
        doubled.push(write);
    }
    doubled
}

fn share_address(writes: Vec<Write>) -> Vec<Write> {
    let mut first = BTreeMap::new();
    each_task(writes, |task, expected| {
        for leg in task.attachments.iter_mut().filter(|_| expected == 0) {
            let addresses = first.entry(leg.network.clone()).or_insert_with(|| leg.addresses.clone());
            leg.addresses = addresses.clone();
        }
    })
}

fn leaves_drained(write: &Write, store: &Store) -> bool {
    let Write::Put { object: Object::Task(task), .. } = write else { return false };
    let drained =
        |node: &std::sync::Arc<skep_model::node::Node>| node.spec.availability == skep_model::node::Availability::Drain;
    task.desired_state == TaskState::Shutdown && store.node(task.node_id.as_str()).is_some_and(drained)
}
