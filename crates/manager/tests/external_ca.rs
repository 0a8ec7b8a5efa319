//! Swarms whose certificates are signed outside: by a small server that speaks CFSSL's `sign`
//! call over real TLS.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skep_identity::{CertificateAuthority, CertificateRequest, Issuer, NodeSubject};
use skep_manager::{Manager, RotateFlags, SwarmInit};
use skep_model::Timestamp;
use skep_model::cluster::{ClusterSpec, ExternalCa, SecretBytes};
use skep_model::node::Role;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

struct Cfssl {
    root_pem: String,
    url: String,
    serving: JoinHandle<()>,
}

impl Cfssl {
    async fn start() -> Self {
        let authority = Arc::new(CertificateAuthority::create(now()).unwrap());
        let root_pem = authority.cert_pem().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/api/v1/cfssl/sign", listener.local_addr().unwrap().port());
        let acceptor = acceptor(&authority);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One that does not trust us goes away in the handshake.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                answer(stream, &authority).await;
            }
        });
        Self { root_pem, url, serving }
    }

    fn as_external(&self) -> ExternalCa {
        ExternalCa { url: self.url.clone(), ca_cert: self.root_pem.clone(), ..ExternalCa::default() }
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

fn acceptor(authority: &CertificateAuthority) -> TlsAcceptor {
    let request = CertificateRequest::create().unwrap();
    let subject = NodeSubject { node_id: "localhost".into(), role: Role::Worker, cluster_id: "none".into() };
    let chain_pem = authority.sign(request.pem(), &subject, now(), VALIDITY).unwrap();
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(request.key_pem().as_bytes()).unwrap();
    // It signs for whoever comes: the managers' certificates may be of a root that it does not know.
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, authority: &CertificateAuthority) {
    let mut text = Vec::new();
    let body = loop {
        if stream.read_buf(&mut text).await.unwrap() == 0 {
            return;
        }
        let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(text[..end].to_vec()).unwrap().to_lowercase();
        assert!(head.starts_with("post /api/v1/cfssl/sign"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let body = &text[end + 4..];
        if body.len() == length.parse::<usize>().unwrap() {
            break serde_json::from_slice::<Value>(body).unwrap();
        }
    };
    let subject = &body["subject"];
    let name = &subject["names"][0];
    let role = if name["OU"] == "swarm-manager" { Role::Manager } else { Role::Worker };
    let subject = NodeSubject {
        node_id: subject["CN"].as_str().unwrap().into(),
        role,
        cluster_id: name["O"].as_str().unwrap().into(),
    };
    let leaf = authority.sign(body["certificate_request"].as_str().unwrap(), &subject, now(), VALIDITY).unwrap();
    let answer = json!({"success": true, "result": {"certificate": leaf}, "errors": [], "messages": []}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
    stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn update(manager: &Manager, change: impl FnOnce(&mut ClusterSpec)) -> Result<(), String> {
    let cluster = manager.control().cluster().unwrap();
    let mut spec = cluster.spec.clone();
    change(&mut spec);
    let updated = manager.control().update_cluster(cluster.meta.version, spec, RotateFlags::default()).await;
    updated.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_founded_on_an_external_ca_signs_nothing_itself() {
    let dir = tempfile::tempdir().unwrap();
    let cfssl = Cfssl::start().await;
    let nameless = ExternalCa { ca_cert: String::new(), ..cfssl.as_external() };
    for (externals, expect) in [(vec![nameless], "add cacert=FILE"), (vec![cfssl.as_external()], "")] {
        let mut init = SwarmInit::default();
        init.spec.external_cas = externals;
        let founded = Manager::bootstrap(config(dir.path()), init).await;
        if !expect.is_empty() {
            assert!(founded.err().unwrap().to_string().contains(expect));
            continue;
        }
        let manager = founded.unwrap();
        let cluster = manager.control().cluster().unwrap();
        assert_eq!(cluster.root_ca.cert_pem, cfssl.root_pem);
        let token = manager.control().tokens().unwrap().worker;
        let worker = join(manager.advertise_addr(), &token).await.unwrap();
        assert_eq!(worker.issuer().unwrap(), Issuer::of_root(&cfssl.root_pem).unwrap());
        worker.connect(manager.advertise_addr()).await.unwrap();

        let refused = update(&manager, |spec| spec.external_cas.clear()).await.unwrap_err();
        assert!(refused.contains("at least one valid, reachable external CA"), "{refused}");
        let backup = manager.control().backup(Some("passphrase".into())).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let init = SwarmInit::default();
        let restored = Manager::restore(config(elsewhere.path()), init, backup, "passphrase".into()).await.unwrap();
        assert_eq!(restored.identity().issuer().unwrap(), Issuer::of_root(&cfssl.root_pem).unwrap());
        restored.shutdown().await;
        cfssl.serving.abort();
        let refused = join(manager.advertise_addr(), &token).await.unwrap_err();
        assert!(refused.message().contains("no external CA has signed"), "{refused}");
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_founded_on_a_root_of_the_users_own_signs_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let own = CertificateAuthority::create(now()).unwrap();
    let mut init = SwarmInit::default();
    init.spec.signing_ca_cert = own.cert_pem().to_owned();
    let refused = Manager::bootstrap(config(dir.path()), init.clone()).await.err().unwrap();
    assert!(refused.to_string().contains("must be given together"), "{refused}");
    init.spec.signing_ca_key = SecretBytes(own.key_pem().as_bytes().to_vec());
    let manager = Manager::bootstrap(config(dir.path()), init).await.unwrap();
    let token = manager.control().tokens().unwrap().worker;
    let worker = join(manager.advertise_addr(), &token).await.unwrap();
    assert_eq!(worker.issuer().unwrap(), Issuer::of_root(own.cert_pem()).unwrap());
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_moves_to_the_root_of_an_external_ca() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let token = manager.control().tokens().unwrap().worker;
    let (cfssl, away) = (Cfssl::start().await, Cfssl::start().await);
    let wants = |cfssl: &Cfssl| {
        let (cert, external) = (cfssl.root_pem.clone(), cfssl.as_external());
        move |spec: &mut ClusterSpec| (spec.signing_ca_cert, spec.external_cas) = (cert, vec![external])
    };
    let (alone, unreachable) = (cfssl.root_pem.clone(), wants(&away));
    let refused = update(&manager, |spec| spec.signing_ca_cert = alone).await.unwrap_err();
    assert!(refused.contains("external CA"), "{refused}");
    away.serving.abort();
    let refused = update(&manager, unreachable).await.unwrap_err();
    assert!(refused.contains("at least one valid, reachable external CA"), "{refused}");
    assert!(manager.control().cluster().unwrap().root_ca.rotation.is_none(), "nothing has begun");

    update(&manager, wants(&cfssl)).await.unwrap();
    let rotation = manager.control().cluster().unwrap().root_ca.rotation.clone().unwrap();
    assert_eq!(rotation.cert_pem, cfssl.root_pem);
    // The manager still has a certificate of the old root; the token names that one.
    let worker = join(manager.advertise_addr(), &token).await.unwrap();
    assert_eq!(worker.issuer().unwrap(), Issuer::of_root(&cfssl.root_pem).unwrap());
    worker.connect(manager.advertise_addr()).await.unwrap();
    manager.shutdown().await;
}
