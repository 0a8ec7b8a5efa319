//! The conversation with a manager: one session at a time, kept up for ever. Tasks go on
//! without it.

use crate::assigned::Refused;
use crate::backoff::Backoff;
use crate::local_db::LocalDb;
use crate::managers::Managers;
use crate::network::NetworkKeeper;
use crate::report::Reporter;
use crate::tunnel::Tunnels;
use async_trait::async_trait;
use skep_identity::Identity;
use skep_model::Error;
use skep_model::id::NodeId;
use skep_model::node::{Node, NodeDescription};
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{
    AssignmentsMessage, AssignmentsRequest, AwaitNetworkRequest, HeartbeatRequest, ReportNetworkRequest,
    SessionMessage, SessionRequest, TunnelRequestsRequest,
};
use skep_proto::{LEADER_METADATA, codec};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long a manager may take to answer one call.
const CALL_MAX: Duration = Duration::from_secs(5);
const HEARTBEAT_PERIOD_DEFAULT: Duration = Duration::from_secs(5);
/// Heartbeats are sent a little early, so that the last one of a period is never late.
const HEARTBEAT_SHARE: (f64, f64) = (0.8, 0.95);
/// Managers in a row that may name another one as the leader before it is time to wait.
const REDIRECTS_MAX: usize = 4;
/// A node's complete set with its secrets and network state.
const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Opens a channel to a manager.
#[async_trait]
pub(crate) trait Dial: Send + Sync + 'static {
    async fn dial(&self, address: &str) -> Result<Channel, Error>;

    /// Adds to what the node tells of itself whom it trusts and who certified it.
    fn describe(&self, _description: &mut NodeDescription) {}

    /// Changes when `describe` would say something else.
    fn changed(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

#[async_trait]
impl Dial for Identity {
    async fn dial(&self, address: &str) -> Result<Channel, Error> {
        self.connect(address).await.map_err(Error::from)
    }

    fn describe(&self, description: &mut NodeDescription) {
        description.trust_root_pem = self.root_pem().to_string();
        if let Some(issuer) = self.issuer() {
            description.cert_issuer_subject_der = issuer.subject_der;
            description.cert_issuer_public_key_der = issuer.public_key_der;
        }
    }

    fn changed(&self) -> Option<watch::Receiver<u64>> {
        Some(Identity::changed(self))
    }
}

/// What the agent knows of its swarm by its session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SwarmView {
    /// A session is up.
    pub connected: bool,
    /// This node as the managers have it.
    pub node: Option<Node>,
    /// (node id, address)
    pub managers: Vec<(NodeId, String)>,
    /// Why there is no session.
    pub error: String,
    /// The roots that the managers want trusted; empty while that is not known.
    pub trust_root_pem: String,
}

/// A message for the worker; the answer says whether it took it.
pub(crate) struct Apply {
    pub(crate) message: AssignmentsMessage,
    pub(crate) answer: oneshot::Sender<Result<(), Refused>>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no manager is known")]
    NoManager,
    #[error("{0}")]
    Connect(Error),
    #[error("no answer within {CALL_MAX:?}")]
    Deadline,
    #[error("{}: {}", code_name(.0), .0.message())]
    Call(#[from] Status),
    #[error("the manager closed the session")]
    Closed,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("malformed session message: {0}")]
    Malformed(#[from] codec::DecodeError),
    #[error("the worker is gone")]
    Worker,
    #[error("this node's certificate or the roots it trusts have changed")]
    Renewed,
}

impl Ended {
    /// Where the leader is, if that is why.
    fn leader(&self) -> Option<String> {
        let Self::Call(status) = self else { return None };
        status.metadata().get(LEADER_METADATA).and_then(|address| address.to_str().ok()).map(str::to_owned)
    }
}

fn code_name(status: &Status) -> String {
    format!("{:?}", status.code())
}

/// Everything a session needs; `run` is its loop.
pub(crate) struct Sessions {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) managers: Managers,
    pub(crate) description: NodeDescription,
    pub(crate) data_path_address: String,
    pub(crate) worker: mpsc::Sender<Apply>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) network: Arc<NetworkKeeper>,
    pub(crate) db: LocalDb,
    pub(crate) view: watch::Sender<SwarmView>,
    pub(crate) tunnels: Arc<Tunnels>,
}

