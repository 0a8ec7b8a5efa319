//! A real manager with real agents over TLS on loopback; only the machine is pretended.

use crate::manager_keeper::{Kept, ManagerKeeper};
use async_trait::async_trait;
use skep_agent::{Agent, AgentConfig, Executor, Seen, Started, TaskApi, Until};
use skep_identity::{CertStore, Identity};
use skep_manager::{Control, Manager, ManagerConfig, SwarmInit};
use skep_model::container::InjectedFile;
use skep_model::id::{NodeId, TaskId};
use skep_model::netstate::ClusterNetState;
use skep_model::node::{Availability, NodeDescription, NodeSpec, NodeState, Platform, Role};
use skep_model::secret::SecretSpec;
use skep_model::service::{FileTarget, SecretReference, ServiceMode, ServiceSpec};
use skep_model::task::{Task, TaskContainerStatus, TaskState};
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

/// Containers are entries of a map; they run until stopped or told to exit.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) containers: Mutex<BTreeMap<TaskId, Option<i32>>>,
    files: Mutex<BTreeMap<TaskId, Vec<Vec<u8>>>>,
    changed: watch::Sender<u64>,
    generations: Mutex<Vec<u64>>,
}

impl Machine {
    fn running(&self) -> usize {
        self.containers.lock().unwrap().values().filter(|exit| exit.is_none()).count()
    }

    fn exit_all(&self, code: i32) {
        for exit in self.containers.lock().unwrap().values_mut() {
            *exit = Some(code);
        }
        self.changed.send_modify(|count| *count += 1);
    }
}

fn status(task: &TaskId, exit_code: i32) -> TaskContainerStatus {
    TaskContainerStatus { container_id: format!("container-{task}").into(), pid: 1, ipv6: false, exit_code }
}

#[async_trait]
impl Executor for Machine {
    async fn prepare(&self, task: &Task, files: Vec<InjectedFile>, _: &CancellationToken) -> Result<()> {
        let data = files.into_iter().map(|file| file.data).collect();
        self.files.lock().unwrap().insert(task.id.clone(), data);
        Ok(())
    }

    async fn start(&self, task: &Task, _: Vec<InjectedFile>) -> Result<Started> {
        self.containers.lock().unwrap().entry(task.id.clone()).or_insert(None);
        Ok(Started { container: status(&task.id, 0), ports: Vec::new(), healthy: true })
    }

    async fn watch(&self, task: &Task, _: Until) -> Result<Seen> {
        let mut changed = self.changed.subscribe();
        loop {
            let exit = self.containers.lock().unwrap().get(&task.id).copied();
            match exit {
                None => return Err(Error::not_found("No such container")),
                Some(Some(code)) => {
                    return Ok(Seen::Exited { container: status(&task.id, code), cause: String::new() });
                }
                Some(None) => changed.changed().await.unwrap(),
            }
        }
    }

    async fn stop(&self, task: &Task) -> Result<Option<TaskContainerStatus>> {
        let mut containers = self.containers.lock().unwrap();
        Ok(containers.get_mut(&task.id).map(|exit| {
            *exit = Some(143);
            status(&task.id, 143)
        }))
    }

    async fn remove(&self, task: &TaskId) -> Result<()> {
        self.containers.lock().unwrap().remove(task);
        Ok(())
    }

    async fn tasks(&self) -> Result<BTreeSet<TaskId>> {
        Ok(self.containers.lock().unwrap().keys().cloned().collect())
    }

    async fn apply_network(&self, state: &ClusterNetState) -> Result<()> {
        self.generations.lock().unwrap().push(state.generation);
        Ok(())
    }

    async fn clear_network(&self) -> Result<()> {
        Ok(())
    }
}

/// Says what it heard, and its own word for it.
struct Greeting;

#[async_trait]
impl TaskApi for Greeting {
    async fn serve(&self, mut connection: DuplexStream) {
        let mut heard = String::new();
        connection.read_to_string(&mut heard).await.unwrap();
        connection.write_all(format!("{heard} yourself").as_bytes()).await.unwrap();
    }
}

pub(crate) fn config(dir: &Path) -> ManagerConfig {
    ManagerConfig {
        state_dir: dir.join("swarm"),
        listen_addr: "127.0.0.1:0".parse().unwrap(),
        advertise_addr: String::new(),
        vault: ManagerConfig::vault_of(&dir.join("swarm")),
    }
}

