//! Three managers: they agree, come and go, and go on when one is gone.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::*;
use skep_identity::Identity;
use skep_manager::{Control, Manager, ManagerConfig, SwarmInit};
use skep_model::ErrorKind;
use skep_model::id::NodeId;
use skep_model::node::{NodeSpec, NodeState, Role};
use skep_proto::LEADER_METADATA;
use skep_proto::dispatcher::SessionRequest;
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NO_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few \
                         managers are online. Make sure more than half of the managers are online.";

fn dirs(count: usize) -> Vec<TempDir> {
    (0..count).map(|_| tempfile::tempdir().unwrap()).collect()
}

async fn join_manager(dir: &Path, first: &Manager) -> Manager {
    join_manager_at(settled_config(dir), first).await
}

async fn join_manager_at(config: ManagerConfig, first: &Manager) -> Manager {
    let token = first.control().tokens().unwrap().manager;
    let identity = join(first.advertise_addr(), &token).await.unwrap();
    // One that is not there is passed over.
    let managers = ["127.0.0.1:1".to_owned(), first.advertise_addr().to_owned()];
    Manager::join_through(config, identity, &managers).await.unwrap()
}

async fn three(dirs: &[TempDir]) -> [Manager; 3] {
    let first = Manager::bootstrap(settled_config(dirs[0].path()), SwarmInit::default()).await.unwrap();
    let second = join_manager(dirs[1].path(), &first).await;
    let third = join_manager(dirs[2].path(), &first).await;
    for manager in [&first, &second, &third] {
        wait_for(&manager.control(), "all three are managers", |control| reachable(control) == 3).await;
    }
    [first, second, third]
}

fn leads(control: &Control, node: &NodeId) -> bool {
    let nodes = control.nodes();
    nodes.iter().any(|n| n.id == *node && n.manager_status.as_ref().is_some_and(|status| status.leader))
}

fn reachable(control: &Control) -> usize {
    control.nodes().iter().filter(|node| node.manager_status.as_ref().is_some_and(|s| s.reachable)).count()
}

fn managers(control: &Control) -> usize {
    control.nodes().iter().filter(|node| node.manager_status.is_some()).count()
}

/// The configuration of a manager that ran and is to run again.
fn again(dir: &Path, manager: &Manager) -> ManagerConfig {
    ManagerConfig { listen_addr: manager.local_addr(), ..config(dir) }
}

/// Like the clients: reads, changes, and tries again when something else was faster.
async fn set_role(control: &Control, node: &NodeId, role: Role) -> skep_model::Result<()> {
    loop {
        let present = control.node(node.as_str())?;
        let spec = NodeSpec { role, ..present.spec.clone() };
        match control.update_node(node.as_str(), present.meta.version, spec).await {
            Err(error) if error.message.contains("update out of sequence") => {}
            result => return result,
        }
    }
}

