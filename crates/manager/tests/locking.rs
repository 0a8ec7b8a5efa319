//! Autolock, backups and dumps: what lies on a manager's disk, and who can read it.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use skep_identity::{CertificateRequest, Identity, JoinToken, StoredIdentity, UnlockKey};
use skep_manager::{Manager, ManagerConfig, RotateFlags, SwarmInit};
use skep_model::ErrorKind;
use skep_model::secret::{ConfigSpec, SecretSpec};
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::ca::node_ca_client::NodeCaClient;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const SECRET: &[u8] = b"the secret that must not be seen";

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether data key and private key of a manager cannot be read without an unlock key. They
/// follow a change of the lock one after the other.
fn locks(dir: &Path) -> [bool; 2] {
    let data_key = ManagerConfig::vault_of(dir).needs_unlocking().unwrap();
    let private_key = fs::read_to_string(dir.join("certificates/swarm-node.key")).unwrap();
    [data_key, private_key.contains("SEALED")]
}

/// Opens a manager as a new process would: knowing nothing but what the user types.
async fn open(dir: &Path, address: SocketAddr, key: Option<&str>) -> Result<Manager, skep_model::Error> {
    let config = ManagerConfig { listen_addr: address, ..config(dir) };
    if let Some(key) = key {
        config.vault.unlock(&key.parse::<UnlockKey>().unwrap())?;
    }
    let stored = config.certificates().load()?.unwrap();
    Manager::open(config, Identity::new(&stored).unwrap()).await
}

async fn join_manager(dir: &Path, first: &Manager) -> Manager {
    let token: JoinToken = first.control().tokens().unwrap().manager.parse().unwrap();
    let channel = skep_identity::connect_for_join(first.advertise_addr(), &token).await.unwrap();
    let request = CertificateRequest::create().unwrap();
    let message = IssueNodeCertificateRequest {
        csr_pem: request.pem().to_owned(),
        token: token.to_text(),
        availability: String::new(),
    };
    let answer = NodeCaClient::new(channel).issue_node_certificate(message).await.unwrap().into_inner();
    let stored = StoredIdentity {
        root_pem: answer.root_ca_pem,
        chain_pem: answer.certificate_chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    };
    let config = config(dir);
    config.certificates().save(&stored).unwrap();
    let through = [first.advertise_addr().to_owned()];
    Manager::join_through(config, Identity::new(&stored).unwrap(), &through).await.unwrap()
}

async fn update(manager: &Manager, auto_lock: bool, rotate: bool) {
    let cluster = manager.control().cluster().unwrap();
    let mut spec = cluster.spec.clone();
    spec.auto_lock_managers = auto_lock;
    let rotate = RotateFlags { unlock_key: rotate, ..RotateFlags::default() };
    manager.control().update_cluster(cluster.meta.version, spec, rotate).await.unwrap();
}

fn key_of(manager: &Manager) -> String {
    manager.control().unlock_key().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manager_is_locked_with_the_swarms_key() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first_dir, second_dir] = dirs.each_ref().map(tempfile::TempDir::path);
    let mut init = SwarmInit::default();
    init.spec.auto_lock_managers = true;
    let first = Manager::bootstrap(config(first_dir), init).await.unwrap();
    assert_eq!(locks(first_dir), [true; 2], "locked from the start");
    assert!(first.control().cluster().unwrap().unlock_key.0.is_empty(), "the key is told to those who ask for it only");
    let first_key = key_of(&first);
    let second = join_manager(second_dir, &first).await;
    until("the second manager is locked too", || locks(second_dir) == [true; 2]).await;

    // A new key: every manager follows.
    update(&first, true, true).await;
    until("the second manager hears of the new key", || key_of(&second) != first_key).await;
    let second_key = key_of(&second);
    let opens = |dir: &Path, key: &str| ManagerConfig::vault_of(dir).unlock(&key.parse().unwrap()).is_ok();
    assert!(opens(first_dir, &second_key) && !opens(first_dir, &first_key), "on disk when the change is answered");
    until("the second manager has the new key", || opens(second_dir, &second_key)).await;

    // Both stop; none starts without the key or with the former one.
    let addresses = [first.local_addr(), second.local_addr()];
    second.shutdown().await;
    first.shutdown().await;
    for (dir, address) in [(first_dir, addresses[0]), (second_dir, addresses[1])] {
        assert_eq!(open(dir, address, None).await.err().unwrap().kind, ErrorKind::Unavailable);
        assert_eq!(open(dir, address, Some(&first_key)).await.err().unwrap().kind, ErrorKind::Unauthenticated);
    }
    let first = open(first_dir, addresses[0], Some(&second_key)).await.unwrap();
    let second = open(second_dir, addresses[1], Some(&second_key)).await.unwrap();
    until("there is a leader again", || first.control().leader().is_some()).await;

    update(&first, false, false).await;
    assert_eq!(locks(first_dir), [false; 2]);
    until("the second manager is unlocked", || locks(second_dir) == [false; 2]).await;
    assert_eq!(first.control().unlock_key().unwrap(), None);
    second.shutdown().await;
    first.shutdown().await;
}

