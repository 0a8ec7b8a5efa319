//! One agent's assignments stream: the whole set first, then what differs. Changes that
//! come while the agent is slow are merged: there is never more than the next difference.

use super::Inner;
use super::session::ended;
use super::sessions::Session;
use skep_cluster::assign::{Assignments, assignments, networks_of_interest};
use skep_model::id::NodeId;
use skep_model::task::Task;
use skep_proto::codec::encode;
use skep_proto::dispatcher::assignment_change::{Action, Item};
use skep_proto::dispatcher::assignments_message::Kind as MessageKind;
use skep_proto::dispatcher::{AssignmentChange, AssignmentsMessage};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Feeds the stream until the agent goes away or the session ends.
pub(crate) async fn stream(
    inner: &Inner,
    node: &NodeId,
    session: &Session,
    sender: mpsc::Sender<Result<AssignmentsMessage, Status>>,
) {
    feed(inner, node, session, &sender).await;
    // A call that came last may have been meant for a later stream of the same session.
    session.wakers.assignments.notify_one();
}

async fn feed(
    inner: &Inner,
    node: &NodeId,
    session: &Session,
    sender: &mpsc::Sender<Result<AssignmentsMessage, Status>>,
) {
    // Before the first look, so that nothing is missed after it.
    inner.routes.open(node, session);
    let mut sent = Sent::default();
    let mut complete = true;
    loop {
        // A place in the queue first: what is computed then is as new as can be.
        let permit = tokio::select! {
            permit = sender.reserve() => permit,
            () = ended(inner, session) => return,
        };
        let Ok(permit) = permit else { return };
        let store = inner.replicator.store().snapshot();
        let wanted = assignments(&store, node);
        let interests = networks_of_interest(&store, node);
        let is_late = inner.routes.interested(node, session, interests, store.index());
        let network_differs = complete || wanted.network != sent.set.network;
        if let Some(message) = sent.message(wanted, store.index(), complete) {
            if network_differs {
                inner.routes.sent(node, session, store.index());
            }
            permit.send(Ok(message));
            complete = false;
        }
        inner.routes.looked_at(node, session, store.index());
        drop(store);
        if is_late {
            continue;
        }
        tokio::select! {
            () = sender.closed() => return,
            () = ended(inner, session) => return,
            () = session.wakers.assignments.notified() => {}
        }
    }
}

/// What the agent has been told.
#[derive(Default)]
struct Sent {
    set: Assignments,
    generation: u64,
}

impl Sent {
    /// The message that brings the agent to `wanted`; `None` if it is there already.
    fn message(&mut self, wanted: Assignments, index: u64, complete: bool) -> Option<AssignmentsMessage> {
        let changes = if complete { all(&wanted, index) } else { difference(&self.set, &wanted, index) };
        self.set = wanted;
        if changes.is_empty() && !complete {
            return None;
        }
        let kind = if complete { MessageKind::Complete } else { MessageKind::Incremental };
        let message = AssignmentsMessage {
            kind: kind.into(),
            applies_to: if complete { 0 } else { self.generation },
            results_in: index,
            changes,
        };
        self.generation = index;
        Some(message)
    }
}

fn all(wanted: &Assignments, index: u64) -> Vec<AssignmentChange> {
    let mut changes = difference(&Assignments::default(), wanted, index);
    // Always told, also when empty: what the node has from before may be more.
    if wanted.network == Assignments::default().network {
        changes.push(network_change(wanted, index));
    }
    changes
}

/// Dependencies come before the tasks that need them, and go after them.
fn difference(before: &Assignments, after: &Assignments, index: u64) -> Vec<AssignmentChange> {
    let mut changes = Vec::new();
    update(&before.secrets, &after.secrets, PartialEq::eq, |secret| Item::Secret(encode(secret)), &mut changes);
    update(&before.configs, &after.configs, PartialEq::eq, |config| Item::Config(encode(config)), &mut changes);
    if before.network != after.network {
        changes.push(network_change(after, index));
    }
    update(&before.tasks, &after.tasks, same_task, |task| Item::Task(encode(task)), &mut changes);
    remove(&before.tasks, &after.tasks, |task| Item::Task(encode(task)), &mut changes);
    // The receiver reads only the id of what goes; the data of a secret does not travel again.
    let secret_name = |secret: &skep_model::secret::Secret| {
        let mut bare = skep_model::secret::Secret { id: secret.id.clone(), ..Default::default() };
        bare.spec.name.clone_from(&secret.spec.name);
        Item::Secret(encode(&bare))
    };
    remove(&before.secrets, &after.secrets, secret_name, &mut changes);
    let config_name = |config: &skep_model::secret::Config| {
        let mut bare = skep_model::secret::Config { id: config.id.clone(), ..Default::default() };
        bare.spec.name.clone_from(&config.spec.name);
        Item::Config(encode(&bare))
    };
    remove(&before.configs, &after.configs, config_name, &mut changes);
    changes
}

