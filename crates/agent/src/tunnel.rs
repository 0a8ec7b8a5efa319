//! Tunnels that managers ask for: each is one outgoing connection of ours, inside which
//! the manager speaks HTTP to this node about the containers of its tasks.

use crate::session::Dial;
use async_trait::async_trait;
use skep_model::Error;
use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
use skep_proto::dispatcher::{TunnelPiece, TunnelRequest};
use skep_proto::tunnel::{PIECES_QUEUED_MAX, buffer, carry, opening};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tunnels open at a time; a manager that wants more is told no.
const TUNNELS_MAX: usize = 256;
/// How long connecting and opening may take; the manager has given up by then.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// What this node answers to managers inside a tunnel.
#[async_trait]
pub trait TaskApi: Send + Sync + 'static {
    /// Serves one connection about the containers of tasks, and about nothing else, until
    /// the other side has ended it.
    async fn serve(&self, connection: DuplexStream);
}

/// Opens and serves tunnels; they outlive the session that brought the request.
pub(crate) struct Tunnels {
    dial: Arc<dyn Dial>,
    api: Arc<dyn TaskApi>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tunnels {
    pub(crate) fn new(dial: Arc<dyn Dial>, api: Arc<dyn TaskApi>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { dial, api, slots: Arc::new(Semaphore::new(TUNNELS_MAX)), tasks, stop }
    }

    /// Opens a tunnel to the manager at `address` in the background.
    pub(crate) fn open(&self, address: &str, request: TunnelRequest) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::warn!(manager = address, "refusing a tunnel: {TUNNELS_MAX} are open");
            return;
        };
        let (dial, api, stop) = (self.dial.clone(), self.api.clone(), self.stop.clone());
        let address = address.to_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = tunnel(&*dial, &*api, &address, request, slot) => {
                    if let Err(error) = served {
                        tracing::debug!(manager = address, %error, "a tunnel ended early");
                    }
                }
            }
        });
    }
}

async fn tunnel(
    dial: &dyn Dial,
    api: &dyn TaskApi,
    address: &str,
    request: TunnelRequest,
    _slot: OwnedSemaphorePermit,
) -> Result<(), Error> {
    let (outgoing, pieces) = mpsc::channel::<TunnelPiece>(PIECES_QUEUED_MAX);
    // The queue is empty.
    let _ = outgoing.try_send(opening(request.tunnel_id));
    let opened = async {
        let channel = dial.dial(address).await?;
        let answer = DispatcherClient::new(channel).open_tunnel(ReceiverStream::new(pieces)).await;
        answer.map_err(|status| Error::unavailable(status.message()))
    };
    let late = |_| Error::unavailable("the manager does not answer");
    let incoming = tokio::time::timeout(OPEN_MAX, opened).await.map_err(late)??.into_inner();
    let (served, tunnels) = buffer();
    let (carried, ()) = tokio::join!(carry(tunnels, incoming, outgoing, |piece| piece), api.serve(served));
    carried.map_err(Error::from)
}
