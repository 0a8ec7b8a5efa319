//! Which task a user means by the name of a container, and the way to its node.

use super::Control;
use skep_cluster::Store;
use skep_model::id::NodeId;
use skep_model::task::{Task, TaskState};
use skep_model::{Error, Result};
use std::sync::Arc;
use tokio::io::DuplexStream;

/// A shorter piece of an id means nothing, so that a mistyped name reaches no stranger.
const PREFIX_MIN: usize = 4;

impl Control {
    /// The task whose container is meant: by its slot (`web.1`, of a global service also
    /// `agent.<host>`), the newest that runs there; by the task's or the container's id or a
    /// beginning of it; or by the container's full name.
    ///
    /// # Errors
    /// `NotFound` when none is meant, `InvalidArgument` when several are.
    pub fn task_of_container(&self, name: &str) -> Result<Arc<Task>> {
        find(&self.store(), name)
    }

    /// A byte stream to a node, on which it serves HTTP about the containers of its tasks.
    ///
    /// # Errors
    /// `Unavailable`, with the reason, when the node cannot be reached now.
    pub async fn reach(&self, node: &NodeId) -> Result<DuplexStream> {
        self.tunnels.reach(node).await.map_err(|error| {
            let store = self.store();
            let known = store.node(node.as_str());
            let hostname = known.map_or(node.as_str(), |node| node.description.hostname.as_str());
            error.context(format!("node {hostname} cannot be reached"))
        })
    }
}

fn find(store: &Store, name: &str) -> Result<Arc<Task>> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if let Some(task) = store.task(name) {
        return Ok(Arc::clone(task));
    }
    let slot: Vec<&Arc<Task>> = store.tasks().filter(|task| is_named(store, task, name)).collect();
    if let Some(task) = slot.into_iter().max_by_key(|task| preference(task)) {
        return Ok(Arc::clone(task));
    }
    let begun = |task: &&Arc<Task>| task.id.as_str().starts_with(name) || container_id(task).starts_with(name);
    let mut found = store.tasks().filter(|_| name.len() >= PREFIX_MIN).filter(begun);
    match (found.next(), found.next()) {
        (Some(task), None) => Ok(Arc::clone(task)),
        (None, _) => Err(Error::not_found(format!("No such container: {name}"))),
        (Some(_), Some(_)) => Err(Error::invalid(format!("several tasks' ids begin with {name}"))),
    }
}

fn is_named(store: &Store, task: &Task, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(task.service_name.as_str()) else { return false };
    if rest.is_empty() || task.slot_name() == name || task.container_name() == name {
        return !rest.is_empty();
    }
    let host = store.node(task.node_id.as_str()).map(|node| node.description.hostname.as_str());
    task.public_slot() == 0 && host.is_some_and(|host| rest.strip_prefix('.') == Some(host))
}

/// What runs before what is to run, and the newer of two.
fn preference(task: &Task) -> (bool, bool, u64) {
    (task.status.state == TaskState::Running, task.is_wanted(), task.created_index)
}

fn container_id(task: &Task) -> &str {
    task.status.container.as_ref().map_or("", |container| container.container_id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_cluster::command::{Command, Object, Write};
    use skep_model::node::Node;
    use skep_model::task::{TaskContainerStatus, TaskStatus};

    fn task(id: &str, service: &str, slot: u64, state: TaskState) -> Task {
        let container =
            TaskContainerStatus { container_id: format!("c0ffee-{id}").into(), ..TaskContainerStatus::default() };
        Task {
            id: id.into(),
            service_name: service.into(),
            slot,
            node_id: "n1".into(),
            desired_state: TaskState::Running,
            status: TaskStatus { state, container: Some(container), ..TaskStatus::default() },
            ..Task::default()
        }
    }

    fn store() -> Store {
        let mut store = Store::default();
        let mut node = Node { id: "n1".into(), ..Node::default() };
        node.description.hostname = "host1".into();
        let tasks = [
            task("aaaa1111", "web", 1, TaskState::Failed),
            task("aaaa2222", "web", 1, TaskState::Running),
            task("bbbb3333", "web", 1, TaskState::Assigned),
            task("cccc4444", "agent", 0, TaskState::Running),
        ];
        let objects = tasks.into_iter().map(|task| Object::Task(Box::new(task)));
        let objects = std::iter::once(Object::Node(Box::new(node))).chain(objects);
        for (index, object) in (1..).zip(objects) {
            let command = Command { id: index.to_string(), writes: vec![Write::put(object)], ..Command::default() };
            store.apply(index, &command).unwrap();
        }
        store
    }

    fn check(name: &str, expect: Result<&str, &str>) {
        let found = find(&store(), name).map(|task| task.id.0.clone()).map_err(|error| error.message);
        assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{name}");
    }

    #[test]
    fn a_slot_means_the_task_that_runs_there() {
        check("web.1", Ok("aaaa2222"));
        check("/web.1", Ok("aaaa2222"));
        check("web.1.aaaa1111", Ok("aaaa1111"));
        check("agent.n1", Ok("cccc4444"));
        check("agent.host1", Ok("cccc4444"));
        check("web.2", Err("No such container: web.2"));
        check("web", Err("No such container: web"));
    }

    #[test]
    fn ids_and_their_beginnings_mean_their_task() {
        check("bbbb3333", Ok("bbbb3333"));
        check("bbbb", Ok("bbbb3333"));
        check("c0ffee-bbbb3333", Ok("bbbb3333"));
        check("bbb", Err("No such container: bbb"));
        check("aaaa", Err("several tasks' ids begin with aaaa"));
        check("", Err("No such container: "));
    }
}
