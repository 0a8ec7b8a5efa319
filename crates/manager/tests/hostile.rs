//! What a hostile network sends to the cluster port leaves nothing behind: no socket, no
//! task, no node, no memory. A process of its own, for it counts the process's resources.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::*;
use skep_identity::{CertificateAuthority, CertificateRequest, Identity, NodeSubject, StoredIdentity};
use skep_manager::Manager;
use skep_model::Timestamp;
use skep_model::node::Role;
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::ca::node_ca_client::NodeCaClient;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

/// Tries of each kind; `SKEP_TEST_TRIES=2000` makes more than 10,000 of all.
const TRIES: usize = 60;
/// Connections that stay silent at the same time.
const SILENT: usize = 80;
/// Pages that the allocator may keep.
const GROWTH_BYTES_MAX: u64 = 24 * 1024 * 1024;

struct Target {
    address: String,
    worker_token: String,
    /// A certificate request that made a node already.
    used_csr: String,
    stranger: Identity,
    expired: Identity,
    removed: Identity,
}

impl Target {
    async fn of(manager: &Manager) -> Self {
        let address = manager.advertise_addr().to_owned();
        let worker_token = manager.control().tokens().unwrap().worker;
        let used_csr = CertificateRequest::create().unwrap().pem().to_owned();
        let channel = nobody(&address, &worker_token).await;
        ask(channel, &used_csr, &worker_token).await.unwrap();
        let now = Timestamp::from_chrono(chrono::Utc::now());
        let long_ago = Timestamp(now.0 - 7_200_000_000_000);
        let foreign = CertificateAuthority::create(now).unwrap();
        let cluster = manager.identity().cluster_id();
        let certify = |at: Timestamp| {
            let subject = NodeSubject { node_id: "x".into(), role: Role::Manager, cluster_id: cluster.clone() };
            let request = CertificateRequest::create().unwrap();
            let chain_pem = foreign.sign(request.pem(), &subject, at, Duration::from_secs(3600)).unwrap();
            // It takes us for its own swarm; we must not return the favour.
            let root_pem = manager.control().cluster().unwrap().root_ca.cert_pem.clone();
            Identity::new(&StoredIdentity { root_pem, chain_pem, key_pem: request.key_pem().to_owned().into() })
                .unwrap()
        };
        let (stranger, expired) = (certify(now), certify(long_ago));
        let removed = join(&address, &worker_token).await.unwrap();
        manager.control().remove_node(removed.node_id().as_str(), true).await.unwrap();
        Self { address, worker_token, used_csr, stranger, expired, removed }
    }

    /// One of each kind of attack; every one must be refused.
    async fn attack(&self, round: usize) {
        // Bytes that are no TLS at all, and a connection that goes away at once.
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let junk: Vec<u8> = (0..200 + round % 50).map(|n| (n * 37 + round) as u8).collect();
        let _ = stream.write_all(&junk).await;
        assert!(ends(&mut stream).await);
        drop(TcpStream::connect(&self.address).await.unwrap());

        // Somebody else's certificate, one that is over, and one of a node that was removed.
        for outsider in [&self.stranger, &self.expired, &self.removed] {
            let refused = match outsider.connect(&self.address).await {
                // The client's half of the handshake may be over before the refusal comes.
                Ok(channel) => ask(channel, &self.used_csr, "").await.is_err(),
                Err(_) => true,
            };
            assert!(refused);
        }

        // Tokens: of another secret, of the wrong kind, none; and a request that was used before.
        let channel = nobody(&self.address, &self.worker_token).await;
        let mut other = self.worker_token.clone();
        other.truncate(other.len() - 25);
        other.push_str(&format!("{round:025}"));
        let fresh = CertificateRequest::create().unwrap().pem().to_owned();
        for (csr, token, expect) in [
            (&fresh, other.as_str(), Code::InvalidArgument),
            (&fresh, "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8", Code::InvalidArgument),
            (&fresh, "", Code::InvalidArgument),
            (&"junk".to_owned(), self.worker_token.as_str(), Code::InvalidArgument),
            (&self.used_csr, self.worker_token.as_str(), Code::PermissionDenied),
        ] {
            let status = ask(channel.clone(), csr, token).await.unwrap_err();
            assert_eq!(status.code(), expect, "{token}: {status}");
        }
    }
}

async fn nobody(address: &str, token: &str) -> Channel {
    skep_identity::connect_for_join(address, &token.parse().unwrap()).await.unwrap()
}

async fn ask(channel: Channel, csr_pem: &str, token: &str) -> Result<(), tonic::Status> {
    let request = IssueNodeCertificateRequest {
        csr_pem: csr_pem.to_owned(),
        token: token.to_owned(),
        availability: String::new(),
    };
    NodeCaClient::new(channel).issue_node_certificate(request).await.map(drop)
}

/// Whether the other side closes the connection.
async fn ends(stream: &mut TcpStream) -> bool {
    let reading = async {
        let mut buffer = [0; 1024];
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    };
    tokio::time::timeout(DEADLINE, reading).await.is_ok()
}

#[derive(Debug, Clone, Copy)]
struct Resources {
    files: usize,
    tasks: usize,
    memory_bytes: u64,
}

fn resources() -> Resources {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    Resources { files, tasks, memory_bytes: pages * 4096 }
}

/// Waits until sockets and tasks are as few as before.
async fn settle(before: Resources) -> Resources {
    let begin = Instant::now();
    loop {
        let now = resources();
        if now.files <= before.files && now.tasks <= before.tasks {
            return now;
        }
        assert!(begin.elapsed() < DEADLINE, "{now:?} are left, {before:?} were there before");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_an_attack() {
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let control = manager.control();
    let mut honest = Agent::start(manager.identity(), manager.advertise_addr(), "honest").await;
    let target = Target::of(&manager).await;
    let nodes = control.nodes().len();
    let tries = std::env::var("SKEP_TEST_TRIES").ok().map_or(TRIES, |text| text.parse().unwrap());

    let idle = resources();
    for round in 0..10 {
        target.attack(round).await;
    }
    let warm = settle(idle).await;
    for round in 0..tries {
        target.attack(round).await;
        if round % 20 == 0 {
            honest.heartbeat().await.unwrap();
        }
    }

    // Half-open: those that say nothing, and those that begin a handshake and stop.
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = TcpStream::connect(&target.address).await.unwrap();
        if number % 2 == 0 {
            // The head of a TLS record whose rest never comes.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        silent.push(stream);
    }
    honest.heartbeat().await.unwrap();
    for stream in &mut silent {
        assert!(ends(stream).await, "a half-open connection is kept");
    }
    drop(silent);

    let after = settle(warm).await;
    eprintln!("{tries} rounds: {warm:?} before, {after:?} after");
    let growth = after.memory_bytes.saturating_sub(warm.memory_bytes);
    assert!(growth < GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
    assert_eq!(control.nodes().len(), nodes, "nobody got in");
    honest.heartbeat().await.unwrap();
    manager.shutdown().await;
}
