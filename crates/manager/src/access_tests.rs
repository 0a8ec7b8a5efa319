//! The table itself, and every method called over real TLS by everybody who might try.

use super::*;
use crate::edit::edit;
use crate::{Manager, ManagerConfig, SwarmInit};
use skep_cluster::edit::join_node;
use skep_identity::{CertificateAuthority, CertificateRequest, Identity, JoinToken, NodeSubject, StoredIdentity};
use skep_model::Timestamp;
use skep_model::node::{Node, NodeSpec};
use std::error::Error;
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(20);

fn peer(role: Role, cluster: &str) -> Peer {
    Peer { node_id: "n".into(), role, cluster_id: cluster.into() }
}

fn code(method: &str, peer: Option<&Peer>, standing: Standing) -> Code {
    check(method, peer, &"ours".into(), standing).err().map_or(Code::Ok, |status| status.code())
}

#[test]
fn every_method_lets_in_its_roles_and_nobody_else() {
    for &(method, allowed) in METHODS {
        let (worker, manager) = (peer(Role::Worker, "ours"), peer(Role::Manager, "ours"));
        let expect = match allowed {
            Allowed::Anyone => [Code::Ok, Code::Ok, Code::Ok],
            Allowed::Member => [Code::Unauthenticated, Code::Ok, Code::Ok],
            Allowed::Manager | Allowed::PresentManager => [Code::Unauthenticated, Code::PermissionDenied, Code::Ok],
        };
        let good = Standing::default();
        let got = [None, Some(&worker), Some(&manager)].map(|peer| code(method, peer, good));
        assert_eq!(got, expect, "{method}");
        let stranger = peer(Role::Manager, "theirs");
        let expect = if allowed == Allowed::Anyone { Code::Ok } else { Code::PermissionDenied };
        assert_eq!(code(method, Some(&stranger), good), expect, "{method}");
        let removed = Standing { locked_out: true, demoted: false };
        assert_eq!(code(method, Some(&manager), removed), Code::PermissionDenied, "{method}");
        let demoted = Standing { locked_out: false, demoted: true };
        let expect = if allowed == Allowed::PresentManager { Code::PermissionDenied } else { Code::Ok };
        assert_eq!(code(method, Some(&manager), demoted), expect, "{method}");
    }
}

#[test]
fn an_unlisted_method_is_refused_even_to_a_manager() {
    let manager = peer(Role::Manager, "ours");
    assert_eq!(code("/skep.raft.v1.Raft/Unknown", Some(&manager), Standing::default()), Code::Unimplemented);
}

/// All `.proto` files but netd's and those in folders, which are served on unix sockets.
#[test]
fn the_table_lists_every_method_of_the_contract() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let mut methods = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let (mut package, mut service) = ("", "");
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["package", name] => package = name.trim_end_matches(';'),
                ["service", name, ..] => service = name,
                ["rpc", call, ..] if package != "skep.netd.v1" => {
                    methods.push(format!("/{package}.{service}/{}", call.split('(').next().unwrap()));
                }
                _ => {}
            }
        }
    }
    methods.sort();
    let mut listed: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
    listed.sort_unstable();
    assert_eq!(listed, methods);
}

/// How far a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// The door of the port did not open, or was shut again.
    NoConnection,
    Refused(Code),
    /// A handler looked at it.
    Handler,
}

