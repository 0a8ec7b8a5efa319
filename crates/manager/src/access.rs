//! Who may call what. One table, checked before any handler sees a request.

use crate::door::Refusals;
use crate::raft::Replicator;
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use skep_cluster::edit::is_locked_out;
use skep_identity::Peer;
use skep_model::id::ClusterId;
use skep_model::node::Role;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tower::{Layer, Service};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Also a node without a certificate.
    Anyone,
    /// Any member of the swarm.
    Member,
    /// Any member whose certificate says manager. The protocol of Raft itself asks no store,
    /// for a store that is behind must be able to catch up.
    Manager,
    /// As above, and the store must not say that the node is a worker by now.
    PresentManager,
}

/// Every method we serve. What is not listed is refused.
pub(crate) const METHODS: &[(&str, Allowed)] = &[
    ("/skep.ca.v1.Ca/GetRootCaCertificate", Allowed::Anyone),
    ("/skep.ca.v1.NodeCa/IssueNodeCertificate", Allowed::Anyone),
    ("/skep.dispatcher.v1.Dispatcher/Session", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/Heartbeat", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/UpdateTaskStatus", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/Assignments", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/TunnelRequests", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/OpenTunnel", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/ReachNode", Allowed::Manager),
    ("/skep.dispatcher.v1.Dispatcher/ReportNetwork", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/AwaitNetwork", Allowed::Member),
    ("/skep.raft.v1.Raft/AppendEntries", Allowed::Manager),
    ("/skep.raft.v1.Raft/Vote", Allowed::Manager),
    ("/skep.raft.v1.Raft/PreVote", Allowed::Manager),
    ("/skep.raft.v1.Raft/TransferLeader", Allowed::Manager),
    ("/skep.raft.v1.Raft/InstallSnapshot", Allowed::Manager),
    ("/skep.raft.v1.Raft/Join", Allowed::PresentManager),
    ("/skep.raft.v1.Raft/Leave", Allowed::PresentManager),
    ("/skep.raft.v1.Raft/Propose", Allowed::PresentManager),
];

/// The other end of a connection, put into every request on it by the listener.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None`: it showed no certificate.
    pub(crate) peer: Option<Peer>,
    pub(crate) address: SocketAddr,
}

/// What this manager knows of the node at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// It was removed from the swarm.
    pub(crate) locked_out: bool,
    /// It is a worker by now, whatever its certificate says. Only the leader knows.
    pub(crate) demoted: bool,
}

/// Whether a caller may use a method of this cluster's managers.
pub(crate) fn check(method: &str, peer: Option<&Peer>, cluster: &ClusterId, standing: Standing) -> Result<(), Status> {
    let listed = METHODS.iter().find(|(name, _)| *name == method);
    let Some((_, allowed)) = listed else {
        return Err(Status::unimplemented(format!("unknown method {method}")));
    };
    if standing.locked_out {
        return Err(Status::permission_denied("the node was removed from the swarm"));
    }
    if *allowed == Allowed::Anyone {
        return Ok(());
    }
    let Some(peer) = peer else {
        return Err(Status::unauthenticated("this call needs a node certificate"));
    };
    if peer.cluster_id != *cluster {
        return Err(Status::permission_denied("the certificate is of another cluster"));
    }
    match (allowed, peer.role) {
        (Allowed::Manager | Allowed::PresentManager, Role::Worker) => {
            Err(Status::permission_denied("only managers may make this call"))
        }
        (Allowed::PresentManager, Role::Manager) if standing.demoted => {
            Err(Status::permission_denied("the node is not a manager any more"))
        }
        (Allowed::Anyone | Allowed::Member, _) | (Allowed::Manager | Allowed::PresentManager, Role::Manager) => Ok(()),
    }
}

/// Puts [`check`] before all services.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    guard: Arc<Guard>,
}

struct Guard {
    cluster: ClusterId,
    replicator: Replicator,
    refusals: Arc<Refusals>,
}

impl AccessLayer {
    pub(crate) fn new(cluster: ClusterId, replicator: Replicator, refusals: Arc<Refusals>) -> Self {
        Self { guard: Arc::new(Guard { cluster, replicator, refusals }) }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, guard: self.guard.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Access<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl Guard {
    fn check(&self, method: &str, caller: Option<&Caller>) -> Result<(), Status> {
        let peer = caller.and_then(|caller| caller.peer.as_ref());
        let checked = check(method, peer, &self.cluster, peer.map(|peer| self.standing(peer)).unwrap_or_default());
        if let (Err(status), Some(caller)) = (&checked, caller) {
            self.refusals.note(caller.address.ip(), format_args!("{method}: {}", status.message()));
        }
        checked
    }

    fn standing(&self, peer: &Peer) -> Standing {
        let store = self.replicator.store().snapshot();
        let is_worker = store.node(peer.node_id.as_str()).is_some_and(|node| node.role == Role::Worker);
        Standing { locked_out: is_locked_out(&store, &peer.node_id), demoted: is_worker && self.replicator.is_leader() }
    }
}

impl<S, B, A> Service<Request<B>> for Access<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    A: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.guard.check(request.uri().path(), request.extensions().get::<Caller>()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
