//! The daemon's side of netd's socket.

use hyper_util::rt::TokioIo;
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::{AttachRequest, ClusterNetState, DesiredNetwork, LocalNetState, NetdStatus};
use skep_model::{Error, ErrorKind, Result};
use skep_proto::codec;
use skep_proto::netd::netd_client::NetdClient as Rpc;
use skep_proto::netd::{Empty, ObjectId, State};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// netd is started again by its supervisor; calls wait for that long.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// The largest state that netd takes or gives.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Speaks to netd; reconnects by itself, with a deadline on every call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetdClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    channel: OnceLock<Channel>,
}

impl NetdClient {
    /// A client for the socket at `path`; connects at first use.
    pub fn new(path: &Path) -> Self {
        Self { inner: Arc::new(Inner { path: path.to_owned(), channel: OnceLock::new() }) }
    }

    pub async fn sync_local(&self, state: LocalNetState) -> Result<()> {
        let body = codec::encode(&state);
        self.call(|mut rpc| {
            let state = State { body: body.clone() };
            async move { rpc.sync_local(state).await.map(|_| ()) }
        })
        .await
    }

    pub async fn put_network(&self, network: DesiredNetwork) -> Result<()> {
        let body = codec::encode(&network);
        self.call(|mut rpc| {
            let state = State { body: body.clone() };
            async move { rpc.put_network(state).await.map(|_| ()) }
        })
        .await
    }

    pub async fn remove_network(&self, id: &NetworkId) -> Result<()> {
        self.call(|mut rpc| {
            let id = ObjectId { id: id.to_string() };
            async move { rpc.remove_network(id).await.map(|_| ()) }
        })
        .await
    }

    pub async fn attach(&self, request: AttachRequest) -> Result<()> {
        let body = codec::encode(&request);
        self.call(|mut rpc| {
            let state = State { body: body.clone() };
            async move { rpc.attach(state).await.map(|_| ()) }
        })
        .await
    }

    pub async fn detach(&self, container: &ContainerId) -> Result<()> {
        self.call(|mut rpc| {
            let id = ObjectId { id: container.to_string() };
            async move { rpc.detach(id).await.map(|_| ()) }
        })
        .await
    }

    pub async fn detach_endpoint(&self, endpoint: &EndpointId) -> Result<()> {
        self.call(|mut rpc| {
            let id = ObjectId { id: endpoint.to_string() };
            async move { rpc.detach_endpoint(id).await.map(|_| ()) }
        })
        .await
    }

    /// Replaces the swarm's section; answers once the kernel has it.
    pub async fn set_cluster(&self, state: ClusterNetState) -> Result<()> {
        let body = codec::encode(&state);
        self.call(|mut rpc| {
            let state = State { body: body.clone() };
            async move { rpc.set_cluster(state).await.map(|_| ()) }
        })
        .await
    }

    pub async fn clear_cluster(&self) -> Result<()> {
        self.call(|mut rpc| async move { rpc.clear_cluster(Empty {}).await.map(|_| ()) }).await
    }

    pub async fn status(&self) -> Result<NetdStatus> {
        let answer = self.call(|mut rpc| async move { rpc.status(Empty {}).await }).await?;
        codec::decode(&answer.into_inner().body).map_err(|error| Error::internal(error.to_string()))
    }

    /// Desired against actual, a line a difference.
    pub async fn verify(&self) -> Result<Vec<String>> {
        let answer = self.call(|mut rpc| async move { rpc.verify(Empty {}).await }).await?;
        Ok(answer.into_inner().lines)
    }

    /// The path of a service's packets on this node; the service by its id or name.
    pub async fn trace(&self, service: &str) -> Result<ServiceTrace> {
        let answer = self
            .call(|mut rpc| {
                let id = ObjectId { id: service.to_owned() };
                async move { rpc.trace(id).await }
            })
            .await?;
        codec::decode(&answer.into_inner().body).map_err(|error| Error::internal(error.to_string()))
    }

    /// Every call may be repeated: netd's operations are idempotent, so a call whose
    /// answer was lost with the process is simply made again.
    async fn call<T, F>(&self, attempt: impl Fn(Rpc<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let give_up = Instant::now() + RECONNECT_TIMEOUT;
        loop {
            let rpc = Rpc::new(self.channel())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let status = match tokio::time::timeout(CALL_TIMEOUT, attempt(rpc)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(status)) => status,
                Err(_) => return Err(Error::unavailable("the network daemon did not answer in time")),
            };
            if !is_connection_loss(&status) {
                return Err(error_of(&status));
            }
            if Instant::now() >= give_up {
                return Err(Error::unavailable(format!("cannot reach the network daemon: {}", status.message())));
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn channel(&self) -> Channel {
        let connect = || {
            let path = self.inner.path.clone();
            // The address is never looked at: the connector knows the path.
            Endpoint::from_static("http://netd").connect_with_connector_lazy(tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            }))
        };
        self.inner.channel.get_or_init(connect).clone()
    }
}

/// Whether the connection failed, as opposed to netd having answered.
fn is_connection_loss(status: &Status) -> bool {
    use std::error::Error as _;
    status.source().is_some() && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

fn error_of(status: &Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::Aborted => ErrorKind::Conflict,
        Code::AlreadyExists => ErrorKind::NotModified,
        Code::PermissionDenied => ErrorKind::Forbidden,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Unimplemented => ErrorKind::NotImplemented,
        _ => ErrorKind::Internal,
    };
    Error { kind, message: status.message().to_owned() }
}

/// The status that [`error_of`] turns back.
pub(crate) fn status_of(error: &Error) -> Status {
    let code = match error.kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::NotModified => Code::AlreadyExists,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::NotImplemented => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, error.message.clone())
}