/// Asks for a certificate as a node's agent does, until it says `role`.
async fn renewed(identity: &Identity, address: &str, role: Role) -> Identity {
    let begin = Instant::now();
    loop {
        match issue(identity.connect(address).await.unwrap(), "").await {
            Ok(fresh) if fresh.role() == role => return fresh,
            Ok(_) => {}
            // The role changed while the certificate was made.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
        assert!(begin.elapsed() < DEADLINE, "the certificate never says {role:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks again and again: what is waited for is not a change of the store.
async fn eventually(what: &str, check: impl Fn() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_swarm_outlives_its_leader() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    let first_identity = first.identity().clone();
    first.control().create_service(service("before", 1)).await.unwrap();
    let first_id = first.control().node_id().clone();
    assert!(leads(&third.control(), &first_id));

    // A follower takes writes too, and sees them at once.
    second.control().create_service(service("by-follower", 2)).await.unwrap();
    second.control().service("by-follower").unwrap();
    wait_for(&third.control(), "it is everywhere", |control| control.service("by-follower").is_ok()).await;
    let error = second.control().create_service(service("by-follower", 2)).await.unwrap_err();
    assert!(error.message.contains("already exists"), "{error}");

    first.shutdown().await;
    let started = Instant::now();
    third.control().create_service(service("after", 1)).await.unwrap();
    eprintln!("the first write without the old leader took {:?}", started.elapsed());
    wait_for(&second.control(), "somebody else leads", |control| {
        control.leader().is_some_and(|leader| leader != first_id && leads(control, &leader))
    })
    .await;
    wait_for(&second.control(), "the old leader is known to be away", |control| {
        let node = control.node(first_id.as_str()).unwrap();
        node.manager_status.as_ref().is_some_and(|status| !status.leader && !status.reachable)
    })
    .await;

    // The old leader comes back at another port and catches up.
    let first = Manager::open(config(dirs[0].path()), first_identity).await.unwrap();
    wait_for(&first.control(), "it has caught up", |control| control.service("after").is_ok()).await;
    let address = first.advertise_addr().to_owned();
    wait_for(&second.control(), "it is reachable where it is now", |control| {
        let node = control.node(first_id.as_str()).unwrap();
        node.manager_status.as_ref().is_some_and(|status| status.reachable && status.address == address)
    })
    .await;
    eventually("all stores are the same", || {
        first.control().digest() == second.control().digest() && second.control().digest() == third.control().digest()
    })
    .await;
    for manager in [first, second, third] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_join_at_the_same_time() {
    let dirs = dirs(4);
    let first = bootstrap(dirs[0].path()).await;
    let joining = dirs[1..].iter().map(|dir| join_manager(dir.path(), &first));
    let others = futures_util::future::join_all(joining).await;
    wait_for(&first.control(), "all are managers", |control| reachable(control) == 4).await;
    for manager in others {
        manager.shutdown().await;
    }
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_promoted_and_a_leader_demoted() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    let (control, address) = (second.control(), second.advertise_addr().to_owned());
    let worker = join(&address, &control.tokens().unwrap().worker).await.unwrap();
    set_role(&control, &worker.node_id(), Role::Manager).await.unwrap();
    let worker = renewed(&worker, &address, Role::Manager).await;
    let fourth_dir = tempfile::tempdir().unwrap();
    let fourth =
        Manager::join_through(config(fourth_dir.path()), worker, std::slice::from_ref(&address)).await.unwrap();
    for manager in [&first, &fourth] {
        wait_for(&manager.control(), "there are four managers", |control| reachable(control) == 4).await;
    }

    // The leader is demoted: another one leads first.
    let first_id = first.control().node_id().clone();
    assert!(leads(&control, &first_id));
    set_role(&fourth.control(), &first_id, Role::Worker).await.unwrap();
    wait_for(&control, "the old leader is a worker", |control| {
        let node = control.node(first_id.as_str()).unwrap();
        node.role == Role::Worker && node.manager_status.is_none() && managers(control) == 3
    })
    .await;
    let demoted = renewed(first.identity(), &address, Role::Worker).await;
    assert_eq!(demoted.node_id(), first_id);
    control.create_service(service("after", 1)).await.unwrap();

    // With its old certificate it does not get in again.
    let again = tempfile::tempdir().unwrap();
    let error = Manager::join_through(config(again.path()), first.identity().clone(), &[address]).await;
    let error = error.err().expect("a demoted node was admitted").message;
    // By the leader's word or its door's, depending on who was asked.
    let refused = ["is not to be a manager", "is not a manager any more"].iter().any(|text| error.contains(text));
    assert!(refused, "{error}");
    for manager in [first, second, third, fourth] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_manager_is_removed_by_force() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    let control = first.control();
    let third_id = third.control().node_id().clone();
    let error = control.remove_node(third_id.as_str(), true).await.unwrap_err();
    assert!(error.message.contains("It must be demoted to worker before removal"), "{error}");
    third.shutdown().await;
    wait_for(&control, "it is unreachable", |control| reachable(control) == 2).await;
    assert_ne!(control.node(third_id.as_str()).unwrap().status.state, NodeState::Ready);
    control.remove_node(third_id.as_str(), true).await.unwrap();
    wait_for(&second.control(), "two managers are left", |control| {
        control.nodes().len() == 2 && reachable(control) == 2
    })
    .await;
    // Without one of the two, nobody could decide.
    let second_id = second.control().node_id().clone();
    second.shutdown().await;
    eventually("writes are refused", || control.check_leader().is_err()).await;
    let error = set_role(&control, &second_id, Role::Worker).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, NO_LEADER));
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_retires_leaves_a_smaller_swarm_behind() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    // The leader, then one of the two that are left.
    first.control().retire().await.unwrap();
    first.shutdown().await;
    wait_for(&second.control(), "two are left", |control| managers(control) == 2 && reachable(control) == 2).await;
    third.control().retire().await.unwrap();
    third.shutdown().await;
    wait_for(&second.control(), "one is left", |control| managers(control) == 1 && control.leader().is_some()).await;
    second.control().create_service(service("after", 1)).await.unwrap();
    let error = second.control().retire().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_reads_are_answered_and_writes_refused_at_once() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    let control = first.control();
    control.create_service(service("web", 1)).await.unwrap();
    let (identity, second_config) = (second.identity().clone(), again(dirs[1].path(), &second));
    second.shutdown().await;
    third.shutdown().await;
    eventually("nobody leads", || control.check_leader().is_err()).await;
    assert_eq!(control.check_leader().unwrap_err().message, NO_LEADER);
    // The first refusals wait for a leader, later ones come at once.
    let _ = control.create_service(service("more", 1)).await.unwrap_err();
    let started = Instant::now();
    let error = control.create_service(service("more", 1)).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, NO_LEADER));
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(control.service("web").is_ok());
    assert_eq!(control.leader(), None);
    eventually("only this manager is reachable", || reachable(&control) == 1).await;
    assert!(!leads(&control, control.node_id()));

    // One of them comes back: together they are two of three.
    let second = Manager::open(second_config, identity).await.unwrap();
    eventually("somebody leads", || control.check_leader().is_ok()).await;
    control.create_service(service("more", 1)).await.unwrap();
    wait_for(&second.control(), "both have it", |control| control.service("more").is_ok()).await;
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_goes_on_alone_by_force() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    second.control().create_service(service("web", 1)).await.unwrap();
    let lost = [first.identity().clone(), second.identity().clone()];
    let addresses = [&first, &second, &third].map(Manager::local_addr);
    let at = |number: usize| ManagerConfig { listen_addr: addresses[number], ..config(dirs[number].path()) };
    let identity = third.identity().clone();
    first.shutdown().await;
    second.shutdown().await;
    third.shutdown().await;
    let third = Manager::force_new_cluster(at(2), identity.clone()).await.unwrap();
    let control = third.control();
    assert!(control.service("web").is_ok());
    control.create_service(service("after", 1)).await.unwrap();
    let roles: Vec<Role> = control.nodes().iter().map(|node| node.spec.role).collect();
    assert_eq!(roles.iter().filter(|role| **role == Role::Manager).count(), 1);
    assert_eq!(managers(&control), 1);

    // The others come back and are a majority of the old swarm: nobody here listens to them.
    let old_first = Manager::open(at(0), lost[0].clone()).await.unwrap();
    let old_second = Manager::open(at(1), lost[1].clone()).await.unwrap();
    eventually("the old swarm has a leader", || old_first.control().check_leader().is_ok()).await;
    let _ = old_first.control().create_service(service("elsewhere", 1)).await;
    control.create_service(service("still-here", 1)).await.unwrap();
    assert_eq!(control.leader().as_ref(), Some(control.node_id()));
    assert!(control.service("elsewhere").is_err());
    old_first.shutdown().await;
    old_second.shutdown().await;

    // It survives a restart, and takes new managers.
    third.shutdown().await;
    let third = Manager::open(at(2), identity).await.unwrap();
    let fresh = tempfile::tempdir().unwrap();
    eventually("it leads again", || third.control().check_leader().is_ok()).await;
    let fourth = join_manager(fresh.path(), &third).await;
    wait_for(&fourth.control(), "everything is there", |control| control.service("still-here").is_ok()).await;
    fourth.shutdown().await;
    third.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_names_the_leader_to_agents_who_find_the_next_one_there() {
    let dirs = dirs(3);
    let [first, second, third] = three(&dirs).await;
    let control = second.control();
    let worker = join(second.advertise_addr(), &control.tokens().unwrap().worker).await.unwrap();
    let mut client = DispatcherClient::new(worker.connect(second.advertise_addr()).await.unwrap());
    let refused = client.session(SessionRequest::default()).await.unwrap_err();
    let leader = refused.metadata().get(LEADER_METADATA).unwrap().to_str().unwrap().to_owned();
    assert_eq!(leader, first.advertise_addr());

    let mut agent = Agent::start(&worker, &leader, "host1").await;
    let mut known: Vec<_> = agent.first.managers.iter().map(|m| m.address.clone()).collect();
    let mut expect = [&first, &second, &third].map(|manager| manager.advertise_addr().to_owned());
    known.sort();
    expect.sort();
    assert_eq!(known, expect);
    let heaviest = agent.first.managers.iter().max_by_key(|manager| manager.weight).unwrap();
    assert_eq!(heaviest.address, leader);

    // The leader goes: the task stays, and the agent's next session is with another one.
    control.create_service(service("web", 1)).await.unwrap();
    agent.until(|tasks| tasks.len() == 1).await;
    agent.obey().await;
    wait_for(&control, "it runs", |control| running(control) == 1).await;
    let task = control.tasks()[0].id.clone();
    first.shutdown().await;
    while let Ok(Some(_)) = agent.session.message().await {}
    let is_leader = |manager: &Manager| manager.control().leader().as_ref() == Some(manager.control().node_id());
    eventually("one of the two leads", || is_leader(&second) || is_leader(&third)).await;
    let next = if is_leader(&second) { &second } else { &third };
    let agent = Agent::start(&worker, next.advertise_addr(), "host1").await;
    assert!(agent.tasks.contains_key(task.as_str()));
    wait_for(&control, "the node is ready", |control| control.node("host1").unwrap().status.state == NodeState::Ready)
        .await;
    assert_eq!(control.tasks().len(), 1, "no task was restarted");
    second.shutdown().await;
    third.shutdown().await;
}
