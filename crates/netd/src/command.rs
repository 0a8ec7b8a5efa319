//! What can be asked of the worker.

use skep_model::error::Result;
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::{AttachRequest, ClusterNetState, DesiredNetwork, LocalNetState, NetdStatus};
use tokio::sync::oneshot;

type Reply<T> = oneshot::Sender<Result<T>>;

/// A request from the socket.
pub enum Command {
    SyncLocal(LocalNetState, Reply<()>),
    PutNetwork(DesiredNetwork, Reply<()>),
    RemoveNetwork(NetworkId, Reply<()>),
    Attach(AttachRequest, Reply<()>),
    Detach(ContainerId, Reply<()>),
    DetachEndpoint(EndpointId, Reply<()>),
    SetCluster(ClusterNetState, Reply<()>),
    ClearCluster(Reply<()>),
    Status(Reply<NetdStatus>),
    Verify(Reply<Vec<String>>),
    /// By a service's id or name.
    Trace(String, Reply<ServiceTrace>),
}

/// Everything that makes the worker move, besides time.
pub enum Input {
    Command(Box<Command>),
    KernelChanged,
}
