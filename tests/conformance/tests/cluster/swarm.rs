//! What scenarios ask about nodes, services and tasks.

use anyhow::{Context, Result, bail, ensure};
use skep_conformance::{Lab, Node, wait};
use std::collections::BTreeMap;
use std::time::Duration;

/// One row of `service ps`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) desired: String,
    pub(crate) current: String,
    pub(crate) error: String,
}

impl Task {
    pub(crate) fn is_running(&self) -> bool {
        self.desired == "Running" && self.current.starts_with("Running")
    }
}

/// All tasks of a service, those of the past too.
pub(crate) fn tasks(node: &Node, service: &str) -> Result<Vec<Task>> {
    let format = "{{.ID}}|{{.Node}}|{{.DesiredState}}|{{.CurrentState}}|{{.Error}}";
    let rows = node.ok(&["service", "ps", "--no-trunc", "--format", format, service])?;
    rows.lines()
        .map(|row| {
            let mut parts = row.splitn(5, '|').map(str::to_owned);
            let mut next = || parts.next().with_context(|| row.to_owned());
            Ok(Task { id: next()?, node: next()?, desired: next()?, current: next()?, error: next()? })
        })
        .collect()
}

/// Tasks that run, sorted.
pub(crate) fn running(node: &Node, service: &str) -> Result<Vec<Task>> {
    let mut tasks = tasks(node, service)?;
    tasks.retain(Task::is_running);
    tasks.sort();
    Ok(tasks)
}

/// Waits until exactly `count` tasks run and none is wanted beside them; gives them.
pub(crate) fn settled(node: &Node, service: &str, count: usize) -> Result<Vec<Task>> {
    settled_within(wait::DEADLINE, node, service, count)
}

/// The same with another deadline.
pub(crate) fn settled_within(deadline: Duration, node: &Node, service: &str, count: usize) -> Result<Vec<Task>> {
    wait::within(deadline, &format!("{count} tasks of {service}"), || {
        let all = tasks(node, service)?;
        let running: Vec<Task> = all.iter().filter(|task| task.is_running()).cloned().collect();
        let wanted = all.iter().filter(|task| task.desired == "Running" || task.desired == "Ready").count();
        ensure!(running.len() == count && wanted == count, "{all:#?}");
        Ok(running)
    })
}

/// How many tasks run on each host.
pub(crate) fn spread(tasks: &[Task]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for task in tasks {
        *found.entry(task.node.clone()).or_insert(0) += 1;
    }
    found
}

/// `node ls` as `HOST STATUS AVAILABILITY MANAGER` lines, sorted.
pub(crate) fn nodes(node: &Node) -> Result<Vec<String>> {
    let format = "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}";
    let rows = node.ok(&["node", "ls", "--format", format])?;
    let mut rows: Vec<String> = rows.lines().map(|row| row.trim_end().to_owned()).collect();
    rows.sort();
    Ok(rows)
}

/// Waits until `node ls` shows exactly these lines.
pub(crate) fn nodes_become(node: &Node, expect: &[&str]) -> Result<()> {
    wait::until(&format!("nodes {expect:?}"), || {
        let seen = nodes(node)?;
        ensure!(seen == expect, "{seen:?}");
        Ok(())
    })
}

/// The machine whose manager leads, as `asked` says; while there is none, it is waited for.
pub(crate) fn leader<'a>(lab: &'a Lab, asked: &Node) -> Result<&'a Node> {
    wait::until("a leader", || {
        let rows = nodes(asked)?;
        let row = rows.iter().find(|row| row.ends_with(" Leader")).with_context(|| format!("none: {rows:?}"))?;
        lab.by_name(row.split(' ').next().unwrap_or_default())
    })
}

/// Waits until all managers and workers of a formed lab are ready, as the first machine sees it.
pub(crate) fn all_ready(lab: &Lab, managers: usize) -> Result<()> {
    wait::until("all nodes to be ready", || {
        let rows = nodes(lab.node(1))?;
        let ready = rows.iter().filter(|row| row.contains(" Ready ")).count();
        let up = rows.iter().filter(|row| row.ends_with(" Leader") || row.ends_with(" Reachable")).count();
        ensure!(ready == lab.nodes().len() && rows.len() == ready && up == managers, "{rows:?}");
        Ok(())
    })
}

/// A swarm with `managers` managers on all machines, busybox on each.
pub(crate) fn formed(lab: &Lab, managers: usize) -> Result<()> {
    formed_with(lab, managers, &[])
}

/// The same, founded with options of `swarm init`.
pub(crate) fn formed_with(lab: &Lab, managers: usize, options: &[&str]) -> Result<()> {
    lab.form_swarm(managers, options)?;
    on_all(lab, |node| node.import_busybox())?;
    all_ready(lab, managers)
}

/// Does the same on all machines at once.
pub(crate) fn on_all(lab: &Lab, work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = lab.nodes().iter().map(|node| scope.spawn(move || work(node))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Ids of the tasks that are not on `host`, sorted.
pub(crate) fn ids_beside(tasks: &[Task], host: &str) -> Vec<String> {
    let mut ids: Vec<String> = tasks.iter().filter(|task| task.node != host).map(|task| task.id.clone()).collect();
    ids.sort();
    ids
}

/// `service create` that does not wait for its tasks. Nothing here has a registry to ask.
pub(crate) fn create(node: &Node, name: &str, args: &[&str]) -> Result<String> {
    // busybox's `sleep` does not end by itself as process 1.
    let head = ["service", "create", "--detach", "--no-resolve-image", "--stop-grace-period", "100ms", "--name", name];
    node.ok(&[head.as_slice(), args].concat())
}

/// The same on a busy swarm, where a leader may be missing for a moment, or its answer: then
/// the service that stands in the way of the second try is the one of the first.
pub(crate) fn create_patiently(node: &Node, name: &str, args: &[&str]) -> Result<()> {
    let own_port = format!("is already in use by service '{name}'");
    wait::until("a manager that creates", || match create(node, name, args).map_err(|error| format!("{error:#}")) {
        Err(error) if error.contains("name conflicts with an existing object") || error.contains(&own_port) => Ok(()),
        Err(error) => bail!("{error}"),
        Ok(_) => Ok(()),
    })
}
