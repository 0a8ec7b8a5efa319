use super::*;
use crate::testing::{FakeExecutor, message, task, updated};
use crate::{Agent, AgentConfig};
use skep_model::task::{TaskState, TaskStatus};
use skep_proto::dispatcher::assignments_message::Kind;
use skep_proto::dispatcher::dispatcher_server::{Dispatcher, DispatcherServer};
use skep_proto::dispatcher::{
    AwaitNetworkResponse, HeartbeatResponse, Manager, ReportNetworkResponse, TunnelPiece, TunnelRequest,
    UpdateTaskStatusRequest, UpdateTaskStatusResponse,
};
use std::net::SocketAddr;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response};

/// A manager that assigns one task and remembers what it is told.
#[derive(Clone)]
struct FakeManager {
    state: Arc<Mutex<FakeState>>,
    reported: watch::Sender<Vec<(String, TaskState)>>,
    /// Ends every session when it changes.
    break_sessions: watch::Sender<u32>,
}

#[derive(Default)]
struct FakeState {
    sessions: u32,
    heartbeats: u32,
    /// What came through tunnels, their names first.
    tunnelled: Vec<String>,
    open: Vec<mpsc::Sender<Result<SessionMessage, Status>>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Dispatcher for FakeManager {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;
    type TunnelRequestsStream = ReceiverStream<Result<TunnelRequest, Status>>;
    type OpenTunnelStream = ReceiverStream<Result<TunnelPiece, Status>>;
    type ReachNodeStream = ReceiverStream<Result<TunnelPiece, Status>>;

    async fn session(&self, _: Request<SessionRequest>) -> Answer<Self::SessionStream> {
        let (sender, receiver) = mpsc::channel(4);
        let session = {
            let mut state = self.state.lock().unwrap();
            state.sessions += 1;
            state.open.push(sender.clone());
            state.sessions
        };
        let managers = vec![Manager { node_id: "m1".into(), address: "manager:2377".into(), weight: 1 }];
        let first = SessionMessage {
            session_id: session.to_string(),
            node: codec::encode(&Node { id: "n1".into(), ..Node::default() }),
            managers,
            root_ca_pem: String::new(),
            heartbeat_period_ms: 20,
        };
        sender.send(Ok(first)).await.unwrap();
        let mut broken = self.break_sessions.subscribe();
        tokio::spawn(async move {
            let _ = broken.changed().await;
            let _ = sender.send(Err(Status::unavailable("leader changed"))).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        self.state.lock().unwrap().heartbeats += 1;
        Ok(Response::new(HeartbeatResponse { period_ms: 20 }))
    }

    async fn update_task_status(&self, request: Request<UpdateTaskStatusRequest>) -> Answer<UpdateTaskStatusResponse> {
        for update in request.into_inner().updates {
            let status: TaskStatus = codec::decode(&update.status)?;
            self.reported.send_modify(|reported| reported.push((update.task_id, status.state)));
        }
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(&self, _: Request<AssignmentsRequest>) -> Answer<Self::AssignmentsStream> {
        let (sender, receiver) = mpsc::channel(4);
        let set = message(Kind::Complete, 0, 7, vec![updated(&task("t1", TaskState::Running))]);
        sender.send(Ok(set)).await.unwrap();
        // Kept open by a task that ends with the sessions.
        let mut broken = self.break_sessions.subscribe();
        tokio::spawn(async move {
            let _ = broken.changed().await;
            drop(sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// Asks for one tunnel.
    async fn tunnel_requests(&self, _: Request<TunnelRequestsRequest>) -> Answer<Self::TunnelRequestsStream> {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(Ok(TunnelRequest { tunnel_id: "tunnel1".into() })).await.unwrap();
        let mut broken = self.break_sessions.subscribe();
        tokio::spawn(async move {
            let _ = broken.changed().await;
            drop(sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// Says a word through it and notes what comes back.
    async fn open_tunnel(&self, request: Request<tonic::Streaming<TunnelPiece>>) -> Answer<Self::OpenTunnelStream> {
        let (sender, receiver) = mpsc::channel(4);
        let (state, mut pieces) = (self.state.clone(), request.into_inner());
        tokio::spawn(async move {
            let first = pieces.message().await.unwrap().unwrap();
            state.lock().unwrap().tunnelled.push(first.target);
            let word = TunnelPiece { data: b"hello".to_vec(), end: true, ..TunnelPiece::default() };
            sender.send(Ok(word)).await.unwrap();
            while let Ok(Some(piece)) = pieces.message().await {
                let text = String::from_utf8(piece.data).unwrap();
                state.lock().unwrap().tunnelled.push(format!("{text}{}", if piece.end { "." } else { "" }));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn reach_node(&self, _: Request<tonic::Streaming<TunnelPiece>>) -> Answer<Self::ReachNodeStream> {
        Err(Status::unimplemented("not here"))
    }

    async fn report_network(&self, _: Request<ReportNetworkRequest>) -> Answer<ReportNetworkResponse> {
        Ok(Response::new(ReportNetworkResponse {}))
    }

    async fn await_network(&self, _: Request<AwaitNetworkRequest>) -> Answer<AwaitNetworkResponse> {
        Ok(Response::new(AwaitNetworkResponse { reached: true }))
    }
}

impl FakeManager {
    async fn serve() -> (Self, SocketAddr) {
        let manager =
            Self { state: Arc::default(), reported: watch::Sender::default(), break_sessions: watch::Sender::new(0) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(DispatcherServer::new(manager.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (manager, address)
    }

    async fn hears(&self, id: &str, state: TaskState) {
        let mut reported = self.reported.subscribe();
        let heard = reported.wait_for(|all| all.iter().any(|(of, s)| of == id && *s == state));
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("never reported").unwrap();
    }
}

/// Sends back what it hears.
struct Echo;

#[async_trait]
impl crate::TaskApi for Echo {
    async fn serve(&self, connection: tokio::io::DuplexStream) {
        let (mut reader, mut writer) = tokio::io::split(connection);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    }
}

/// Reaches the fake whatever address it was told.
struct FakeDial(SocketAddr);

#[async_trait]
impl Dial for FakeDial {
    async fn dial(&self, _: &str) -> Result<Channel, Error> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.0)).unwrap();
        endpoint.connect().await.map_err(|e| Error::unavailable(e.to_string()))
    }
}

async fn agent(directory: &std::path::Path, executor: Arc<FakeExecutor>, address: SocketAddr) -> Agent {
    let config = AgentConfig {
        state_dir: directory.to_owned(),
        identity: test_identity(),
        certificates: skep_identity::CertStore::new(directory.join("certificates")),
        managers: vec![address.to_string()],
        description: NodeDescription::default(),
        data_path_address: String::new(),
        executor,
        task_api: Arc::new(Echo),
    };
    Agent::start_with(&config, Arc::new(FakeDial(address))).await.unwrap()
}

fn test_identity() -> Identity {
    use skep_identity::{CertificateAuthority, CertificateRequest, NodeSubject, StoredIdentity};
    let now = skep_model::Timestamp::from_chrono(chrono::Utc::now());
    let authority = CertificateAuthority::create(now).unwrap();
    let request = CertificateRequest::create().unwrap();
    let subject = NodeSubject { node_id: "n1".into(), role: skep_model::node::Role::Worker, cluster_id: "c1".into() };
    let chain_pem = authority.sign(request.pem(), &subject, now, Duration::from_secs(7200)).unwrap();
    let parts = StoredIdentity {
        root_pem: authority.cert_pem().to_owned(),
        chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    };
    Identity::new(&parts).unwrap()
}

#[tokio::test]
async fn runs_what_is_assigned_and_reports_it() {
    let (manager, address) = FakeManager::serve().await;
    let directory = tempfile::tempdir().unwrap();
    let executor = Arc::new(FakeExecutor::default());
    let agent = agent(directory.path(), executor.clone(), address).await;
    manager.hears("t1", TaskState::Running).await;
    let view = agent.view();
    assert!(view.connected);
    assert_eq!(view.node.unwrap().id.as_str(), "n1");
    assert_eq!(view.managers, [("m1".into(), "manager:2377".to_owned())]);
    let beaten = || manager.state.lock().unwrap().heartbeats > 1;
    while !beaten() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.shutdown().await;
    assert_eq!(executor.log(), ["prepare t1", "start t1"], "containers outlive the agent");
}

#[tokio::test]
async fn comes_back_after_a_lost_session_and_tells_what_was_missed() {
    let (manager, address) = FakeManager::serve().await;
    let directory = tempfile::tempdir().unwrap();
    let executor = Arc::new(FakeExecutor::default());
    let agent = agent(directory.path(), executor.clone(), address).await;
    manager.hears("t1", TaskState::Running).await;
    manager.break_sessions.send_modify(|count| *count += 1);
    let mut view = agent.watch();
    view.wait_for(|view| !view.connected).await.unwrap();
    executor.exit("t1", 1);
    manager.hears("t1", TaskState::Failed).await;
    assert!(manager.state.lock().unwrap().sessions >= 2);
    agent.shutdown().await;
}

#[tokio::test]
async fn leaving_removes_tasks_networks_and_records() {
    let (manager, address) = FakeManager::serve().await;
    let directory = tempfile::tempdir().unwrap();
    let executor = Arc::new(FakeExecutor::default());
    let agent = agent(directory.path(), executor.clone(), address).await;
    manager.hears("t1", TaskState::Running).await;
    agent.leave().await.unwrap();
    assert_eq!(executor.log()[2..], ["remove t1", "clear network"]);
    let db = LocalDb::open(directory.path()).unwrap();
    assert!(db.tasks().unwrap().is_empty());
}

/// A manager that only knows who leads.
#[derive(Clone)]
struct Follower {
    leader: SocketAddr,
    asked: Arc<Mutex<u32>>,
}

impl Follower {
    fn refuse<T>(&self) -> Answer<T> {
        *self.asked.lock().unwrap() += 1;
        let mut status = Status::unavailable("this manager is not the leader");
        status.metadata_mut().insert(LEADER_METADATA, self.leader.to_string().parse().unwrap());
        Err(status)
    }
}

#[tonic::async_trait]
impl Dispatcher for Follower {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;
    type TunnelRequestsStream = ReceiverStream<Result<TunnelRequest, Status>>;
    type OpenTunnelStream = ReceiverStream<Result<TunnelPiece, Status>>;
    type ReachNodeStream = ReceiverStream<Result<TunnelPiece, Status>>;

    async fn session(&self, _: Request<SessionRequest>) -> Answer<Self::SessionStream> {
        self.refuse()
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        self.refuse()
    }

    async fn update_task_status(&self, _: Request<UpdateTaskStatusRequest>) -> Answer<UpdateTaskStatusResponse> {
        self.refuse()
    }

    async fn assignments(&self, _: Request<AssignmentsRequest>) -> Answer<Self::AssignmentsStream> {
        self.refuse()
    }

    async fn report_network(&self, _: Request<ReportNetworkRequest>) -> Answer<ReportNetworkResponse> {
        self.refuse()
    }

    async fn await_network(&self, _: Request<AwaitNetworkRequest>) -> Answer<AwaitNetworkResponse> {
        self.refuse()
    }

    async fn tunnel_requests(&self, _: Request<TunnelRequestsRequest>) -> Answer<Self::TunnelRequestsStream> {
        self.refuse()
    }

    async fn open_tunnel(&self, _: Request<tonic::Streaming<TunnelPiece>>) -> Answer<Self::OpenTunnelStream> {
        self.refuse()
    }

    async fn reach_node(&self, _: Request<tonic::Streaming<TunnelPiece>>) -> Answer<Self::ReachNodeStream> {
        self.refuse()
    }
}

/// Reaches whatever it was told.
struct PlainDial;

#[async_trait]
impl Dial for PlainDial {
    async fn dial(&self, address: &str) -> Result<Channel, Error> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect().await.map_err(|e| Error::unavailable(e.to_string()))
    }
}

#[tokio::test]
async fn a_follower_sends_the_agent_straight_to_the_leader() {
    let (manager, leader) = FakeManager::serve().await;
    let follower = Follower { leader, asked: Arc::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(DispatcherServer::new(follower.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let directory = tempfile::tempdir().unwrap();
    let config = AgentConfig {
        state_dir: directory.path().to_owned(),
        identity: test_identity(),
        certificates: skep_identity::CertStore::new(directory.path().join("certificates")),
        managers: vec![address.to_string()],
        description: NodeDescription::default(),
        data_path_address: String::new(),
        executor: Arc::new(FakeExecutor::default()),
        task_api: Arc::new(Echo),
    };
    let agent = Agent::start_with(&config, Arc::new(PlainDial)).await.unwrap();
    manager.hears("t1", TaskState::Running).await;
    assert_eq!(*follower.asked.lock().unwrap(), 1);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_tunnel_that_is_asked_for_is_opened_and_served() {
    let (manager, address) = FakeManager::serve().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(directory.path(), Arc::new(FakeExecutor::default()), address).await;
    let heard = || manager.state.lock().unwrap().tunnelled.clone();
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while heard().last().is_none_or(|last| !last.ends_with('.')) {
        assert!(tokio::time::Instant::now() < until, "{:?}", heard());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(heard()[0], "tunnel1");
    assert_eq!(heard()[1..].concat(), "hello.");
    agent.shutdown().await;
}
