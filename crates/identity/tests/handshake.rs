//! Real TLS over loopback: who gets in, and as whom.

#![allow(clippy::unwrap_used)]

use skep_identity::{CertificateAuthority, CertificateRequest, Identity, JoinToken, NodeSubject, Peer, StoredIdentity};
use skep_model::Timestamp;
use skep_model::node::Role;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

fn issue(authority: &CertificateAuthority, node: &str, role: Role) -> StoredIdentity {
    let subject = NodeSubject { node_id: node.into(), role, cluster_id: "cluster1".into() };
    let request = CertificateRequest::create().unwrap();
    let chain_pem = authority.sign(request.pem(), &subject, now(), Duration::from_secs(7200)).unwrap();
    let key_pem = request.key_pem().to_owned().into();
    StoredIdentity { root_pem: authority.cert_pem().to_owned(), chain_pem, key_pem }
}

fn identity(authority: &CertificateAuthority, node: &str, role: Role) -> Identity {
    Identity::new(&issue(authority, node, role)).unwrap()
}

/// Accepts for ever; tells who came: `Ok(None)` is a client without a certificate.
async fn listen(server: Identity) -> (String, mpsc::Receiver<Result<Option<Peer>, String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let accepted = TlsAcceptor::from(server.server_config()).accept(stream).await;
            let outcome = match accepted {
                Ok(stream) => {
                    let certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
                    open.push(stream);
                    Ok(certificates.map(|chain| Peer::from_der(&chain[0]).unwrap()))
                }
                Err(e) => Err(e.to_string()),
            };
            if seen.send(outcome).await.is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn a_node_of_the_swarm_is_recognised_by_its_certificate() {
    let authority = CertificateAuthority::create(now()).unwrap();
    let (address, mut seen) = listen(identity(&authority, "manager1", Role::Manager)).await;
    let worker = identity(&authority, "worker1", Role::Worker);
    worker.connect(&address).await.unwrap();
    let peer = seen.recv().await.unwrap().unwrap().unwrap();
    assert_eq!((peer.node_id.as_str(), peer.role), ("worker1", Role::Worker));
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_manager() {
    let authority = CertificateAuthority::create(now()).unwrap();
    let (address, _seen) = listen(identity(&authority, "worker1", Role::Worker)).await;
    let error = identity(&authority, "worker2", Role::Worker).connect(&address).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_node_of_another_swarm_is_refused_by_both_sides() {
    let ours = CertificateAuthority::create(now()).unwrap();
    let theirs = CertificateAuthority::create(now()).unwrap();
    let (address, mut seen) = listen(identity(&ours, "manager1", Role::Manager)).await;
    let stranger = identity(&theirs, "worker1", Role::Worker);
    assert!(stranger.connect(&address).await.is_err());
    assert!(seen.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn a_joining_node_trusts_the_root_its_token_names_and_no_other() {
    let authority = CertificateAuthority::create(now()).unwrap();
    let (address, mut seen) = listen(identity(&authority, "manager1", Role::Manager)).await;
    let token = JoinToken::create(authority.digest().unwrap()).unwrap();
    skep_identity::connect_for_join(&address, &token).await.unwrap();
    assert_eq!(seen.recv().await.unwrap().unwrap(), None);

    let other = CertificateAuthority::create(now()).unwrap();
    let token = JoinToken::create(other.digest().unwrap()).unwrap();
    let error = skep_identity::connect_for_join(&address, &token).await.unwrap_err();
    assert!(error.to_string().contains("remote CA does not match fingerprint"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let authority = CertificateAuthority::create(now()).unwrap();
    let (address, mut seen) = listen(identity(&authority, "manager1", Role::Manager)).await;
    let node = identity(&authority, "node1", Role::Worker);
    let changed = node.changed();
    let promoted = issue(&authority, "node1", Role::Manager);
    node.clone().replace(&promoted).unwrap();
    assert_eq!((node.role(), changed.has_changed().unwrap()), (Role::Manager, true));
    node.connect(&address).await.unwrap();
    assert_eq!(seen.recv().await.unwrap().unwrap().unwrap().role, Role::Manager);

    let foreign = issue(&authority, "node2", Role::Worker);
    assert!(node.replace(&foreign).is_err());
    assert_eq!(node.role(), Role::Manager);
}

#[tokio::test]
async fn roots_change_under_running_nodes() {
    let (old, new) = (CertificateAuthority::create(now()).unwrap(), CertificateAuthority::create(now()).unwrap());
    let cross_signed = old.cross_sign(&new, now()).unwrap();
    let manager = identity(&old, "manager1", Role::Manager);
    let (address, mut seen) = listen(manager.clone()).await;
    let node = identity(&old, "node1", Role::Worker);
    let channel = node.connect_lazy(&address).unwrap();

    // The manager's certificate is of the new root, which the node does not trust yet.
    let mut moved = issue(&new, "manager1", Role::Manager);
    moved.chain_pem.push_str(&cross_signed);
    let mut unconvincing = moved.clone();
    unconvincing.chain_pem = issue(&new, "manager1", Role::Manager).chain_pem;
    unconvincing.root_pem = old.cert_pem().to_owned();
    assert!(manager.replace(&unconvincing).is_err(), "a certificate that its own roots do not trust");
    moved.root_pem = format!("{}{}", old.cert_pem(), new.cert_pem());
    manager.replace(&moved).unwrap();
    assert_eq!(manager.issuer().unwrap(), skep_identity::Issuer::of_root(new.cert_pem()).unwrap());
    drop(channel);
    node.connect(&address).await.unwrap();
    seen.recv().await.unwrap().unwrap();

    // Both trust the new root alone in the end; the old one opens no door any more.
    let mut node_moved = issue(&new, "node1", Role::Worker);
    node_moved.root_pem = new.cert_pem().to_owned();
    node.replace(&node_moved).unwrap();
    moved.root_pem = new.cert_pem().to_owned();
    manager.replace(&moved).unwrap();
    node.connect(&address).await.unwrap();
    seen.recv().await.unwrap().unwrap();
    let left_behind = identity(&old, "node2", Role::Worker);
    let _ = left_behind.connect(&address).await;
    assert!(seen.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn nobody_at_home_is_a_clear_error() {
    let authority = CertificateAuthority::create(now()).unwrap();
    let node = identity(&authority, "node1", Role::Worker);
    let error = node.connect("127.0.0.1:1").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to 127.0.0.1:1: "), "{error}");
    for address in ["", "nohost", "http://x:1", "a:1/path"] {
        assert!(node.connect(address).await.is_err(), "{address}");
    }
}