type Objects<T> = BTreeMap<String, Arc<T>>;

fn update<T>(
    before: &Objects<T>,
    after: &Objects<T>,
    same: fn(&T, &T) -> bool,
    item: impl Fn(&T) -> Item,
    changes: &mut Vec<AssignmentChange>,
) {
    for (id, wanted) in after {
        let unchanged = before.get(id).is_some_and(|known| Arc::ptr_eq(known, wanted) || same(known, wanted));
        if !unchanged {
            changes.push(AssignmentChange { action: Action::Update.into(), item: Some(item(wanted)) });
        }
    }
}

fn remove<T>(before: &Objects<T>, after: &Objects<T>, item: impl Fn(&T) -> Item, changes: &mut Vec<AssignmentChange>) {
    for (_, gone) in before.iter().filter(|(id, _)| !after.contains_key(*id)) {
        changes.push(AssignmentChange { action: Action::Remove.into(), item: Some(item(gone)) });
    }
}

fn network_change(wanted: &Assignments, index: u64) -> AssignmentChange {
    let mut network = wanted.network.clone();
    network.generation = index;
    AssignmentChange { action: Action::Update.into(), item: Some(Item::NetworkState(encode(&network))) }
}

/// Equal but for what the agent itself reports: its own words need not be repeated to it.
fn same_task(known: &Task, wanted: &Task) -> bool {
    let blank = |task: &Task| Task { meta: Default::default(), status: Default::default(), ..task.clone() };
    known.desired_state == wanted.desired_state && blank(known) == blank(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::secret::Secret;
    use skep_model::task::TaskState;

    fn task(id: &str, desired_state: TaskState) -> (String, Arc<Task>) {
        (id.to_owned(), Arc::new(Task { id: id.into(), desired_state, ..Task::default() }))
    }

    fn set(tasks: &[(String, Arc<Task>)], secrets: &[&str]) -> Assignments {
        let secret = |id: &&str| ((*id).to_owned(), Arc::new(Secret { id: (*id).into(), ..Secret::default() }));
        Assignments {
            tasks: tasks.iter().cloned().collect(),
            secrets: secrets.iter().map(secret).collect(),
            ..Assignments::default()
        }
    }

    /// Each change as `+task a`, in order.
    fn words(message: &AssignmentsMessage) -> Vec<String> {
        let word = |change: &AssignmentChange| {
            let sign = if change.action == i32::from(Action::Update) { '+' } else { '-' };
            match change.item.as_ref().unwrap() {
                Item::Task(bytes) => format!("{sign}task {}", skep_proto::codec::decode::<Task>(bytes).unwrap().id),
                Item::Secret(bytes) => {
                    format!("{sign}secret {}", skep_proto::codec::decode::<Secret>(bytes).unwrap().id)
                }
                Item::Config(_) => format!("{sign}config"),
                Item::NetworkState(_) => format!("{sign}network"),
            }
        };
        message.changes.iter().map(word).collect()
    }

    #[test]
    fn the_first_message_is_complete_and_the_next_ones_join_up() {
        let mut sent = Sent::default();
        let first = sent.message(set(&[task("a", TaskState::Running)], &["s"]), 5, true).unwrap();
        assert_eq!(words(&first), ["+secret s", "+task a", "+network"]);
        assert_eq!((first.kind, first.applies_to, first.results_in), (MessageKind::Complete.into(), 0, 5));

        let wanted = set(&[task("a", TaskState::Running), task("b", TaskState::Running)], &["s"]);
        let second = sent.message(wanted.clone(), 8, false).unwrap();
        assert_eq!(words(&second), ["+task b"]);
        assert_eq!((second.kind, second.applies_to, second.results_in), (MessageKind::Incremental.into(), 5, 8));

        assert!(sent.message(wanted, 9, false).is_none());
        let third = sent.message(set(&[task("b", TaskState::Shutdown)], &[]), 12, false).unwrap();
        assert_eq!(words(&third), ["+task b", "-task a", "-secret s"]);
        assert_eq!((third.applies_to, third.results_in), (8, 12));
    }

    #[test]
    fn an_empty_complete_set_is_told_too() {
        let message = Sent::default().message(Assignments::default(), 3, true).unwrap();
        assert_eq!(words(&message), ["+network"]);
    }

    #[test]
    fn what_the_agent_reported_itself_is_not_sent_back() {
        let (id, known) = task("a", TaskState::Running);
        let mut reported = Task::clone(&known);
        reported.status.state = TaskState::Running;
        reported.meta.version = 77;
        let mut sent = Sent::default();
        sent.message(set(&[(id.clone(), known)], &[]), 1, true);
        assert!(sent.message(set(&[(id, Arc::new(reported))], &[]), 2, false).is_none());
    }
}
