//! Whatever a worker sends: an answer or an error, never a panic, and the manager goes on.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::{Buf, BufMut};
use common::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use skep_identity::CertificateRequest;
use skep_proto::ca::IssueNodeCertificateRequest;
use skep_proto::dispatcher::{
    AssignmentsRequest, AwaitNetworkRequest, HeartbeatRequest, ReportNetworkRequest, SessionRequest, TaskStatusUpdate,
    TunnelPiece, TunnelRequestsRequest, UpdateTaskStatusRequest,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const CASES: usize = 200;
const METHODS: [&str; 10] = [
    "/skep.ca.v1.Ca/GetRootCaCertificate",
    "/skep.ca.v1.NodeCa/IssueNodeCertificate",
    "/skep.dispatcher.v1.Dispatcher/Session",
    "/skep.dispatcher.v1.Dispatcher/Heartbeat",
    "/skep.dispatcher.v1.Dispatcher/UpdateTaskStatus",
    "/skep.dispatcher.v1.Dispatcher/Assignments",
    "/skep.dispatcher.v1.Dispatcher/TunnelRequests",
    "/skep.dispatcher.v1.Dispatcher/OpenTunnel",
    "/skep.dispatcher.v1.Dispatcher/ReportNetwork",
    "/skep.dispatcher.v1.Dispatcher/AwaitNetwork",
];
/// What only managers may call.
const MANAGERS_METHODS: [&str; 9] = [
    "/skep.dispatcher.v1.Dispatcher/ReachNode",
    "/skep.raft.v1.Raft/AppendEntries",
    "/skep.raft.v1.Raft/Vote",
    "/skep.raft.v1.Raft/PreVote",
    "/skep.raft.v1.Raft/TransferLeader",
    "/skep.raft.v1.Raft/InstallSnapshot",
    "/skep.raft.v1.Raft/Join",
    "/skep.raft.v1.Raft/Leave",
    "/skep.raft.v1.Raft/Propose",
];

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, body: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(body.copy_to_bytes(body.remaining()).to_vec()))
    }
}

async fn send(channel: &Channel, method: &'static str, body: Vec<u8>) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let path = http::uri::PathAndQuery::from_static(method);
    let calling = async {
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        // Only the first message of an answer: a session that does open is dropped again.
        let mut answer = grpc.server_streaming(Request::new(body), path, Raw).await?.into_inner();
        answer.message().await
    };
    let answer = tokio::time::timeout(DEADLINE, calling).await.expect("no answer");
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// A value's encoding, a part of it, or it with foreign bytes in the fields that hold other encodings.
fn messages(session_id: String) -> impl Strategy<Value = (usize, Vec<u8>)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let text = || "\\PC{0,60}";
    let id = prop_oneof![Just(session_id), Just(String::new()), text().prop_map(String::from)];
    let csr = CertificateRequest::create().unwrap().pem().to_owned();
    prop_oneof![
        (0..METHODS.len(), bytes()),
        (prop_oneof![Just(csr), text().prop_map(String::from)], text(), text()).prop_map(
            |(csr_pem, token, availability)| {
                (1, encoded(&IssueNodeCertificateRequest { csr_pem, token, availability }))
            }
        ),
        (bytes(), id.clone(), text()).prop_map(|(description, session_id, data_path_address)| {
            (2, encoded(&SessionRequest { description, session_id, data_path_address }))
        }),
        id.clone().prop_map(|session_id| (3, encoded(&HeartbeatRequest { session_id }))),
        (id.clone(), text(), bytes()).prop_map(|(session_id, task_id, status)| {
            let updates = vec![TaskStatusUpdate { task_id, status }];
            (4, encoded(&UpdateTaskStatusRequest { session_id, updates }))
        }),
        id.clone().prop_map(|session_id| (5, encoded(&AssignmentsRequest { session_id }))),
        text().prop_map(|session_id| (6, encoded(&TunnelRequestsRequest { session_id }))),
        (text(), bytes(), any::<bool>())
            .prop_map(|(target, data, end)| (7, encoded(&TunnelPiece { target, data, end }))),
        (id.clone(), any::<u64>())
            .prop_map(|(session_id, generation)| (8, encoded(&ReportNetworkRequest { session_id, generation }))),
        (text(), any::<u64>())
            .prop_map(|(session_id, generation)| (9, encoded(&AwaitNetworkRequest { session_id, generation }))),
    ]
}

fn encoded(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_send_what_it_likes() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let dir = tempfile::tempdir().unwrap();
    let manager = bootstrap(dir.path()).await;
    let (control, address) = (manager.control(), manager.advertise_addr().to_owned());
    let token = control.tokens().unwrap().worker;
    let mut honest = Agent::start(manager.identity(), &address, "honest").await;
    control.create_service(service("web", 1)).await.unwrap();
    honest.until(|tasks| tasks.len() == 1).await;
    let worker = join(&address, &token).await.unwrap();
    let mut hostile = Agent::start(&worker, &address, "hostile").await;
    let channel = worker.connect(&address).await.unwrap();
    let nodes = control.nodes().len();

    let strategy = messages(hostile.session_id.clone());
    let mut runner = TestRunner::new(Config::default());
    for case in 0..CASES * METHODS.len() {
        let (method, body) = strategy.new_tree(&mut runner).unwrap().current();
        let code = send(&channel, METHODS[method], body.clone()).await;
        let broken = matches!(code, Code::Unknown | Code::Internal | Code::Cancelled | Code::DataLoss);
        // A body that is no protobuf is tonic's own "internal".
        let is_decoding = code == Code::Internal;
        assert!(!broken || is_decoding, "case {case}: {} answered {code:?} to {body:?}", METHODS[method]);
    }

    // What is another node's: its assignments with all they hold, and its tasks.
    let session_id = honest.session_id.clone();
    let stolen = hostile.client.assignments(AssignmentsRequest { session_id }).await;
    assert_eq!(stolen.err().map(|status| status.code()), Some(Code::NotFound));

    for case in 0..CASES {
        let method = MANAGERS_METHODS[case % MANAGERS_METHODS.len()];
        let (_, body) = strategy.new_tree(&mut runner).unwrap().current();
        assert_eq!(send(&channel, method, body).await, Code::PermissionDenied, "{method}");
    }

    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    assert_eq!(control.nodes().len(), nodes, "nobody joined");
    assert_eq!(control.tasks().len(), 1);
    honest.heartbeat().await.unwrap();
    honest.obey().await;
    wait_for(&control, "the honest node works on", |control| running(control) == 1).await;
    manager.shutdown().await;
}