fn description(name: &str) -> NodeDescription {
    let plugins =
        [("Network", "overlay"), ("Network", "bridge"), ("Network", "host"), ("Volume", "local"), ("Log", "json-file")];
    NodeDescription {
        hostname: name.into(),
        platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
        nano_cpus: 2_000_000_000,
        memory_bytes: 1 << 30,
        engine_version: "1".into(),
        plugins: plugins.map(|(kind, name)| (kind.to_owned(), name.to_owned())).to_vec(),
        ..NodeDescription::default()
    }
}

pub(crate) async fn agent(dir: &Path, identity: Identity, manager: &str, machine: Arc<Machine>) -> Agent {
    Agent::start(AgentConfig {
        state_dir: dir.join("worker"),
        certificates: CertStore::new(dir.join("swarm/certificates")),
        managers: vec![manager.to_owned()],
        description: description(dir.file_name().unwrap().to_str().unwrap()),
        data_path_address: "127.0.0.1".into(),
        identity,
        executor: machine,
        task_api: Arc::new(Greeting),
    })
    .await
    .unwrap()
}

pub(crate) fn service(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    spec.mode = ServiceMode::Replicated { replicas };
    spec.task.container.image = "example/app:1".into();
    spec.task.restart.delay = Duration::from_millis(10);
    spec
}

pub(crate) async fn until(control: &Control, what: &str, check: impl Fn(&Control) -> bool) {
    let mut version = control.version();
    let waiting = async {
        while !check(control) {
            // Who leads may change without the store.
            if let Ok(changed) = tokio::time::timeout(Duration::from_millis(50), version.changed()).await {
                changed.unwrap();
            }
        }
    };
    if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
        let tasks: Vec<_> = control.tasks().iter().map(|t| (t.slot, t.desired_state, t.status.clone())).collect();
        panic!("never: {what}; tasks: {tasks:#?}; nodes: {:#?}", control.nodes());
    }
}

