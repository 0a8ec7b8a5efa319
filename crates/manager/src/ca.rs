//! Signs certificates: for joining nodes by token, for members by the certificate they have.

use crate::access::Caller;
use crate::edit::{edit, status_of};
use crate::ids::RandomIds;
use crate::raft::{Replicator, now};
use skep_cluster::Store;
use skep_cluster::edit::join_node;
use skep_cluster::ids::IdSource;
use skep_identity::{CertificateAuthority, JoinToken, NodeSubject};
use skep_model::Error;
use skep_model::cluster::{Cluster, Meta};
use skep_model::id::NodeId;
use skep_model::node::{Availability, Node, NodeSpec, NodeStatus, Role};
use skep_proto::ca::ca_server::Ca;
use skep_proto::ca::node_ca_server::NodeCa;
use skep_proto::ca::{GetRootCaCertificateRequest, GetRootCaCertificateResponse};
use skep_proto::ca::{IssueNodeCertificateRequest, IssueNodeCertificateResponse};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Serves `Ca` and `NodeCa`.
#[derive(Clone)]
pub(crate) struct CaService {
    replicator: Replicator,
}

impl CaService {
    pub(crate) fn new(replicator: Replicator) -> Self {
        Self { replicator }
    }

    fn cluster(&self) -> Result<Arc<Cluster>, Status> {
        let store = self.replicator.store().snapshot();
        store.cluster().cloned().ok_or_else(|| Status::unavailable("this manager has no cluster state yet"))
    }

    /// A node that shows a join token: gets a new id and the token's role.
    async fn join(
        &self,
        cluster: &Cluster,
        request: &IssueNodeCertificateRequest,
        address: String,
    ) -> Result<Issued, Status> {
        let role = role_of_token(cluster, &request.token)?;
        let availability = parse_availability(&request.availability)?;
        let node_id = NodeId(RandomIds.swarm_id());
        let issued = issue(cluster, &request.csr_pem, &node_id, role)?;
        let node = Node {
            id: node_id,
            spec: NodeSpec { role, availability, ..NodeSpec::default() },
            status: NodeStatus { address, ..NodeStatus::default() },
            role,
            ..Node::default()
        };
        // The node is a fact before its certificate leaves this manager.
        let decide = |store: &Store, now, _: &mut dyn IdSource| {
            let meta = Meta { created_at: now, updated_at: now, ..Meta::default() };
            Ok(((), join_node(store, Node { meta, ..node.clone() })?))
        };
        edit(&self.replicator, decide).await.map_err(status_of)?;
        Ok(issued)
    }

    /// A member that shows its certificate: keeps its id, gets the role the swarm gave it.
    async fn renew(
        &self,
        cluster: &Cluster,
        request: &IssueNodeCertificateRequest,
        caller: &Caller,
    ) -> Result<Issued, Status> {
        let Some(peer) = &caller.peer else {
            return Err(Status::invalid_argument("A valid join token is necessary to join this cluster"));
        };
        let member = |store: &Store| {
            let node = store.node(peer.node_id.as_str()).filter(|_| peer.cluster_id == cluster.id).cloned();
            node.ok_or_else(|| Error::forbidden("the node is not a member of this cluster"))
        };
        let node = member(&self.replicator.store().snapshot()).map_err(status_of)?;
        let role = node.role;
        let issued = issue(cluster, &request.csr_pem, &node.id, role)?;
        Ok(issued)
    }
}

struct Issued {
    node_id: NodeId,
    chain_pem: String,
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn get_root_ca_certificate(
        &self,
        _request: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let certificate_pem = self.cluster()?.root_ca.cert_pem.clone();
        Ok(Response::new(GetRootCaCertificateResponse { certificate_pem }))
    }
}

#[tonic::async_trait]
impl NodeCa for CaService {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("the caller is not known"))?;
        let request = request.into_inner();
        let cluster = self.cluster()?;
        let issued = if request.token.is_empty() {
            self.renew(&cluster, &request, &caller).await?
        } else {
            self.join(&cluster, &request, caller.address.ip().to_string()).await?
        };
        tracing::info!(node = %issued.node_id, "issued a node certificate");
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id: issued.node_id.0,
            certificate_chain_pem: issued.chain_pem,
            root_ca_pem: cluster.root_ca.cert_pem.clone(),
        }))
    }
}

fn issue(cluster: &Cluster, csr_pem: &str, node_id: &NodeId, role: Role) -> Result<Issued, Status> {
    let subject = NodeSubject { node_id: node_id.clone(), role, cluster_id: cluster.id.clone() };
    let signed = CertificateAuthority::from_pem(&cluster.root_ca.cert_pem, &cluster.root_ca.key_pem)
        .and_then(|authority| authority.sign(csr_pem, &subject, now(), cluster.spec.node_cert_expiry));
    let chain_pem = signed.map_err(|e| status_of(Error::from(e)))?;
    Ok(Issued { node_id: node_id.clone(), chain_pem })
}

/// Both tokens are always compared, so that timing does not tell which one came close.
fn role_of_token(cluster: &Cluster, token: &str) -> Result<Role, Status> {
    let token: JoinToken = token.parse().map_err(|e| status_of(Error::from(e)))?;
    let worker = token.matches(&cluster.root_ca.worker_token);
    let manager = token.matches(&cluster.root_ca.manager_token);
    match (worker, manager) {
        (_, true) => Ok(Role::Manager),
        (true, false) => Ok(Role::Worker),
        (false, false) => Err(Status::invalid_argument("A valid join token is necessary to join this cluster")),
    }
}

fn parse_availability(text: &str) -> Result<Availability, Status> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(Status::invalid_argument(format!("invalid availability {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_the_role_it_was_made_for() {
        let authority = CertificateAuthority::create(skep_model::Timestamp(1_800_000_000_000_000_000)).unwrap();
        let token = || JoinToken::create(authority.digest().unwrap()).unwrap().to_text();
        let mut cluster = Cluster::default();
        cluster.root_ca.worker_token = token();
        cluster.root_ca.manager_token = token();
        assert_eq!(role_of_token(&cluster, &cluster.root_ca.worker_token).unwrap(), Role::Worker);
        assert_eq!(role_of_token(&cluster, &cluster.root_ca.manager_token).unwrap(), Role::Manager);
        assert!(role_of_token(&cluster, &token()).is_err());
        assert!(role_of_token(&cluster, "garbage").is_err());
    }
}