async fn call(channel: Result<Channel, skep_identity::IdentityError>, method: &'static str) -> Reached {
    let Ok(channel) = channel else { return Reached::NoConnection };
    let mut grpc = tonic::client::Grpc::new(channel);
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = http::uri::PathAndQuery::from_static(method);
    let calling = async {
        grpc.ready().await.map_err(|e| Status::from_error(e.into()))?;
        grpc.unary(tonic::Request::new(()), path, codec).await
    };
    match tokio::time::timeout(DEADLINE, calling).await.expect("no answer") {
        Ok(_) => Reached::Handler,
        // A status that was sent has no cause on this side.
        Err(status) if status.source().is_some() => Reached::NoConnection,
        Err(status) => match status.code() {
            code @ (Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented) => Reached::Refused(code),
            _ => Reached::Handler,
        },
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

fn issue(authority: &CertificateAuthority, cluster: &ClusterId, node: &str, role: Role, at: Timestamp) -> Identity {
    Identity::new(&parts(authority, cluster, node, role, at)).unwrap()
}

fn parts(
    authority: &CertificateAuthority,
    cluster: &ClusterId,
    node: &str,
    role: Role,
    at: Timestamp,
) -> StoredIdentity {
    let subject = NodeSubject { node_id: node.into(), role, cluster_id: cluster.clone() };
    let request = CertificateRequest::create().unwrap();
    let chain_pem = authority.sign(request.pem(), &subject, at, Duration::from_secs(3600)).unwrap();
    let key_pem = request.key_pem().to_owned().into();
    let root_pem = authority.cert_pem().to_owned();
    StoredIdentity { root_pem, chain_pem, key_pem }
}

struct Swarm {
    manager: Manager,
    authority: CertificateAuthority,
    cluster: ClusterId,
    address: String,
    _dir: tempfile::TempDir,
}

impl Swarm {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen_addr = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let vault = ManagerConfig::vault_of(dir.path());
        let config =
            ManagerConfig { state_dir: dir.path().to_owned(), listen_addr, advertise_addr: String::new(), vault };
        let manager = Manager::bootstrap(config, SwarmInit::default()).await.unwrap();
        let address = manager.advertise_addr().to_owned();
        let store = manager.replicator().store().snapshot();
        let root_ca = &store.cluster().unwrap().root_ca;
        let authority = CertificateAuthority::from_pem(&root_ca.cert_pem, &root_ca.key_pem).unwrap();
        let cluster = store.cluster().unwrap().id.clone();
        Self { manager, authority, cluster, address, _dir: dir }
    }

    /// A member whose certificate says `certified`, while the store says `role`.
    async fn member(&self, id: &str, certified: Role, role: Role) -> Identity {
        let node = Node { id: id.into(), role, spec: NodeSpec { role, ..NodeSpec::default() }, ..Node::default() };
        edit(self.manager.replicator(), |store, _, _| Ok(((), join_node(store, node.clone())?))).await.unwrap();
        issue(&self.authority, &self.cluster, id, certified, now())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_tried_by_everybody() {
    let swarm = Swarm::start().await;
    let address = swarm.address.as_str();
    let token: JoinToken = swarm.manager.control().tokens().unwrap().worker.parse().unwrap();
    let worker = swarm.member("worker", Role::Worker, Role::Worker).await;
    let manager = swarm.manager.identity().clone();
    let demoted = swarm.member("demoted", Role::Manager, Role::Worker).await;
    let removed = swarm.member("removed", Role::Worker, Role::Worker).await;
    swarm.manager.control().remove_node("removed", true).await.unwrap();
    let foreign = CertificateAuthority::create(now()).unwrap();
    let mut stranger = parts(&foreign, &swarm.cluster, "worker", Role::Manager, now());
    // It trusts us; we must not trust it.
    stranger.root_pem = swarm.authority.cert_pem().to_owned();
    let stranger = Identity::new(&stranger).unwrap();
    let long_ago = Timestamp(now().0 - 7_200_000_000_000);
    let expired = issue(&swarm.authority, &swarm.cluster, "worker", Role::Manager, long_ago);

    let (yes, shut) = (Reached::Handler, Reached::NoConnection);
    let (who, no) = (Reached::Refused(Code::Unauthenticated), Reached::Refused(Code::PermissionDenied));
    for &(method, allowed) in METHODS {
        let expect = match allowed {
            Allowed::Anyone => [yes, yes, yes, yes],
            Allowed::Member => [who, yes, yes, yes],
            Allowed::Manager => [who, no, yes, yes],
            Allowed::PresentManager => [who, no, yes, no],
        };
        let got = [
            call(skep_identity::connect_for_join(address, &token).await, method).await,
            call(worker.connect(address).await, method).await,
            call(manager.connect(address).await, method).await,
            call(demoted.connect(address).await, method).await,
        ];
        assert_eq!(got, expect, "{method} by nobody, worker, manager, demoted manager");
        for (name, outsider) in [("stranger", &stranger), ("expired", &expired), ("removed", &removed)] {
            assert_eq!(call(outsider.connect(address).await, method).await, shut, "{method} by {name}");
        }
    }
    swarm.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_put_out_the_moment_it_is_removed() {
    use skep_proto::codec::encode;
    use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
    use skep_proto::dispatcher::{AssignmentsRequest, SessionRequest};
    let swarm = Swarm::start().await;
    let worker = swarm.member("worker", Role::Worker, Role::Worker).await;
    let mut client = DispatcherClient::new(worker.connect(&swarm.address).await.unwrap());
    let description = encode(&skep_model::node::NodeDescription::default());
    let request = SessionRequest { description, ..SessionRequest::default() };
    let mut session = client.session(request.clone()).await.unwrap().into_inner();
    let session_id = session.message().await.unwrap().unwrap().session_id;
    let mut assignments = client.assignments(AssignmentsRequest { session_id }).await.unwrap().into_inner();
    assignments.message().await.unwrap().unwrap();

    swarm.manager.control().remove_node("worker", true).await.unwrap();
    let both_end = async {
        while let Ok(Some(_)) = session.message().await {}
        while let Ok(Some(_)) = assignments.message().await {}
    };
    tokio::time::timeout(DEADLINE, both_end).await.expect("the streams of a removed node go on");
    client.session(request).await.unwrap_err();
    assert_eq!(call(worker.connect(&swarm.address).await, METHODS[0].0).await, Reached::NoConnection);
    swarm.manager.shutdown().await;
}