pub(crate) fn count(control: &Control, state: TaskState) -> usize {
    control.tasks().iter().filter(|task| task.status.state == state).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_runs_is_replaced_and_scaled_on_the_managers_own_node() {
    let dir = tempfile::tempdir().unwrap();
    let init = SwarmInit { description: description("m"), ..SwarmInit::default() };
    let manager = Manager::bootstrap(config(dir.path()), init).await.unwrap();
    let control = manager.control();
    let (identity, address) = (manager.identity().clone(), manager.local_addr().to_string());
    let machine = Arc::new(Machine::default());
    let agent = agent(dir.path(), identity.clone(), &address, machine.clone()).await;
    let kept = Kept { config: config(dir.path()), identity, view: agent.watch(), managers: Vec::new() };
    let keeper = ManagerKeeper::start(kept, Some(manager));

    let secret = SecretSpec { name: "pw".into(), data: b"hush".to_vec(), ..SecretSpec::default() };
    let secret_id = control.create_secret(secret).await.unwrap();
    let mut spec = service("web", 3);
    let file = FileTarget { name: "pw".into(), mode: 0o444, ..FileTarget::default() };
    spec.task.container.secrets = vec![SecretReference { secret_id, secret_name: "pw".into(), file }];
    control.create_service(spec).await.unwrap();
    until(&control, "three running tasks", |control| count(control, TaskState::Running) == 3).await;
    assert_eq!(machine.running(), 3);
    let files = machine.files.lock().unwrap().values().next().cloned().unwrap();
    assert_eq!(files, [b"hush".to_vec()]);

    machine.exit_all(1);
    until(&control, "three failed tasks replaced by three", |control| {
        count(control, TaskState::Failed) == 3 && count(control, TaskState::Running) == 3
    })
    .await;

    let web = control.service("web").unwrap();
    let mut spec = web.spec.clone();
    spec.mode = ServiceMode::Replicated { replicas: 1 };
    control.update_service("web", web.meta.version, spec, false).await.unwrap();
    until(&control, "one running task", |control| count(control, TaskState::Running) == 1).await;
    assert!(machine.generations.lock().unwrap().is_sorted(), "network generations never go back");

    control.remove_service("web").await.unwrap();
    until(&control, "no task", |control| control.tasks().is_empty()).await;
    agent.leave().await.unwrap();
    keeper.shutdown().await;
    assert!(machine.containers.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_joins_runs_tasks_and_keeps_them_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::bootstrap(config(dir.path()), SwarmInit::default()).await.unwrap();
    let control = manager.control();
    let address = manager.local_addr().to_string();
    let token = control.tokens().unwrap().worker;

    let home = dir.path().join("w1");
    let store = CertStore::new(home.join("swarm/certificates"));
    let managers = [address.clone()];
    let wrong = token.replace("SWMTKN-1-", "SWMTKN-1-x");
    assert!(skep_agent::join(&store, &managers, &wrong, Availability::Active).await.is_err());
    assert!(store.load().unwrap().is_none());
    let identity = skep_agent::join(&store, &managers, &token, Availability::Active).await.unwrap();
    let machine = Arc::new(Machine::default());
    let worker = agent(&home, identity, &address, machine.clone()).await;

    control.create_service(service("web", 2)).await.unwrap();
    until(&control, "two running tasks", |control| count(control, TaskState::Running) == 2).await;
    assert_eq!(machine.running(), 2);

    // The daemon of the worker goes away; one container ends meanwhile.
    worker.shutdown().await;
    let (gone, _) = machine.containers.lock().unwrap().first_key_value().map(|(k, v)| (k.clone(), *v)).unwrap();
    machine.containers.lock().unwrap().insert(gone.clone(), Some(9));
    let identity = Identity::new(&store.load().unwrap().unwrap()).unwrap();
    let worker = agent(&home, identity, &address, machine.clone()).await;
    until(&control, "the end of one task", |control| {
        control.tasks().iter().any(|task| task.id == gone && task.status.err == "task: non-zero exit (9)")
    })
    .await;
    until(&control, "two running tasks again", |control| count(control, TaskState::Running) == 2).await;
    assert_eq!(machine.containers.lock().unwrap().len(), 3, "the other container was taken up, not made again");

    worker.shutdown().await;
    manager.shutdown().await;
}

/// A node with an agent, and a manager while it is one.
struct Node {
    identity: Identity,
    machine: Arc<Machine>,
    agent: Agent,
    keeper: ManagerKeeper,
    raft_dir: std::path::PathBuf,
}

impl Node {
    async fn start(dir: &Path, identity: Identity, manager: &str, running: Option<Manager>) -> Self {
        let machine = Arc::new(Machine::default());
        let agent = agent(dir, identity.clone(), manager, machine.clone()).await;
        let config = config(dir);
        let raft_dir = config.state_dir.join("raft");
        let kept = Kept { config, identity: identity.clone(), view: agent.watch(), managers: vec![manager.to_owned()] };
        let keeper = ManagerKeeper::start(kept, running);
        Self { identity, machine, agent, keeper, raft_dir }
    }

    fn containers(&self) -> BTreeSet<TaskId> {
        self.machine.containers.lock().unwrap().keys().cloned().collect()
    }

    async fn until_manager(&self, wanted: bool) {
        let mut state = self.keeper.state();
        let reached = state.wait_for(|state| state.wanted == wanted && state.control.is_some() == wanted);
        tokio::time::timeout(DEADLINE, reached).await.expect("the node's role never changes").unwrap();
    }

    async fn end(self) {
        self.agent.shutdown().await;
        self.keeper.shutdown().await;
    }
}

async fn set_role(control: &Control, node: &Identity, role: Role) {
    loop {
        let present = control.node(node.node_id().as_str()).unwrap();
        let spec = NodeSpec { role, ..present.spec.clone() };
        match control.update_node(node.node_id().as_str(), present.meta.version, spec).await {
            Err(error) if error.message.contains("update out of sequence") => {}
            result => return result.unwrap(),
        }
    }
}

fn managers(control: &Control) -> usize {
    control.nodes().iter().filter(|n| n.manager_status.as_ref().is_some_and(|status| status.reachable)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_become_managers_and_workers_again_under_their_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let homes = ["a", "b"].map(|name| dir.path().join(name));
    let init = SwarmInit { description: description("a"), ..SwarmInit::default() };
    let manager = Manager::bootstrap(config(&homes[0]), init).await.unwrap();
    let (control, address) = (manager.control(), manager.local_addr().to_string());
    let a = Node::start(&homes[0], manager.identity().clone(), &address, Some(manager)).await;
    let store = CertStore::new(homes[1].join("swarm/certificates"));
    let token = control.tokens().unwrap().worker;
    let identity =
        skep_agent::join(&store, std::slice::from_ref(&address), &token, Availability::Active).await.unwrap();
    let b = Node::start(&homes[1], identity, &address, None).await;
    until(&control, "two nodes are ready", |control| {
        control.nodes().iter().filter(|node| node.status.state == NodeState::Ready).count() == 2
    })
    .await;
    control.create_service(service("web", 4)).await.unwrap();
    until(&control, "four running tasks", |control| count(control, TaskState::Running) == 4).await;
    let before = [a.containers(), b.containers()];
    assert!(before.iter().all(|containers| !containers.is_empty()), "both nodes run something");

    set_role(&control, &b.identity, Role::Manager).await;
    b.until_manager(true).await;
    assert_eq!(b.identity.role(), Role::Manager);
    until(&control, "two managers", |control| managers(control) == 2).await;

    // The first, who leads, is demoted by the second.
    let second = b.keeper.state().borrow().control.clone().unwrap();
    until(&second, "the second knows both", |control| managers(control) == 2).await;
    drop(control);
    set_role(&second, &a.identity, Role::Worker).await;
    a.until_manager(false).await;
    assert_eq!(a.identity.role(), Role::Worker);
    until(&second, "one manager, who leads", |control| {
        managers(control) == 1 && control.leader().as_ref() == Some(control.node_id())
    })
    .await;
    let mut view = a.agent.watch();
    let connected = view.wait_for(|view| view.connected && view.managers.len() == 1);
    tokio::time::timeout(DEADLINE, connected).await.expect("the agent finds the new leader").unwrap();

    // And promoted again: it comes back as a new member.
    set_role(&second, &a.identity, Role::Manager).await;
    a.until_manager(true).await;
    until(&second, "two managers again", |control| managers(control) == 2).await;
    assert!(a.raft_dir.exists());
    assert_eq!([a.containers(), b.containers()], before, "no task was touched");
    assert_eq!(count(&second, TaskState::Running), 4);
    set_role(&second, &a.identity, Role::Worker).await;
    a.until_manager(false).await;
    drop(second);
    a.end().await;
    b.end().await;
}

/// Asks a node through a tunnel.
async fn ask(control: &Control, node: &NodeId, question: &str) -> Result<String> {
    let mut tunnel = control.reach(node).await?;
    tunnel.write_all(question.as_bytes()).await?;
    tunnel.shutdown().await?;
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manager_reaches_every_node_through_the_nodes_own_connections() {
    let dir = tempfile::tempdir().unwrap();
    let leader = Manager::bootstrap(config(dir.path()), SwarmInit::default()).await.unwrap();
    let control = leader.control();
    let managers = [leader.local_addr().to_string()];
    let tokens = control.tokens().unwrap();

    let home = dir.path().join("w1");
    let store = CertStore::new(home.join("swarm/certificates"));
    let identity = skep_agent::join(&store, &managers, &tokens.worker, Availability::Active).await.unwrap();
    let node = identity.node_id();
    let worker = agent(&home, identity, &managers[0], Arc::default()).await;
    worker.watch().wait_for(|view| view.connected).await.unwrap();
    let second_home = dir.path().join("m2");
    let store = CertStore::new(second_home.join("swarm/certificates"));
    let identity = skep_agent::join(&store, &managers, &tokens.manager, Availability::Active).await.unwrap();
    let follower = Manager::join_through(config(&second_home), identity, &managers).await.unwrap();

    let mut reached = ask(&control, &node, "hello").await;
    let until = tokio::time::Instant::now() + DEADLINE;
    while reached.is_err() && tokio::time::Instant::now() < until {
        // The agent's session is up a moment before it listens for requests.
        tokio::time::sleep(Duration::from_millis(5)).await;
        reached = ask(&control, &node, "hello").await;
    }
    assert_eq!(reached.unwrap(), "hello yourself");
    assert_eq!(ask(&follower.control(), &node, "hi").await.unwrap(), "hi yourself");
    let long = "x".repeat(1 << 20);
    let from_follower = follower.control();
    let both = tokio::join!(ask(&control, &node, &long), ask(&from_follower, &node, &long));
    assert_eq!((both.0.unwrap().len(), both.1.unwrap().len()), ((1 << 20) + 9, (1 << 20) + 9));

    for control in [&control, &follower.control()] {
        let error = ask(control, &"nosuch".into(), "hello").await.unwrap_err();
        assert!(error.message.contains("is not connected to the leader"), "{error}");
    }
    worker.shutdown().await;
    let error = ask(&control, &node, "hello").await.unwrap_err();
    assert!(error.message.starts_with("node w1 cannot be reached"), "{error}");
    follower.shutdown().await;
    leader.shutdown().await;
}