async fn fill(manager: &Manager) {
    let control = manager.control();
    let secret = SecretSpec { name: "password".into(), data: SECRET.to_vec(), ..SecretSpec::default() };
    control.create_secret(secret).await.unwrap();
    let config = ConfigSpec { name: "settings".into(), data: b"color=blue".to_vec(), ..ConfigSpec::default() };
    control.create_config(config).await.unwrap();
    control.create_service(service("web", 2)).await.unwrap();
    wait_for(&control, "the tasks are there", |control| control.tasks().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_comes_back_from_its_backup_on_another_machine() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = bootstrap(dirs[0].path()).await;
    fill(&first).await;
    let worker = join(first.advertise_addr(), &first.control().tokens().unwrap().worker).await.unwrap();
    let error = first.control().backup(None).await.unwrap_err();
    assert!(error.message.contains("a passphrase is needed"), "{error}");
    let backup = first.control().backup(Some("correct horse".into())).await.unwrap();
    assert!(!backup.windows(SECRET.len()).any(|part| part == SECRET));
    let before = first.control().cluster().unwrap();
    let tokens = first.control().tokens().unwrap();
    let old_manager = first.identity().clone();
    first.control().remove_service("web").await.unwrap();
    first.shutdown().await;

    let restore = |backup: Vec<u8>, secret: &str| {
        Manager::restore(config(dirs[1].path()), SwarmInit::default(), backup, secret.to_owned())
    };
    assert_eq!(restore(backup.clone(), "wrong horse").await.err().unwrap().kind, ErrorKind::Unauthenticated);
    assert_eq!(restore(b"junk".to_vec(), "correct horse").await.err().unwrap().kind, ErrorKind::InvalidArgument);
    let second = restore(backup, "correct horse").await.unwrap();
    let control = second.control();
    assert_eq!(control.cluster().unwrap().id, before.id);
    assert_eq!(control.tokens().unwrap().worker, tokens.worker);
    assert!(control.service("web").is_ok() && control.secret("password").is_ok());
    assert_eq!(control.config("settings").unwrap().spec.data, b"color=blue");

    // It is a swarm that works: it plans, nodes of before come back, new ones join.
    let mut returned = Agent::start(&worker, second.advertise_addr(), "returned").await;
    returned.until(|tasks| tasks.len() == 2).await;
    returned.obey().await;
    wait_for(&control, "the service runs", |control| running(control) == 2).await;
    join(second.advertise_addr(), &tokens.worker).await.unwrap();
    // The manager of before is locked out.
    let managers = control.nodes().iter().filter(|node| node.manager_status.is_some()).count();
    assert_eq!(managers, 1);
    let mut client = NodeCaClient::new(old_manager.connect_lazy(second.advertise_addr()).unwrap());
    client.issue_node_certificate(IssueNodeCertificateRequest::default()).await.unwrap_err();

    // And it survives a restart as any other.
    second.shutdown().await;
    let again = reopen(dirs[1].path()).await;
    wait_for(&again.control(), "it is all there", |control| control.secret("password").is_ok()).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_shows_everything_but_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = SwarmInit::default();
    init.spec.auto_lock_managers = true;
    let manager = Manager::bootstrap(config(dir.path()), init).await.unwrap();
    fill(&manager).await;
    let key = key_of(&manager);
    let (tokens, node) = (manager.control().tokens().unwrap(), manager.control().node_id().clone());
    manager.shutdown().await;

    let locked = Manager::dump(&config(dir.path()), &mut Vec::new()).await;
    assert_eq!(locked.unwrap_err().kind, ErrorKind::Unavailable);
    let unlocked = config(dir.path());
    unlocked.vault.unlock(&key.parse().unwrap()).unwrap();
    let mut out = Vec::new();
    let summary = Manager::dump(&unlocked, &mut out).await.unwrap();
    assert!(summary.entries > 5 && summary.damaged == 0, "{summary:?}");
    let text = String::from_utf8(out).unwrap();
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    for expect in ["\"web\"", "password", "settings", node.as_str(), "data_bytes"] {
        assert!(text.contains(expect), "{expect}");
    }
    let secret_as_numbers: Vec<String> = SECRET.iter().take(6).map(u8::to_string).collect();
    let worker_secret = tokens.worker.rsplit('-').next().unwrap();
    for hidden in ["PRIVATE KEY", worker_secret, &secret_as_numbers.join(","), "the secret that"] {
        assert!(!text.contains(hidden), "{hidden}");
    }
    assert!(Manager::dump(&config(&dir.path().join("nothing")), &mut Vec::new()).await.is_err());
}
