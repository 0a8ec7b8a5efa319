//! Tunnels from managers to nodes. Nodes accept no connections: the leader asks the node's
//! agent, which opens a connection of its own for each tunnel, so that one whose reader is
//! slow holds up nothing else. Followers go through the leader.

use crate::raft::{Leadership, Member, Replicator};
use futures_util::Stream;
use skep_identity::Identity;
use skep_model::id::NodeId;
use skep_model::node::NodeState;
use skep_model::{Error, ErrorKind, Result};
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{TunnelPiece, TunnelRequest};
use skep_proto::tunnel::{PIECES_QUEUED_MAX, buffer, carry, opening};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

/// Tunnels to one node at a time; each followed log and each open shell is one.
pub(crate) const TUNNELS_PER_NODE_MAX: usize = 128;
/// Requests that wait for an agent to read them.
pub(crate) const REQUESTS_QUEUED_MAX: usize = 16;
/// How long a node may take to open a tunnel it was asked for, and a caller to say what it wants.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// A follower's call to the leader, which asks the node meanwhile.
const FORWARD_MAX: Duration = Duration::from_secs(8);
/// How long it is waited for a leader, and for a node that is said to be ready.
const REACH_PATIENCE: Duration = Duration::from_secs(2);
/// Another manager that says that it does not lead is asked again so often.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_millis(100);

type Pieces = mpsc::Sender<Result<TunnelPiece, Status>>;
type Requests = mpsc::Sender<Result<TunnelRequest, Status>>;

/// All tunnels of this manager; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tunnels {
    shared: Arc<Shared>,
}

struct Shared {
    replicator: Replicator,
    identity: Identity,
    /// Nodes whose agent listens for requests here.
    listening: watch::Sender<BTreeMap<NodeId, Requests>>,
    state: Mutex<State>,
    carriers: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Kept over sessions, since tunnels outlive them.
    slots: BTreeMap<NodeId, Arc<Semaphore>>,
    /// Asked for and not opened yet, by tunnel id.
    awaited: BTreeMap<String, Awaited>,
}

struct Awaited {
    node: NodeId,
    opened: oneshot::Sender<Opened>,
}

/// A tunnel that the node has opened.
struct Opened {
    incoming: Streaming<TunnelPiece>,
    outgoing: Pieces,
}

impl Tunnels {
    pub(crate) fn new(replicator: Replicator, identity: Identity, stop: CancellationToken) -> Self {
        let (listening, state, carriers) = (watch::Sender::default(), Mutex::default(), TaskTracker::new());
        let shared = Shared { replicator, identity, listening, state, carriers, stop };
        Self { shared: Arc::new(shared) }
    }

    /// A byte stream to the node's own HTTP service. In a change of leader, it is waited a moment
    /// for the next one, and there for the nodes that are on their way to it.
    ///
    /// # Errors
    /// `Unavailable` when there is no leader, the node is not connected or too much is open to it.
    pub(crate) async fn reach(&self, node: &NodeId) -> Result<DuplexStream> {
        let give_up = Instant::now() + REACH_PATIENCE;
        let mut leadership = self.shared.replicator.leadership();
        loop {
            let leader = leadership.borrow_and_update().clone();
            let reached = match &leader {
                Leadership::Us => return self.ask(node).await,
                Leadership::Other(leader) => self.ask_leader(leader, node).await,
                Leadership::Nobody { .. } => Err(Error::unavailable("the swarm does not have a leader at present")),
            };
            if reached.is_ok() || !self.is_ready(node) || Instant::now() >= give_up {
                return reached;
            }
            // Whoever was asked may be the last to know that it leads no more. Or it leads again
            // in a moment, which cannot be seen from here: it is asked once more.
            let until = give_up.min(Instant::now() + ASK_AGAIN_INTERVAL);
            if matches!(tokio::time::timeout_at(until, leadership.changed()).await, Ok(Err(_))) {
                return reached;
            }
        }
    }

    /// On the leader: has the node open a tunnel.
    async fn ask(&self, node: &NodeId) -> Result<DuplexStream> {
        let slot = self.slot(node)?;
        let tunnel_id = hex::encode(rand::random::<[u8; 16]>());
        let (opened, answer) = oneshot::channel();
        let requests = self.listener(node).await?;
        self.shared.state().awaited.insert(tunnel_id.clone(), Awaited { node: node.clone(), opened });
        // Also when the caller goes away meanwhile.
        let _forget = Forget { shared: &self.shared, tunnel_id: &tunnel_id };
        let request = TunnelRequest { tunnel_id: tunnel_id.clone() };
        requests.try_send(Ok(request)).map_err(|_| away())?;
        match tokio::time::timeout(OPEN_MAX, answer).await {
            Ok(Ok(tunnel)) => Ok(self.carried(tunnel.incoming, tunnel.outgoing, Ok, Some(slot))),
            Ok(Err(_)) => Err(away()),
            Err(_) => Err(Error::unavailable(format!("it did not open a stream within {OPEN_MAX:?}"))),
        }
    }

