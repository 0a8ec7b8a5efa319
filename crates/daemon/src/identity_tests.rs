//! The root certificate changes under a running swarm: real managers, agents and TLS.

use crate::swarm_tests::{Machine, agent, config, count, service, until};
use skep_agent::Agent;
use skep_identity::{CertStore, Identity};
use skep_manager::{Control, Manager, RotateFlags, SwarmInit};
use skep_model::node::Availability;
use skep_model::task::TaskState;
use std::path::Path;
use std::sync::Arc;

async fn join(home: &Path, address: &str, token: &str) -> skep_model::Result<Identity> {
    let store = CertStore::new(home.join("swarm/certificates"));
    skep_agent::join(&store, &[address.to_owned()], token, Availability::Active).await
}

async fn rotate(control: &Control) {
    let cluster = control.cluster().unwrap();
    let mut spec = cluster.spec.clone();
    spec.ca_force_rotate += 1;
    control.update_cluster(cluster.meta.version, spec, RotateFlags::default()).await.unwrap();
}

/// Every node trusts `root_pem` and nothing else, and nothing is on the way.
fn settled_on(control: &Control, root_pem: &str) -> bool {
    let root_ca = &control.cluster().unwrap().root_ca;
    let nodes = control.nodes();
    root_ca.rotation.is_none()
        && root_ca.cert_pem != root_pem
        && nodes.iter().all(|node| node.description.trust_root_pem == root_ca.cert_pem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_root_moves_every_node_while_tasks_run() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::bootstrap(config(dir.path()), SwarmInit::default()).await.unwrap();
    let (control, address) = (manager.control(), manager.local_addr().to_string());
    let before = control.tokens().unwrap().worker;
    let old_root = control.cluster().unwrap().root_ca.cert_pem.clone();
    let machines: Vec<Arc<Machine>> = (0..3).map(|_| Arc::default()).collect();
    let mut agents: Vec<Agent> =
        vec![agent(dir.path(), manager.identity().clone(), &address, machines[0].clone()).await];
    for (number, machine) in machines.iter().enumerate().skip(1) {
        let home = dir.path().join(format!("w{number}"));
        let identity = join(&home, &address, &before).await.unwrap();
        agents.push(agent(&home, identity, &address, machine.clone()).await);
    }
    control.create_service(service("web", 6)).await.unwrap();
    until(&control, "six tasks", |control| count(control, TaskState::Running) == 6).await;
    let tasks: Vec<_> = control.tasks().iter().map(|task| task.id.clone()).collect();

    // One node is away when it begins, and holds up the end.
    agents.pop().unwrap().shutdown().await;
    rotate(&control).await;
    until(&control, "two nodes have moved", |control| {
        let wanted = control.trust().unwrap();
        let nodes = control.nodes();
        let moved = nodes
            .iter()
            .filter(|node| node.description.cert_issuer_public_key_der == wanted.cert_issuer_public_key_der);
        moved.count() == 2
    })
    .await;
    assert!(control.cluster().unwrap().root_ca.rotation.is_some());
    // Meanwhile a node joins with the token of the old root.
    let third = dir.path().join("w3");
    let identity = join(&third, &address, &before).await.unwrap();
    agents.push(agent(&third, identity, &address, Arc::default()).await);

    let home = dir.path().join("w2");
    let stored = CertStore::new(home.join("swarm/certificates")).load().unwrap().unwrap();
    agents.push(agent(&home, Identity::new(&stored).unwrap(), &address, machines[2].clone()).await);
    until(&control, "all nodes have moved", |control| settled_on(control, &old_root)).await;
    assert_eq!(manager.identity().root_pem(), control.cluster().unwrap().root_ca.cert_pem.as_str().into());

    // The old root and its tokens are worth nothing any more; the tasks never noticed.
    let after = control.tokens().unwrap().worker;
    assert_ne!(after.split('-').nth(2), before.split('-').nth(2), "the digest is another");
    assert!(join(&dir.path().join("late"), &address, &before).await.is_err());
    join(&dir.path().join("late"), &address, &after).await.unwrap();
    let now: Vec<_> = control.tasks().iter().map(|task| task.id.clone()).collect();
    assert_eq!(now, tasks);
    until(&control, "six tasks still", |control| count(control, TaskState::Running) == 6).await;

    for agent in agents {
        agent.shutdown().await;
    }
    manager.shutdown().await;
    // What is on disk is of the new root too.
    let manager = {
        let stored = config(dir.path()).certificates().load().unwrap().unwrap();
        assert_ne!(stored.root_pem, old_root);
        Manager::open(config(dir.path()), Identity::new(&stored).unwrap()).await.unwrap()
    };
    manager.shutdown().await;
}
