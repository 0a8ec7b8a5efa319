//! What must hold all the time, looked at after each step, and what is still missing before
//! the swarm is at rest.

use crate::shared::{AGENTS, MANAGERS, Shared, manager_name};
use skep_manager::{Control, RaftState};
use skep_model::node::NodeState;
use skep_model::service::ServiceMode;
use skep_model::task::TaskState;
use skep_sim::trace::Trace;
use std::collections::BTreeMap;

/// Characters of a digest in the trace.
const DIGEST_SHOWN: usize = 12;

/// What one task was like in the newest store.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TaskFacts {
    version: u64,
    observed: TaskState,
    desired: TaskState,
    node: String,
    spec_version: u64,
}

#[derive(Default)]
pub(crate) struct Checks {
    /// The store's digest at each index, and who had it first.
    digests: BTreeMap<u64, (String, usize)>,
    /// Terms and who led in them, with its start that did. Openraft's leaders are ordered by
    /// term and number, so two may be elected in one term; the later one's number is larger.
    leaders: BTreeMap<(u64, u64), u64>,
    /// Per manager, while it is up.
    states: [Option<RaftState>; MANAGERS],
    /// How often each manager was started.
    starts: [u64; MANAGERS],
    /// Tasks in the newest store, and its index.
    tasks: BTreeMap<String, TaskFacts>,
    tasks_index: u64,
    pub(crate) snapshots: u64,
}

impl Checks {
    /// Looks at all managers that are up.
    ///
    /// # Errors
    /// The rule that is broken.
    pub(crate) fn look(&mut self, shared: &Shared, trace: &mut Trace, now_ms: u64) -> Result<(), String> {
        for manager in 0..MANAGERS {
            let Some(control) = shared.control(manager) else {
                self.states[manager] = None;
                continue;
            };
            let state = control.raft_state();
            let before = self.states[manager].replace(state);
            if before == Some(state) {
                continue;
            }
            let name = manager_name(manager);
            self.starts[manager] += u64::from(before.is_none());
            self.check_term(manager, before, state)?;
            if before.is_none_or(|before| (before.term, before.leads) != (state.term, state.leads)) {
                let role = if state.leads { "leads" } else { "follows" };
                trace.note(now_ms, format_args!("{name} {role} in term {}", state.term));
            }
            self.snapshots += u64::from(before.is_some_and(|before| before.snapshot_index < state.snapshot_index));
            if before.is_none_or(|before| before.applied_index != state.applied_index) {
                self.check_store(manager, &control, trace, now_ms)?;
            }
        }
        Ok(())
    }

    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }

    fn check_term(&mut self, manager: usize, before: Option<RaftState>, state: RaftState) -> Result<(), String> {
        let name = manager_name(manager);
        if let Some(before) = before.filter(|before| before.term > state.term) {
            return Err(format!("{name} went back from term {} to {}", before.term, state.term));
        }
        if let Some(before) = before.filter(|before| before.applied_index > state.applied_index) {
            return Err(format!("{name} went back from entry {} to {}", before.applied_index, state.applied_index));
        }
        if state.leads {
            let start = self.starts[manager];
            if *self.leaders.entry((state.term, state.raft_id)).or_insert(start) != start {
                return Err(format!("{name} leads in term {} again after it was restarted", state.term));
            }
        }
        Ok(())
    }

    /// Stores of the same index are the same; newer ones only go on from older ones.
    fn check_store(&mut self, manager: usize, control: &Control, trace: &mut Trace, now_ms: u64) -> Result<(), String> {
        let (index, digest) = control.digest();
        let name = manager_name(manager);
        trace.note(now_ms, format_args!("{name} has {index}: {}", &digest[..DIGEST_SHOWN.min(digest.len())]));
        let (known, who) = self.digests.entry(index).or_insert_with(|| (digest.clone(), manager));
        if *known != digest {
            return Err(format!("at {index} the stores of {name} and {} differ", manager_name(*who)));
        }
        if index > self.tasks_index {
            self.check_tasks(control)?;
            self.tasks_index = index;
        }
        Ok(())
    }

    fn check_tasks(&mut self, control: &Control) -> Result<(), String> {
        let tasks = control.tasks();
        let facts = tasks.iter().map(|task| {
            let facts = TaskFacts {
                version: task.meta.version,
                observed: task.status.state,
                desired: task.desired_state,
                node: task.node_id.0.clone(),
                spec_version: task.spec_version,
            };
            (task.id.0.clone(), facts)
        });
        let facts: BTreeMap<String, TaskFacts> = facts.collect();
        for (id, now) in &facts {
            let Some(before) = self.tasks.get(id) else { continue };
            let moved = !before.node.is_empty() && before.node != now.node;
            let back = now.version < before.version || now.observed < before.observed || now.desired < before.desired;
            if moved || back || now.spec_version != before.spec_version {
                return Err(format!("task {id} went back or elsewhere: {before:?}, then {now:?}"));
            }
        }
        self.tasks = facts;
        Ok(())
    }
}

/// What is missing before the swarm is at rest.
pub(crate) fn unrest(shared: &Shared) -> Option<String> {
    let mut controls = Vec::new();
    for manager in 0..MANAGERS {
        match shared.control(manager) {
            Some(control) => controls.push(control),
            None => return Some(format!("{} is not up", manager_name(manager))),
        }
    }
    let states: Vec<RaftState> = controls.iter().map(Control::raft_state).collect();
    if let Some(state) = states.iter().find(|state| state.voters != MANAGERS) {
        return Some(format!("{} of {MANAGERS} managers vote", state.voters));
    }
    match states.iter().filter(|state| state.leads).count() {
        1 => {}
        count => return Some(format!("{count} managers lead")),
    }
    if let Some(control) = controls.iter().find(|control| control.leader().is_none()) {
        return Some(format!("{} knows no leader", control.node_id()));
    }
    if states.iter().any(|state| state.applied_index != states[0].applied_index) {
        return Some("not everybody has applied everything".into());
    }
    let nodes = controls[0].nodes();
    let ready = nodes.iter().filter(|node| node.status.state == NodeState::Ready).count();
    if ready != AGENTS {
        return Some(format!("{ready} of {AGENTS} agents are ready"));
    }
    unfinished(&controls[0])
}

fn unfinished(control: &Control) -> Option<String> {
    let tasks = control.tasks();
    for service in control.services() {
        let ServiceMode::Replicated { replicas } = service.spec.mode else { continue };
        let wanted =
            tasks.iter().filter(|task| task.service_id == service.id && task.desired_state == TaskState::Running);
        let running = wanted.clone().filter(|task| task.status.state == TaskState::Running).count() as u64;
        if running != replicas || wanted.count() as u64 != replicas {
            return Some(format!("{running} of {replicas} tasks of {} run", service.spec.name));
        }
    }
    None
}
