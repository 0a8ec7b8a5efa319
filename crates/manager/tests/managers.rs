//! Three managers: they agree, and go on when one is gone.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::*;
use skep_manager::{Control, Manager};
use skep_model::id::NodeId;
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;

async fn join_manager(dir: &Path, first: &Manager) -> Manager {
    let token = first.control().tokens().unwrap().manager;
    let identity = join(first.advertise_addr(), &token).await.unwrap();
    // One that is not there is passed over.
    let managers = ["127.0.0.1:1".to_owned(), first.advertise_addr().to_owned()];
    Manager::join_through(config(dir), identity, &managers).await.unwrap()
}

fn leads(control: &Control, node: &NodeId) -> bool {
    let nodes = control.nodes();
    nodes.iter().any(|n| n.id == *node && n.manager_status.as_ref().is_some_and(|status| status.leader))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_swarm_outlives_its_leader() {
    let dirs: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = bootstrap(dirs[0].path()).await;
    let first_identity = first.identity().clone();
    first.control().create_service(service("before", 1)).await.unwrap();
    let second = join_manager(dirs[1].path(), &first).await;
    let third = join_manager(dirs[2].path(), &first).await;
    let first_id = first.control().node_id().clone();
    wait_for(&third.control(), "all three are managers", |control| {
        control.nodes().iter().filter(|node| node.manager_status.as_ref().is_some_and(|s| s.reachable)).count() == 3
    })
    .await;
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
    for manager in [first, second, third] {
        manager.shutdown().await;
    }
}