    /// The node's agent, which may be on its way back.
    async fn listener(&self, node: &NodeId) -> Result<Requests> {
        let mut listening = self.shared.listening.subscribe();
        let found = async {
            loop {
                if let Some(requests) = listening.borrow_and_update().get(node) {
                    return Some(requests.clone());
                }
                if !self.is_ready(node) || listening.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(REACH_PATIENCE, found).await.ok().flatten().ok_or_else(away)
    }

    fn is_ready(&self, node: &NodeId) -> bool {
        let store = self.shared.replicator.store().snapshot();
        store.node(node.as_str()).is_some_and(|node| node.status.state == NodeState::Ready)
    }

    fn slot(&self, node: &NodeId) -> Result<OwnedSemaphorePermit> {
        let slots = {
            let mut state = self.shared.state();
            // Nodes that have gone for good hold no tunnel and are forgotten here.
            state.slots.retain(|_, slots| slots.available_permits() < TUNNELS_PER_NODE_MAX);
            let fresh = || Arc::new(Semaphore::new(TUNNELS_PER_NODE_MAX));
            state.slots.entry(node.clone()).or_insert_with(fresh).clone()
        };
        slots.try_acquire_owned().map_err(|_| {
            Error::unavailable(format!("{TUNNELS_PER_NODE_MAX} streams to it are open, which is the limit"))
        })
    }

    /// On a follower: the leader is the one whom nodes are connected to.
    async fn ask_leader(&self, leader: &Member, node: &NodeId) -> Result<DuplexStream> {
        let (outgoing, pieces) = mpsc::channel(PIECES_QUEUED_MAX);
        // The queue is empty.
        let _ = outgoing.try_send(opening(node.as_str()));
        let reached = async {
            let channel = self.shared.identity.connect(&leader.address).await?;
            let mut client = DispatcherClient::new(channel);
            client.reach_node(ReceiverStream::new(pieces)).await.map_err(|status| error_of(&status))
        };
        let answer = tokio::time::timeout(FORWARD_MAX, reached).await;
        let answer = answer.map_err(|_| Error::unavailable("the leader does not answer"))??;
        Ok(self.carried(answer.into_inner(), outgoing, |piece| piece, None))
    }

    /// On the leader, for a follower: carries between its call and the node.
    pub(crate) async fn serve_follower(
        &self,
        mut incoming: Streaming<TunnelPiece>,
    ) -> Result<ReceiverStream<Result<TunnelPiece, Status>>, Status> {
        let node = NodeId::from(first_target(&mut incoming).await?.as_str());
        let towards_node = self.ask(&node).await.map_err(crate::edit::status_of)?;
        let (outgoing, pieces) = mpsc::channel(PIECES_QUEUED_MAX);
        self.carry(towards_node, incoming, outgoing, Ok, None);
        Ok(ReceiverStream::new(pieces))
    }

    /// An agent opens a tunnel that it was asked for.
    pub(crate) async fn opened(
        &self,
        node: &NodeId,
        mut incoming: Streaming<TunnelPiece>,
    ) -> Result<ReceiverStream<Result<TunnelPiece, Status>>, Status> {
        let tunnel_id = first_target(&mut incoming).await?;
        let awaited = {
            let mut state = self.shared.state();
            let asked = state.awaited.get(&tunnel_id).is_some_and(|awaited| awaited.node == *node);
            if asked { state.awaited.remove(&tunnel_id) } else { None }
        };
        let awaited = awaited.ok_or_else(|| Status::not_found("nobody asked this node for that tunnel"))?;
        let (outgoing, pieces) = mpsc::channel(PIECES_QUEUED_MAX);
        let opened = awaited.opened.send(Opened { incoming, outgoing });
        opened.map_err(|_| Status::cancelled("the tunnel is not wanted any more"))?;
        Ok(ReceiverStream::new(pieces))
    }

    /// The node's agent listens on `requests`, until [`Tunnels::unlisten`].
    pub(crate) fn listen(&self, node: &NodeId, requests: Requests) {
        self.shared.listening.send_modify(|listening| drop(listening.insert(node.clone(), requests)));
    }

    /// That listening has ended; one that took over goes on.
    pub(crate) fn unlisten(&self, node: &NodeId, requests: &Requests) {
        self.shared.listening.send_if_modified(|listening| {
            let is_it = listening.get(node).is_some_and(|known| known.same_channel(requests));
            is_it && listening.remove(node).is_some()
        });
    }

    fn carried<O: Send + 'static>(
        &self,
        incoming: impl Stream<Item = Result<TunnelPiece, Status>> + Send + 'static,
        outgoing: mpsc::Sender<O>,
        wrap: fn(TunnelPiece) -> O,
        slot: Option<OwnedSemaphorePermit>,
    ) -> DuplexStream {
        let (ours, tunnels) = buffer();
        self.carry(tunnels, incoming, outgoing, wrap, slot);
        ours
    }

    fn carry<O: Send + 'static>(
        &self,
        io: DuplexStream,
        incoming: impl Stream<Item = Result<TunnelPiece, Status>> + Send + 'static,
        outgoing: mpsc::Sender<O>,
        wrap: fn(TunnelPiece) -> O,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let stop = self.shared.stop.clone();
        self.shared.carriers.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = stop.cancelled() => {}
                carried = carry(io, incoming, outgoing, wrap) => {
                    if let Err(error) = carried {
                        tracing::debug!(%error, "a tunnel broke off");
                    }
                }
            }
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an unanswered request out of the table.
struct Forget<'a> {
    shared: &'a Shared,
    tunnel_id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state().awaited.remove(self.tunnel_id);
    }
}

async fn first_target(incoming: &mut Streaming<TunnelPiece>) -> Result<String, Status> {
    let first = tokio::time::timeout(OPEN_MAX, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("the tunnel was not named in time"))??;
    first.map(|piece| piece.target).ok_or_else(|| Status::invalid_argument("an empty tunnel"))
}

/// The caller names the node.
fn away() -> Error {
    Error::unavailable("it is not connected to the leader")
}

fn error_of(status: &Status) -> Error {
    let kind = if status.code() == Code::NotFound { ErrorKind::NotFound } else { ErrorKind::Unavailable };
    Error { kind, message: status.message().to_owned() }
}
