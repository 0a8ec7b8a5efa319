//! The managers' side of the agents' protocol: sessions, heartbeats, assignments out,
//! statuses in. Only the leader serves it.

mod assignments;
mod heartbeat;
mod routes;
mod session;
mod sessions;
mod status;
mod tunnels;

use crate::access::Caller;
use crate::edit::{edit, status_of};
use crate::raft::Replicator;
use routes::Routes;
use sessions::{Session, Sessions};
use skep_cluster::edit::node_ready;
use skep_model::id::NodeId;
use skep_model::node::{NodeDescription, NodeState};
use skep_model::task::TaskStatus;
use skep_model::{Error, Result as ModelResult};
use skep_proto::LEADER_METADATA;
use skep_proto::codec::decode;
use skep_proto::dispatcher::{
    AssignmentsMessage, AssignmentsRequest, AwaitNetworkRequest, AwaitNetworkResponse, HeartbeatRequest,
    HeartbeatResponse, ReportNetworkRequest, ReportNetworkResponse, SessionMessage, SessionRequest, TunnelPiece,
    TunnelRequest, TunnelRequestsRequest, UpdateTaskStatusRequest, UpdateTaskStatusResponse,
};
use status::Report;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use tunnels::Tunnels;

/// Messages of a stream that wait for a slow agent; more are merged, not queued.
const STREAM_QUEUE_MAX: usize = 2;
/// Statuses in one request.
const UPDATES_PER_REQUEST_MAX: usize = 1000;
/// One question about the network is held open this long; it may be asked again.
const NETWORK_WAIT_MAX: Duration = Duration::from_secs(3);
/// Requests with statuses that wait for the next command.
const REPORTS_QUEUE_MAX: usize = 256;

/// Serves the dispatcher; cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    replicator: Replicator,
    sessions: Sessions,
    tunnels: Tunnels,
    routes: Routes,
    reports: mpsc::Sender<Report>,
    streams: TaskTracker,
    stop: CancellationToken,
    /// Where this manager is reached, told to agents while the store lists no managers.
    own_address: String,
}

/// The dispatcher's loop that the manager must run.
pub(crate) struct DispatcherLoop {
    inner: Arc<Inner>,
    reports: mpsc::Receiver<Report>,
}

/// Makes the service and its loop.
pub(crate) fn new(
    replicator: Replicator,
    tunnels: Tunnels,
    own_address: String,
    stop: CancellationToken,
) -> (Dispatcher, DispatcherLoop) {
    let (sender, reports) = mpsc::channel(REPORTS_QUEUE_MAX);
    let inner = Arc::new(Inner {
        replicator,
        sessions: Sessions::default(),
        tunnels,
        routes: Routes::default(),
        reports: sender,
        streams: TaskTracker::new(),
        stop,
        own_address,
    });
    (Dispatcher { inner: inner.clone() }, DispatcherLoop { inner, reports })
}

impl DispatcherLoop {
    /// Runs until the manager stops; an error means that it must.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let inner = &self.inner;
        let work = async {
            tokio::try_join!(
                heartbeat::run(&inner.replicator, &inner.sessions, &inner.stop),
                status::run(&inner.replicator, self.reports, &inner.stop),
                routes::run(inner.replicator.store(), &inner.routes),
            )
        };
        tokio::select! {
            ended = work => ended.map(drop)?,
            // Wherever they are: a write may wait for a majority that does not come.
            () = inner.stop.cancelled() => {}
        }
        inner.sessions.clear();
        inner.streams.close();
        inner.streams.wait().await;
        Ok(())
    }
}

impl Inner {
    fn heartbeat_period(&self) -> Duration {
        let store = self.replicator.store().snapshot();
        store.cluster().map_or(Duration::from_secs(5), |cluster| cluster.spec.heartbeat_period)
    }

    async fn mark_ready(
        &self,
        node: &NodeId,
        description: &NodeDescription,
        caller: &Caller,
        data_path: &str,
    ) -> ModelResult<()> {
        let address = caller.address.ip().to_string();
        // A node that names no address is reached where it comes from.
        let data_path = if data_path.is_empty() { &address } else { data_path };
        edit(&self.replicator, |store, _, _| {
            Ok(((), node_ready(store, node, description.clone(), &address, data_path)?))
        })
        .await
    }

    /// A session's stream is closed: the agent went away, or the connection did.
    async fn session_closed(&self, node: &NodeId, session: &Session) {
        let was_present = self.sessions.close(node, session);
        if was_present && !self.stop.is_cancelled() && self.replicator.is_leader() {
            let nodes = std::slice::from_ref(node);
            heartbeat::record(&self.replicator, &self.sessions, nodes, NodeState::Disconnected, "").await;
        }
    }

    /// Whether every node that is not down has, within a limit, the network state that
    /// results from the store at an index.
    async fn everybody_has(&self, index: u64) -> bool {
        let mut reports = self.routes.reports();
        let until = Instant::now() + NETWORK_WAIT_MAX;
        loop {
            reports.borrow_and_update();
            if self.all_have(&self.replicator.store().snapshot(), index) {
                return true;
            }
            match tokio::time::timeout_at(until, reports.changed()).await {
                Ok(Ok(())) => {}
                // The sender lives as long as we do: it is the time that is over.
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    fn all_have(&self, store: &skep_cluster::Store, index: u64) -> bool {
        let alive = store.nodes().filter(|node| node.status.state != NodeState::Down);
        self.routes.all_have(alive.map(|node| &node.id), index)
    }

    /// Only the leader serves agents; the others say where it is.
    fn check_leader(&self) -> Result<(), Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("this manager is stopping"));
        }
        if self.replicator.is_leader() {
            return Ok(());
        }
        let mut status = Status::unavailable("this manager is not the leader");
        let leader = self.replicator.leader().and_then(|leader| leader.address.parse().ok());
        if let Some(address) = leader {
            status.metadata_mut().insert(LEADER_METADATA, address);
        }
        Err(status)
    }
}

