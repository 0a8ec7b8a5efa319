//! The door of the cluster port. Whoever connects has to finish a TLS handshake in time; how
//! many may try at once is limited, in all and for each address, and so is how long a caller
//! without a certificate may stay. Removed nodes do not get in, and those inside are put out.

mod connection;
mod connections;
mod handshakes;
mod refusals;

pub(crate) use connection::Connection;
pub(crate) use refusals::Refusals;

use crate::store_handle::{Changes, StoreHandle};
use connection::Limits;
use connections::Connections;
use handshakes::Handshakes;
use skep_cluster::command::Kind;
use skep_cluster::edit::is_locked_out;
use skep_identity::net::{TcpListener, TcpStream};
use skep_identity::{Identity, Peer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Open connections, handshakes included. A swarm of 10,000 nodes keeps one each.
const CONNECTIONS_MAX: usize = 12_000;
/// Finished connections of callers without a certificate: joining nodes.
const ANONYMOUS_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the door needs to know.
pub(crate) struct Door {
    identity: Identity,
    store: StoreHandle,
    refusals: Arc<Refusals>,
    connections: Connections,
    handshakes: Handshakes,
    anonymous: Arc<Semaphore>,
}

impl Door {
    pub(crate) fn new(identity: Identity, store: StoreHandle, refusals: Arc<Refusals>) -> Arc<Self> {
        let (connections, handshakes) = (Connections::default(), Handshakes::default());
        let anonymous = Arc::new(Semaphore::new(ANONYMOUS_MAX));
        Arc::new(Self { identity, store, refusals, connections, handshakes, anonymous })
    }

    /// Accepts until `stop`; handshakes run beside each other.
    pub(crate) async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        accepted: mpsc::Sender<io::Result<Connection>>,
        stop: &CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        loop {
            let connection = async {
                // The semaphore is never closed.
                let permit = permits.clone().acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, stream) = tokio::select! {
                () = stop.cancelled() => return,
                connection = connection => connection,
            };
            let (stream, address) = match stream {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(trying) = self.handshakes.begin(address.ip()) else {
                self.refusals.note(address.ip(), "too many TLS handshakes at once");
                continue;
            };
            let (door, accepted) = (self.clone(), accepted.clone());
            tasks.spawn(async move {
                let entered = door.let_in(stream, address).await;
                drop(trying);
                match entered {
                    // Refused only when the server has stopped.
                    Ok((stream, limits)) => {
                        drop(accepted.send(Ok(Connection::new(stream, limits.with_permit(permit)))).await);
                    }
                    Err(reason) => door.refusals.note(address.ip(), &reason),
                }
            });
        }
    }

    /// The handshake, and who may come in after it; the reason if not.
    async fn let_in(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Limits), String> {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let acceptor = TlsAcceptor::from(self.identity.server_config());
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        let stream = stream.map_err(|_| "no TLS handshake in time".to_owned())?;
        let stream = stream.map_err(|e| format!("TLS handshake failed: {e}"))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = certificate.map(|der| Peer::from_der(der)).transpose().map_err(|e| e.to_string())?;
        let Some(peer) = peer else {
            let place = self.anonymous.clone().try_acquire_owned();
            let place = place.map_err(|_| "too many callers without a certificate".to_owned())?;
            return Ok((stream, Limits::anonymous(address, place)));
        };
        let entry = self.connections.enter(&peer.node_id);
        // Looked up after the entry: a removal from here on finds the connection.
        if is_locked_out(&self.store.snapshot(), &peer.node_id) {
            return Err(format!("node {} was removed from the swarm", peer.node_id));
        }
        Ok((stream, Limits::member(address, peer, entry)))
    }

    /// Cuts the connections of nodes that are removed, until the store is gone.
    pub(crate) async fn put_out_removed(&self) {
        let mut changes = self.store.changes();
        loop {
            let concerns_us = match changes.recv().await {
                Ok(Changes::Keys(_, keys, _)) => keys.iter().any(|key| key.kind == Kind::Cluster),
                Ok(Changes::All) | Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return std::future::pending().await,
            };
            if concerns_us && let Some(cluster) = self.store.snapshot().cluster() {
                self.connections.cut(cluster.removed_nodes.keys());
            }
        }
    }
}
