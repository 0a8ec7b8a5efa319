//! The one listener of a manager: TLS with the node's identity, all gRPC services behind it.

use crate::access::{AccessLayer, Caller};
use crate::ca::CaService;
use crate::dispatch::Dispatcher;
use crate::raft::{RAFT_MESSAGE_BYTES_MAX, RaftService};
use skep_identity::{Identity, Peer};
use skep_model::Error;
use skep_proto::ca::ca_server::CaServer;
use skep_proto::ca::node_ca_server::NodeCaServer;
use skep_proto::dispatcher::dispatcher_server::DispatcherServer;
use skep_proto::raft::raft_server::RaftServer;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// Open connections, handshakes included. A swarm of 10,000 nodes keeps one each.
const CONNECTIONS_MAX: usize = 12_000;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Finished handshakes that wait for the server.
const ACCEPTED_QUEUE_MAX: usize = 16;
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Open calls get this long to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A batch of status reports.
const DISPATCHER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the listener serves.
pub(crate) struct Services {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) ca: CaService,
    pub(crate) raft: RaftService,
}

/// Serves until `stop`, then drains.
pub(crate) async fn run(
    listener: TcpListener,
    identity: Identity,
    services: Services,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (sender, accepted) = mpsc::channel(ACCEPTED_QUEUE_MAX);
    let router = Server::builder()
        .layer(AccessLayer::new(identity.cluster_id()))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(DispatcherServer::new(services.dispatcher).max_decoding_message_size(DISPATCHER_MESSAGE_BYTES_MAX))
        .add_service(CaServer::new(services.ca.clone()))
        .add_service(NodeCaServer::new(services.ca))
        .add_service(
            RaftServer::new(services.raft)
                .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX),
        );
    let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.clone().cancelled_owned());
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = accept(listener, identity, sender, &stop) => {
            match tokio::time::timeout(DRAIN_TIMEOUT, serving).await {
                Ok(served) => served,
                Err(_) => {
                    tracing::warn!("calls were still open at shutdown");
                    Ok(())
                }
            }
        }
    };
    served.map_err(|e| Error::internal(format!("the manager's listener failed: {e}")))
}

/// Accepts until `stop`; handshakes run beside each other.
async fn accept(
    listener: TcpListener,
    identity: Identity,
    accepted: mpsc::Sender<io::Result<Connection>>,
    stop: &CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = TaskTracker::new();
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
        match (permit, stream) {
            (Some(permit), Ok((stream, address))) => {
                let (acceptor, accepted) = (TlsAcceptor::from(identity.server_config()), accepted.clone());
                handshakes.spawn(async move {
                    match handshake(acceptor, stream, address, permit).await {
                        // Refused only when the server has stopped.
                        Ok(connection) => drop(accepted.send(Ok(connection)).await),
                        Err(error) => tracing::debug!(%address, %error, "TLS handshake failed"),
                    }
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (None, Ok(_)) => return,
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = certificate.map(|der| Peer::from_der(der)).transpose().map_err(io::Error::other)?;
    Ok(Connection { stream, caller: Caller { peer, address }, _permit: permit })
}

/// An accepted connection that knows who is at the other end.
struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
