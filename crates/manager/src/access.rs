//! Who may call what. One table, checked before any handler sees a request.

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use skep_identity::Peer;
use skep_model::id::ClusterId;
use skep_model::node::Role;
use std::net::SocketAddr;
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
    Manager,
}

/// Every method we serve. What is not listed is refused.
pub(crate) const METHODS: [(&str, Allowed); 17] = [
    ("/skep.ca.v1.Ca/GetRootCaCertificate", Allowed::Anyone),
    ("/skep.ca.v1.NodeCa/IssueNodeCertificate", Allowed::Anyone),
    ("/skep.dispatcher.v1.Dispatcher/Session", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/Heartbeat", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/UpdateTaskStatus", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/Assignments", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/TunnelRequests", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/OpenTunnel", Allowed::Member),
    ("/skep.dispatcher.v1.Dispatcher/ReachNode", Allowed::Manager),
    ("/skep.raft.v1.Raft/AppendEntries", Allowed::Manager),
    ("/skep.raft.v1.Raft/Vote", Allowed::Manager),
    ("/skep.raft.v1.Raft/PreVote", Allowed::Manager),
    ("/skep.raft.v1.Raft/TransferLeader", Allowed::Manager),
    ("/skep.raft.v1.Raft/InstallSnapshot", Allowed::Manager),
    ("/skep.raft.v1.Raft/Join", Allowed::Manager),
    ("/skep.raft.v1.Raft/Leave", Allowed::Manager),
    ("/skep.raft.v1.Raft/Propose", Allowed::Manager),
];

/// The other end of a connection, put into every request on it by the listener.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None`: it showed no certificate.
    pub(crate) peer: Option<Peer>,
    pub(crate) address: SocketAddr,
}

/// Whether a caller may use a method of this cluster's managers.
pub(crate) fn check(method: &str, peer: Option<&Peer>, cluster: &ClusterId) -> Result<(), Status> {
    let listed = METHODS.iter().find(|(name, _)| *name == method);
    let Some((_, allowed)) = listed else {
        return Err(Status::unimplemented(format!("unknown method {method}")));
    };
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
        (Allowed::Manager, Role::Worker) => Err(Status::permission_denied("only managers may make this call")),
        (Allowed::Anyone | Allowed::Member, _) | (Allowed::Manager, Role::Manager) => Ok(()),
    }
}

/// Puts [`check`] before all services.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    cluster: ClusterId,
}

impl AccessLayer {
    pub(crate) fn new(cluster: ClusterId) -> Self {
        Self { cluster }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, cluster: self.cluster.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Access<S> {
    inner: S,
    cluster: ClusterId,
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
        let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.as_ref());
        match check(request.uri().path(), peer, &self.cluster) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => {
                tracing::debug!(method = request.uri().path(), %status, "call refused");
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn peer(role: Role, cluster: &str) -> Peer {
        Peer { node_id: "n".into(), role, cluster_id: cluster.into() }
    }

    fn code(method: &str, peer: Option<&Peer>) -> Code {
        check(method, peer, &"ours".into()).err().map_or(Code::Ok, |status| status.code())
    }

    #[test]
    fn every_method_lets_in_its_roles_and_nobody_else() {
        for (method, allowed) in METHODS {
            let (worker, manager) = (peer(Role::Worker, "ours"), peer(Role::Manager, "ours"));
            let expect = match allowed {
                Allowed::Anyone => [Code::Ok, Code::Ok, Code::Ok],
                Allowed::Member => [Code::Unauthenticated, Code::Ok, Code::Ok],
                Allowed::Manager => [Code::Unauthenticated, Code::PermissionDenied, Code::Ok],
            };
            let got = [code(method, None), code(method, Some(&worker)), code(method, Some(&manager))];
            assert_eq!(got, expect, "{method}");
            let stranger = peer(Role::Manager, "theirs");
            let expect = if allowed == Allowed::Anyone { Code::Ok } else { Code::PermissionDenied };
            assert_eq!(code(method, Some(&stranger)), expect, "{method}");
        }
    }

    #[test]
    fn an_unlisted_method_is_refused_even_to_a_manager() {
        let manager = peer(Role::Manager, "ours");
        assert_eq!(code("/skep.raft.v1.Raft/Unknown", Some(&manager)), Code::Unimplemented);
    }

    #[test]
    fn the_table_lists_every_method_of_the_contract() {
        let contract = [
            ("ca", include_str!("../../../proto/ca.proto")),
            ("dispatcher", include_str!("../../../proto/dispatcher.proto")),
            ("raft", include_str!("../../../proto/raft.proto")),
        ];
        let mut count = 0;
        for (package, text) in contract {
            let mut service = "";
            for line in text.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["service", name, ..] => service = name,
                    ["rpc", call, ..] => {
                        let name = call.split('(').next().unwrap();
                        let method = format!("/skep.{package}.v1.{service}/{name}");
                        assert!(METHODS.iter().any(|(listed, _)| *listed == method), "{method}");
                        count += 1;
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(count, METHODS.len());
    }
}
