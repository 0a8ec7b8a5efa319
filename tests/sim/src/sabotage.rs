//! Planted bugs. A checker that never failed proves nothing: each of these must be
//! found within a few seeds.

use skep_cluster::command::{Object, Write};
use skep_cluster::ids::IdSource;
use skep_cluster::store::Store;
use skep_model::task::TaskState;
use std::collections::BTreeMap;

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
}

impl Sabotage {
    pub const ALL: [Self; 15] = [
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
