//! Managers that cannot reach each other, though all of them run.

use crate::config::{ManagerConfig, SwarmInit};
use crate::control::Control;
use crate::manager::Manager;
use crate::raft::now;
use skep_identity::{CertificateAuthority, CertificateRequest, Identity, NodeSubject, StoredIdentity};
use skep_model::node::{Node, Role};
use skep_model::secret::ConfigSpec;
use std::path::Path;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn config(dir: &Path) -> ManagerConfig {
    let listen_addr = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let vault = ManagerConfig::vault_of(dir);
    ManagerConfig { state_dir: dir.to_owned(), listen_addr, advertise_addr: String::new(), vault }
}

/// The identity of one more manager's node, made as the CA service would make it.
pub(crate) async fn admitted(first: &Manager, name: &str) -> Identity {
    let replicator = first.replicator();
    let cluster = replicator.store().snapshot().cluster().unwrap().clone();
    let authority = CertificateAuthority::from_pem(&cluster.root_ca.cert_pem, &cluster.root_ca.key_pem).unwrap();
    let request = CertificateRequest::create().unwrap();
    let subject = NodeSubject { node_id: name.into(), role: Role::Manager, cluster_id: cluster.id.clone() };
    let chain_pem = authority.sign(request.pem(), &subject, now(), Duration::from_secs(7200)).unwrap();
    let stored = StoredIdentity {
        root_pem: cluster.root_ca.cert_pem.clone(),
        chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    };
    let mut node = Node { id: name.into(), role: Role::Manager, ..Node::default() };
    node.spec.role = Role::Manager;
    let writes = skep_cluster::edit::join_node(&replicator.store().snapshot(), node).unwrap();
    replicator.propose(writes, false).await.unwrap();
    Identity::new(&stored).unwrap()
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn write(control: &Control, name: &str) -> skep_model::Result<()> {
    control.create_config(ConfigSpec { name: name.into(), data: b"x".to_vec(), ..Default::default() }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_refuses_writes_and_follows_when_it_is_back() {
    let dirs = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let first = Manager::bootstrap(config(dirs[0].path()), SwarmInit::default()).await.unwrap();
    let mut others = Vec::new();
    for (dir, name) in dirs[1..].iter().zip(["second", "third"]) {
        let identity = admitted(&first, name).await;
        let through = [first.advertise_addr().to_owned()];
        others.push(Manager::join_through(config(dir.path()), identity, &through).await.unwrap());
    }
    let (old, new) = (first.control(), others[0].control());
    write(&old, "before").await.unwrap();

    first.replicator().cut(true);
    // Its lease holds for a moment: what it takes then is not acknowledged.
    write(&old, "lost").await.unwrap_err();
    let refused = old.check_leader().unwrap_err();
    assert!(refused.message.contains("The swarm does not have a leader"), "{refused}");
    let begin = Instant::now();
    write(&old, "refused").await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(1), "it is refused at once");
    assert!(old.configs().iter().any(|config| config.spec.name == "before"), "reads are answered");

    write(&new, "after").await.unwrap();
    assert_ne!(new.leader().as_ref(), Some(old.node_id()));

    first.replicator().cut(false);
    eventually("all stores are the same", || {
        let digests = [&old, &new, &others[1].control()].map(Control::digest);
        digests[0] == digests[1] && digests[1] == digests[2]
    })
    .await;
    let names: Vec<String> = old.configs().iter().map(|config| config.spec.name.clone()).collect();
    assert!(names.contains(&"after".to_owned()) && !names.contains(&"refused".to_owned()), "{names:?}");
    eventually("it follows", || old.leader().is_some()).await;
    write(&old, "again").await.unwrap();
    for manager in others.into_iter().chain([first]) {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_compacted_as_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = SwarmInit::default();
    init.spec.snapshot_interval = 50;
    init.spec.log_entries_for_slow_followers = 10;
    let manager = Manager::bootstrap(config(dir.path()), init).await.unwrap();
    let control = manager.control();
    for number in 0..120 {
        write(&control, &format!("c{number}")).await.unwrap();
    }
    let replicator = manager.replicator();
    eventually("there are two snapshots' worth", || replicator.log_bounds().0 >= 100).await;
    eventually("the log begins a little before", || replicator.log_bounds().1 >= 90).await;
    let (snapshot, purged) = replicator.log_bounds();
    assert!(snapshot - purged >= 10, "entries stay for slow followers");
    assert!(dir.path().join("raft/snapshot").exists());
    // From now on rarely.
    let cluster = control.cluster().unwrap();
    let spec = skep_model::cluster::ClusterSpec { snapshot_interval: 1_000_000, ..cluster.spec.clone() };
    control.update_cluster(cluster.meta.version, spec, Default::default()).await.unwrap();
    for number in 0..60 {
        write(&control, &format!("d{number}")).await.unwrap();
    }
    assert_eq!(replicator.log_bounds(), (snapshot, purged));
    manager.shutdown().await;
}
