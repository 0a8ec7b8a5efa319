//! A whole swarm of one: services come, change, fail and go, and survive a restart.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::*;
use skep_model::node::{NodeState, Role};
use skep_model::secret::SecretSpec;
use skep_model::service::ServiceMode;
use skep_model::task::TaskState;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_created_repaired_scaled_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let control = manager.control();
    let mut agent = Agent::start(manager.identity(), manager.advertise_addr(), "host1").await;
    assert!(agent.tasks.is_empty());
    assert_eq!(control.node("host1").unwrap().status.state, NodeState::Ready);
    assert_eq!(control.node("self").unwrap().id, *control.node_id());

    let started = Instant::now();
    control.create_service(service("web", 3)).await.unwrap();
    agent.until(|tasks| tasks.len() == 3).await;
    eprintln!("created and assigned 3 replicas in {:?}", started.elapsed());
    agent.obey().await;
    wait_for(&control, "3 run", |control| running(control) == 3).await;

    // One dies and is replaced in its slot.
    let victim = agent.tasks.keys().next().unwrap().clone();
    let slot = agent.tasks[&victim].slot;
    agent.report(&[(&victim, TaskState::Failed)]).await.unwrap();
    let replaced = |tasks: &std::collections::BTreeMap<String, skep_model::task::Task>| {
        tasks.values().any(|t| t.slot == slot && t.id.as_str() != victim && t.desired_state == TaskState::Running)
    };
    agent.until(replaced).await;
    agent.obey().await;
    wait_for(&control, "3 run again", |control| running(control) == 3).await;

    // Scaled up.
    let present = control.service("web").unwrap();
    let mut spec = present.spec.clone();
    spec.mode = ServiceMode::Replicated { replicas: 5 };
    control.update_service("web", present.meta.version, spec.clone(), false).await.unwrap();
    let wanted = |tasks: &std::collections::BTreeMap<String, skep_model::task::Task>, count: usize| {
        tasks.values().filter(|task| task.desired_state == TaskState::Running).count() == count
    };
    agent.until(|tasks| wanted(tasks, 5)).await;
    agent.obey().await;
    wait_for(&control, "5 run", |control| running(control) == 5).await;
    // With a version that is not the present one.
    let error = control.update_service("web", present.meta.version, spec, false).await.unwrap_err();
    assert!(error.message.contains("update out of sequence"), "{error}");

    // Removed: the tasks end, then nothing is left.
    control.remove_service(present.id.as_str()).await.unwrap();
    agent.until(|tasks| wanted(tasks, 0)).await;
    agent.obey().await;
    wait_for(&control, "nothing is left", |control| control.tasks().is_empty() && control.services().is_empty()).await;
    agent.until(|tasks| tasks.is_empty()).await;
    assert_eq!(control.service("web").unwrap_err().message, "service web not found");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let mut agent = Agent::start(manager.identity(), manager.advertise_addr(), "host1").await;
    let control = manager.control();
    control.create_service(service("web", 2)).await.unwrap();
    let data = b"a secret that must not be shown".to_vec();
    control.create_secret(SecretSpec { name: "key".into(), data: data.clone(), ..Default::default() }).await.unwrap();
    assert!(control.secrets()[0].spec.data.is_empty());
    agent.until(|tasks| tasks.len() == 2).await;
    agent.obey().await;
    wait_for(&control, "2 run", |control| running(control) == 2).await;
    let (cluster, tasks) = (control.cluster().unwrap(), control.tasks());
    assert!(cluster.root_ca.key_pem.is_empty());
    drop(agent);
    let tokens = control.tokens().unwrap();
    drop(control);
    manager.shutdown().await;

    let started = Instant::now();
    let manager = reopen(dir.path()).await;
    let control = manager.control();
    wait_for(&control, "the state is back", |control| control.tasks().len() == 2).await;
    eprintln!("state was back {:?} after the restart", started.elapsed());
    assert_eq!(control.cluster().unwrap().id, cluster.id);
    assert_eq!(control.tokens().unwrap().worker, tokens.worker);
    let ids =
        |tasks: &[std::sync::Arc<skep_model::task::Task>]| tasks.iter().map(|task| task.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&control.tasks()), ids(&tasks));
    wait_for(&control, "it leads", |control| control.leader().as_ref() == Some(control.node_id())).await;
    wait_for(&control, "nobody has heard of the node", |control| {
        control.node("host1").unwrap().status.state == NodeState::Unknown
    })
    .await;
    let agent = Agent::start(manager.identity(), manager.advertise_addr(), "host1").await;
    assert_eq!(agent.tasks.len(), 2);
    assert_eq!(control.node("host1").unwrap().status.state, NodeState::Ready);
    assert!(skep_manager::Manager::bootstrap(config(dir.path()), Default::default()).await.is_err());
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_nodes_go_down_and_closed_ones_are_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = skep_manager::SwarmInit::default();
    init.spec.heartbeat_period = Duration::from_millis(200);
    let manager = skep_manager::Manager::bootstrap(config(dir.path()), init).await.unwrap();
    let (control, address) = (manager.control(), manager.advertise_addr().to_owned());
    let token = control.tokens().unwrap().worker;
    let silent = join(&address, &token).await.unwrap();
    let mut silent_agent = Agent::start(&silent, &address, "silent").await;
    assert_eq!(silent_agent.first.heartbeat_period_ms, 200);
    silent_agent.heartbeat().await.unwrap();
    let state = |control: &skep_manager::Control, host: &str| control.node(host).unwrap().status.state;
    wait_for(&control, "the silent one is down", |control| state(control, "silent") == NodeState::Down).await;
    assert!(silent_agent.heartbeat().await.is_err());
    while let Ok(Some(_)) = silent_agent.session.message().await {}

    let leaving = join(&address, &token).await.unwrap();
    let leaving_agent = Agent::start(&leaving, &address, "leaving").await;
    assert_eq!(state(&control, "leaving"), NodeState::Ready);
    drop(leaving_agent);
    wait_for(&control, "the leaving one is gone", |control| {
        matches!(state(control, "leaving"), NodeState::Disconnected | NodeState::Down)
    })
    .await;
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_by_token_and_renew_by_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let (control, address) = (manager.control(), manager.advertise_addr().to_owned());
    let tokens = control.tokens().unwrap();
    let worker = join(&address, &tokens.worker).await.unwrap();
    assert_eq!((worker.role(), worker.cluster_id()), (Role::Worker, control.cluster().unwrap().id.clone()));
    assert_eq!(control.node(worker.node_id().as_str()).unwrap().spec.role, Role::Worker);
    assert_eq!(join(&address, &tokens.manager).await.unwrap().role(), Role::Manager);

    let renewed = issue(worker.connect(&address).await.unwrap(), "").await.unwrap();
    assert_eq!((renewed.node_id(), renewed.role()), (worker.node_id(), Role::Worker));

    // A token of the right swarm with another secret; none at all; one that was rotated away.
    let mut stale = tokens.worker.clone();
    stale.truncate(stale.len() - 25);
    stale.push_str(&"0".repeat(25));
    assert_eq!(join(&address, &stale).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let version = control.cluster().unwrap().meta.version;
    let spec = control.cluster().unwrap().spec.clone();
    let rotate = skep_manager::RotateFlags { worker_token: true, ..Default::default() };
    control.update_cluster(version, spec, rotate).await.unwrap();
    assert_eq!(join(&address, &tokens.worker).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    join(&address, &control.tokens().unwrap().worker).await.unwrap();

    // A removed node is not let in any more.
    control.remove_node(worker.node_id().as_str(), true).await.unwrap();
    let renewed = async { issue(worker.connect(&address).await.ok()?, "").await.ok() };
    assert!(renewed.await.is_none());
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_refused_to_those_whom_they_do_not_concern() {
    use skep_proto::dispatcher::{HeartbeatRequest, dispatcher_client::DispatcherClient};
    use skep_proto::raft::{RaftMessage, raft_client::RaftClient};
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let (control, address) = (manager.control(), manager.advertise_addr().to_owned());
    let token = control.tokens().unwrap().worker;
    let nobody = skep_identity::connect_for_join(&address, &token.parse().unwrap()).await.unwrap();
    let beat = DispatcherClient::new(nobody).heartbeat(HeartbeatRequest::default()).await;
    assert_eq!(beat.unwrap_err().code(), tonic::Code::Unauthenticated);

    let worker = join(&address, &token).await.unwrap();
    let vote = RaftClient::new(worker.connect(&address).await.unwrap()).vote(RaftMessage::default()).await;
    assert_eq!(vote.unwrap_err().code(), tonic::Code::PermissionDenied);

    // Garbage from a manager is an error, not an accident.
    let channel = manager.identity().connect(&address).await.unwrap();
    let vote = RaftClient::new(channel).vote(RaftMessage { body: b"\xff\x00garbage".to_vec(), epoch: 1 }).await;
    assert_eq!(vote.unwrap_err().code(), tonic::Code::InvalidArgument);

    // A worker reports only its own tasks.
    let mut agent = Agent::start(manager.identity(), &address, "host1").await;
    control.create_service(service("web", 1)).await.unwrap();
    agent.until(|tasks| tasks.len() == 1).await;
    let mut other = Agent::start(&worker, &address, "host2").await;
    let task = agent.tasks.keys().next().unwrap().clone();
    let error = other.report(&[(&task, TaskState::Failed)]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_a_task_hears_when_no_node_balances_to_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let (control, address) = (manager.control(), manager.advertise_addr().to_owned());
    let mut own = Agent::start(manager.identity(), &address, "own").await;
    let identity = join(&address, &control.tokens().unwrap().worker).await.unwrap();
    let mut other = Agent::start(&identity, &address, "other").await;
    let mut spec = service("web", 1);
    spec.task.placement.constraints = vec!["node.hostname == own".into()];
    let port = skep_model::service::PortConfig { target_port: 80, published_port: 8080, ..Default::default() };
    spec.endpoint.ports.push(port);
    control.create_service(spec.clone()).await.unwrap();
    own.until(|tasks| tasks.len() == 1).await;
    own.obey().await;
    wait_for(&control, "it runs", |control| running(control) == 1).await;
    let mut question = own.ask_network();
    tokio::select! {
        followed = &mut question => assert!(followed.unwrap(), "all follow"),
        never = own.follow() => match never {},
        never = other.follow() => match never {},
    }

    let version = control.service("web").unwrap().meta.version;
    spec.mode = ServiceMode::Replicated { replicas: 0 };
    control.update_service("web", version, spec, false).await.unwrap();
    own.until(|tasks| tasks.values().all(|task| task.desired_state >= TaskState::Shutdown)).await;
    let mut question = own.ask_network();
    tokio::select! {
        _ = &mut question => panic!("the other node has not followed yet"),
        never = own.follow() => match never {},
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    tokio::select! {
        followed = &mut question => assert!(followed.unwrap()),
        never = own.follow() => match never {},
        never = other.follow() => match never {},
    }

    manager.shutdown().await;
}