#[tonic::async_trait]
impl skep_proto::dispatcher::dispatcher_server::Dispatcher for Dispatcher {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;
    type TunnelRequestsStream = ReceiverStream<Result<TunnelRequest, Status>>;
    type OpenTunnelStream = ReceiverStream<Result<TunnelPiece, Status>>;
    type ReachNodeStream = ReceiverStream<Result<TunnelPiece, Status>>;

    async fn session(&self, request: Request<SessionRequest>) -> Result<Response<Self::SessionStream>, Status> {
        let inner = &self.inner;
        inner.check_leader()?;
        let (node, caller) = caller_of(&request)?;
        let request = request.into_inner();
        let description: NodeDescription = decode(&request.description)?;
        let period = inner.heartbeat_period();
        if inner.replicator.store().snapshot().node(node.as_str()).is_none() {
            return Err(Status::permission_denied("the node is not a member of this cluster"));
        }
        let opened = inner.sessions.open(&node, &request.session_id, period, Instant::now());
        inner.mark_ready(&node, &description, &caller, &request.data_path_address).await.map_err(status_of)?;
        tracing::info!(%node, "session opened");
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE_MAX);
        let inner = self.inner.clone();
        self.inner.streams.spawn(async move {
            session::stream(&inner, &node, &opened, sender).await;
            inner.session_closed(&node, &opened).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let inner = &self.inner;
        inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let period = inner.heartbeat_period();
        inner.sessions.beat(&node, &request.into_inner().session_id, period, Instant::now())?;
        heartbeat::put_right(&inner.replicator, &inner.sessions, std::slice::from_ref(&node)).await;
        Ok(Response::new(HeartbeatResponse { period_ms: u64::try_from(period.as_millis()).unwrap_or(u64::MAX) }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        self.inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let request = request.into_inner();
        self.inner.sessions.get(&node, &request.session_id)?;
        if request.updates.len() > UPDATES_PER_REQUEST_MAX {
            return Err(Status::invalid_argument(format!("more than {UPDATES_PER_REQUEST_MAX} statuses in one call")));
        }
        let mut updates: Vec<(String, TaskStatus)> = Vec::with_capacity(request.updates.len());
        for update in request.updates {
            updates.push((update.task_id, decode(&update.status)?));
        }
        let (done, answer) = oneshot::channel();
        let stopping = || Status::unavailable("this manager is stopping");
        self.inner.reports.send(Report { node, updates, done }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map_err(status_of)?;
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        self.inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let session = self.inner.sessions.get(&node, &request.into_inner().session_id)?;
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE_MAX);
        let inner = self.inner.clone();
        self.inner.streams.spawn(async move { assignments::stream(&inner, &node, &session, sender).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn tunnel_requests(
        &self,
        request: Request<TunnelRequestsRequest>,
    ) -> Result<Response<Self::TunnelRequestsStream>, Status> {
        self.inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let session = self.inner.sessions.get(&node, &request.into_inner().session_id)?;
        let (sender, receiver) = mpsc::channel(tunnels::REQUESTS_QUEUED_MAX);
        self.inner.tunnels.listen(&node, sender.clone());
        let inner = self.inner.clone();
        self.inner.streams.spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = session::ended(&inner, &session) => {}
            }
            inner.tunnels.unlisten(&node, &sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn open_tunnel(
        &self,
        request: Request<Streaming<TunnelPiece>>,
    ) -> Result<Response<Self::OpenTunnelStream>, Status> {
        let (node, _) = caller_of(&request)?;
        self.inner.tunnels.opened(&node, request.into_inner()).await.map(Response::new)
    }

    async fn reach_node(
        &self,
        request: Request<Streaming<TunnelPiece>>,
    ) -> Result<Response<Self::ReachNodeStream>, Status> {
        self.inner.check_leader()?;
        self.inner.tunnels.serve_follower(request.into_inner()).await.map(Response::new)
    }

    async fn report_network(
        &self,
        request: Request<ReportNetworkRequest>,
    ) -> Result<Response<ReportNetworkResponse>, Status> {
        self.inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let request = request.into_inner();
        let session = self.inner.sessions.get(&node, &request.session_id)?;
        self.inner.routes.applied(&node, &session, request.generation);
        Ok(Response::new(ReportNetworkResponse {}))
    }

    async fn await_network(
        &self,
        request: Request<AwaitNetworkRequest>,
    ) -> Result<Response<AwaitNetworkResponse>, Status> {
        self.inner.check_leader()?;
        let (node, _) = caller_of(&request)?;
        let request = request.into_inner();
        let session = self.inner.sessions.get(&node, &request.session_id)?;
        let reached = tokio::select! {
            reached = self.inner.everybody_has(request.generation) => reached,
            () = session::ended(&self.inner, &session) => return Err(Status::unavailable("the session has ended")),
        };
        Ok(Response::new(AwaitNetworkResponse { reached }))
    }
}

/// The node a request comes from, by its certificate.
fn caller_of<T>(request: &Request<T>) -> Result<(NodeId, Caller), Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Status::internal("the caller is not known"))?;
    match &caller.peer {
        Some(peer) => Ok((peer.node_id.clone(), caller)),
        None => Err(Status::unauthenticated("this call needs a node certificate")),
    }
}
