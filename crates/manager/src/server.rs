//! The one listener of a manager: TLS with the node's identity, all gRPC services behind it.

use crate::access::AccessLayer;
use crate::ca::CaService;
use crate::dispatch::Dispatcher;
use crate::door::{Door, Refusals};
use crate::raft::{RAFT_MESSAGE_BYTES_MAX, RaftService, Replicator};
use skep_identity::Identity;
use skep_identity::net::TcpListener;
use skep_model::Error;
use skep_proto::ca::ca_server::CaServer;
use skep_proto::ca::node_ca_server::NodeCaServer;
use skep_proto::dispatcher::dispatcher_server::DispatcherServer;
use skep_proto::raft::raft_server::RaftServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Finished handshakes that wait for the server.
const ACCEPTED_QUEUE_MAX: usize = 16;
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Names and values of one request's headers together.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Open calls get this long to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A batch of status reports.
const DISPATCHER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A certificate request and a token, from anyone.
const CA_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What the listener serves.
pub(crate) struct Services {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) ca: CaService,
    pub(crate) raft: RaftService,
    pub(crate) replicator: Replicator,
    pub(crate) refusals: Arc<Refusals>,
}

/// Serves until `stop`, then drains.
pub(crate) async fn run(
    listener: TcpListener,
    identity: Identity,
    services: Services,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Services { dispatcher, ca, raft, replicator, refusals } = services;
    let (sender, accepted) = mpsc::channel(ACCEPTED_QUEUE_MAX);
    let door = Door::new(identity.clone(), replicator.store().clone(), refusals.clone());
    let router = Server::builder()
        .layer(AccessLayer::new(identity.cluster_id(), replicator, refusals))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(DispatcherServer::new(dispatcher).max_decoding_message_size(DISPATCHER_MESSAGE_BYTES_MAX))
        .add_service(CaServer::new(ca.clone()).max_decoding_message_size(CA_MESSAGE_BYTES_MAX))
        .add_service(NodeCaServer::new(ca).max_decoding_message_size(CA_MESSAGE_BYTES_MAX))
        .add_service(
            RaftServer::new(raft)
                .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX),
        );
    let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.clone().cancelled_owned());
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = door.put_out_removed() => Ok(()),
        () = door.clone().accept(listener, sender, &stop) => {
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