impl Sessions {
    /// Holds sessions until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let (mut leader, mut redirects) = (None, 0);
        loop {
            let Some(address) = leader.take().or_else(|| self.managers.pick(&mut rand::rng())) else {
                self.lost(&Ended::NoManager);
                return;
            };
            let ended = tokio::select! {
                ended = self.session(&address, &mut backoff) => ended,
                () = stop.cancelled() => return,
            };
            if matches!(ended, Ended::Renewed) {
                tracing::debug!("beginning a new session to tell of the new certificate");
                leader = Some(address);
                continue;
            }
            leader = ended.leader().filter(|leader| *leader != address && redirects < REDIRECTS_MAX);
            if leader.is_some() {
                redirects += 1;
                continue;
            }
            redirects = 0;
            self.managers.observe(&address, false);
            tracing::info!(manager = address, reason = %ended, "session with the manager ended");
            self.lost(&ended);
            tokio::select! {
                () = tokio::time::sleep(backoff.next(&mut rand::rng())) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn lost(&self, ended: &Ended) {
        self.view.send_modify(|view| {
            view.connected = false;
            view.error = ended.to_string();
        });
    }

    /// One session from dial to its end.
    async fn session(&mut self, address: &str, backoff: &mut Backoff) -> Ended {
        match self.try_session(address, backoff).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_session(&mut self, address: &str, backoff: &mut Backoff) -> Result<std::convert::Infallible, Ended> {
        let mut identity = self.dial.changed();
        let channel = deadline(self.dial.dial(address)).await?.map_err(Ended::Connect)?;
        let mut client = DispatcherClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut description = self.description.clone();
        self.dial.describe(&mut description);
        let request = SessionRequest {
            description: codec::encode(&description),
            session_id: String::new(),
            data_path_address: self.data_path_address.clone(),
        };
        let mut messages = deadline(client.session(request)).await??.into_inner();
        let first = deadline(messages.message()).await??.ok_or(Ended::Closed)?;
        let session_id = first.session_id.clone();
        let period = Duration::from_millis(first.heartbeat_period_ms);
        let period = if period.is_zero() { HEARTBEAT_PERIOD_DEFAULT } else { period };
        self.take(first).await?;
        self.managers.observe(address, true);
        tracing::info!(manager = address, "session with the manager is up");
        backoff.reset();

        let worker = self.worker.clone();
        let reporter = self.reporter.clone();
        let opener = self.tunnels.clone();
        let network = self.network.clone();
        // On the heap: five conversations make a large future.
        let mut work = Box::pin(async {
            tokio::select! {
                ended = heartbeats(client.clone(), &session_id, period) => ended,
                ended = assignments(client.clone(), &session_id, worker) => ended,
                ended = reports(client.clone(), &session_id, &reporter) => ended,
                ended = tunnels(client.clone(), &session_id, address, &opener) => ended,
                ended = network_reports(client.clone(), &session_id, &network) => ended,
                ended = network_questions(client.clone(), &session_id, &network) => ended,
            }
        });
        loop {
            tokio::select! {
                ended = &mut work => return ended,
                message = messages.message() => self.take(message?.ok_or(Ended::Closed)?).await?,
                () = renewed(&mut identity) => return Err(Ended::Renewed),
            }
        }
    }

    /// Takes what the manager says of this node and of its peers.
    async fn take(&mut self, message: SessionMessage) -> Result<(), Ended> {
        let node: Option<Node> = if message.node.is_empty() { None } else { Some(codec::decode(&message.node)?) };
        let before = self.managers.addresses();
        self.managers.replace(&message.managers);
        let addresses = self.managers.addresses();
        if addresses != before
            && let Err(error) = self.db.put_managers(&addresses).await
        {
            tracing::warn!(%error, "cannot record the managers' addresses");
        }
        self.view.send_modify(|view| {
            view.connected = true;
            view.error.clear();
            if node.is_some() {
                view.node = node;
            }
            if !message.root_ca_pem.is_empty() {
                view.trust_root_pem = message.root_ca_pem;
            }
            view.managers = message.managers.iter().map(|m| (m.node_id.as_str().into(), m.address.clone())).collect();
        });
        Ok(())
    }
}

async fn renewed(identity: &mut Option<watch::Receiver<u64>>) {
    let changed = match identity {
        Some(identity) => identity.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

async fn deadline<T>(call: impl Future<Output = T>) -> Result<T, Ended> {
    tokio::time::timeout(CALL_MAX, call).await.map_err(|_| Ended::Deadline)
}

async fn heartbeats(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    mut period: Duration,
) -> Result<std::convert::Infallible, Ended> {
    loop {
        let share = rand::Rng::random_range(&mut rand::rng(), HEARTBEAT_SHARE.0..HEARTBEAT_SHARE.1);
        tokio::time::sleep(period.mul_f64(share)).await;
        let request = HeartbeatRequest { session_id: session_id.to_owned() };
        let answer = deadline(client.heartbeat(request)).await??.into_inner();
        if answer.period_ms > 0 {
            period = Duration::from_millis(answer.period_ms);
        }
    }
}

async fn assignments(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    worker: mpsc::Sender<Apply>,
) -> Result<std::convert::Infallible, Ended> {
    let request = AssignmentsRequest { session_id: session_id.to_owned() };
    let mut stream = deadline(client.assignments(request)).await??.into_inner();
    loop {
        let message = stream.message().await?.ok_or(Ended::Closed)?;
        let (answer, taken) = oneshot::channel();
        worker.send(Apply { message, answer }).await.map_err(|_| Ended::Worker)?;
        taken.await.map_err(|_| Ended::Worker)??;
    }
}

async fn reports(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    reporter: &Reporter,
) -> Result<std::convert::Infallible, Ended> {
    loop {
        let batch = reporter.next_batch().await;
        match deadline(client.update_task_status(batch.to_request(session_id))).await? {
            Ok(_) => reporter.acknowledge(&batch),
            Err(status) if is_final(&status) => {
                tracing::warn!(%status, "the manager refuses a status report");
                reporter.acknowledge(&batch);
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Opens the tunnels that the manager asks for.
async fn tunnels(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    address: &str,
    opener: &Tunnels,
) -> Result<std::convert::Infallible, Ended> {
    let request = TunnelRequestsRequest { session_id: session_id.to_owned() };
    let mut requests = match deadline(client.tunnel_requests(request)).await? {
        Ok(answer) => answer.into_inner(),
        // A manager of an older version, which will not ask.
        Err(status) if status.code() == Code::Unimplemented => std::future::pending().await,
        Err(status) => return Err(status.into()),
    };
    loop {
        opener.open(address, requests.message().await?.ok_or(Ended::Closed)?);
    }
}

/// Tells what this node's kernel has, from the session's start: a new leader knows nothing.
async fn network_reports(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    network: &NetworkKeeper,
) -> Result<std::convert::Infallible, Ended> {
    let mut told = None;
    loop {
        let generation = network.next_applied(told).await;
        let request = ReportNetworkRequest { session_id: session_id.to_owned(), generation };
        deadline(client.report_network(request)).await??;
        told = Some(generation);
    }
}

/// Asks whether all other nodes have followed, for the tasks that wait for it.
async fn network_questions(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    network: &NetworkKeeper,
) -> Result<std::convert::Infallible, Ended> {
    loop {
        let generation = network.next_awaited().await;
        let request = AwaitNetworkRequest { session_id: session_id.to_owned(), generation };
        if deadline(client.await_network(request)).await??.into_inner().reached {
            network.note_everywhere(generation);
        }
    }
}

/// The manager will never take these statuses, so repeating them would only block others.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
