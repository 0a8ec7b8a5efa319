//! Signs certificates: for joining nodes by token, for members by the certificate they have.

use crate::access::Caller;
use crate::door::Refusals;
use crate::edit::{edit, status_of};
use crate::external_ca::{ExternalSigner, of_root};
use crate::ids::RandomIds;
use crate::raft::{Replicator, now};
use skep_cluster::Store;
use skep_cluster::command::{Object, Write};
use skep_cluster::edit::join_node;
use skep_cluster::ids::IdSource;
use skep_identity::{CertStore, CertificateAuthority, CertificateRequest, Identity, JoinToken, NodeSubject, Peer};
use skep_identity::{StoredIdentity, chain_validity, public_key_digest};
use skep_model::Error;
use skep_model::cluster::{Cluster, Meta};
use skep_model::id::NodeId;
use skep_model::node::{Availability, Node, NodeCertificate, NodeSpec, NodeStatus, Role};
use skep_proto::ca::ca_server::Ca;
use skep_proto::ca::node_ca_server::NodeCa;
use skep_proto::ca::{GetRootCaCertificateRequest, GetRootCaCertificateResponse};
use skep_proto::ca::{IssueNodeCertificateRequest, IssueNodeCertificateResponse};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Serves `Ca` and `NodeCa`.
#[derive(Clone)]
pub(crate) struct CaService {
    replicator: Replicator,
    refusals: Arc<Refusals>,
    external: ExternalSigner,
}

impl CaService {
    pub(crate) fn new(replicator: Replicator, refusals: Arc<Refusals>, external: ExternalSigner) -> Self {
        Self { replicator, refusals, external }
    }

    fn cluster(&self) -> Result<Arc<Cluster>, Status> {
        let store = self.replicator.store().snapshot();
        store.cluster().cloned().ok_or_else(|| Status::unavailable("this manager has no cluster state yet"))
    }

    /// Signs for this manager itself, without a connection.
    ///
    /// # Errors
    /// When there is no leader, or the certificate cannot be saved.
    pub(crate) async fn renew_own(&self, identity: &Identity, certificates: &CertStore) -> Result<(), Error> {
        let failed = |status: Status| Error::unavailable(status.message());
        let cluster = self.cluster().map_err(failed)?;
        let key = CertificateRequest::create()?;
        let request = IssueNodeCertificateRequest { csr_pem: key.pem().to_owned(), ..Default::default() };
        let (node_id, cluster_id) = (identity.node_id(), identity.cluster_id());
        let peer = Peer { node_id, role: identity.role(), cluster_id };
        let caller = Caller { peer: Some(peer), address: (Ipv4Addr::LOCALHOST, 0).into() };
        let issued = self.renew(&cluster, &request, &caller).await.map_err(failed)?;
        let parts = StoredIdentity {
            root_pem: cluster.root_ca.trust_pem(),
            chain_pem: issued.chain_pem,
            key_pem: key.key_pem().to_owned().into(),
        };
        certificates.save(&parts)?;
        Ok(identity.replace(&parts)?)
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
        let issued = issue(cluster, &self.external, &request.csr_pem, &node_id, role).await.map_err(status_of)?;
        let node = Node {
            id: node_id,
            spec: NodeSpec { role, availability, ..NodeSpec::default() },
            status: NodeStatus { address, ..NodeStatus::default() },
            role,
            certificate: issued.certificate.clone(),
            ..Node::default()
        };
        // The node is a fact before its certificate leaves this manager.
        let decide = |store: &Store, now, _: &mut dyn IdSource| {
            check_unused(store, &node.certificate.key_digest)?;
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
        let issued = issue(cluster, &self.external, &request.csr_pem, &node.id, role).await.map_err(status_of)?;
        let decide = |store: &Store, _, _: &mut dyn IdSource| {
            let node = member(store)?;
            if node.role != role {
                return Err(Error::unavailable("the node's role changes right now: ask again"));
            }
            let renewed = Node { certificate: issued.certificate.clone(), ..Node::clone(&node) };
            Ok(((), vec![Write::put(Object::Node(Box::new(renewed)))]))
        };
        edit(&self.replicator, decide).await.map_err(status_of)?;
        Ok(issued)
    }
}

pub(crate) struct Issued {
    node_id: NodeId,
    pub(crate) chain_pem: String,
    pub(crate) certificate: NodeCertificate,
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn get_root_ca_certificate(
        &self,
        _request: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let certificate_pem = self.cluster()?.root_ca.trust_pem();
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
            self.renew(&cluster, &request, &caller).await
        } else {
            self.join(&cluster, &request, caller.address.ip().to_string()).await
        };
        let issued = issued.inspect_err(|status| {
            if !matches!(status.code(), Code::Unavailable | Code::Internal) {
                self.refusals.note(caller.address.ip(), format_args!("no certificate: {}", status.message()));
            }
        })?;
        tracing::info!(node = %issued.node_id, "issued a node certificate");
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id: issued.node_id.0,
            certificate_chain_pem: issued.chain_pem,
            root_ca_pem: cluster.root_ca.trust_pem(),
        }))
    }
}

/// A certificate of the root that is to be the swarm's, when one is on its way: by an external CA
/// where there is one for that root, else signed here.
pub(crate) async fn issue(
    cluster: &Cluster,
    external: &ExternalSigner,
    csr_pem: &str,
    node_id: &NodeId,
    role: Role,
) -> Result<Issued, Error> {
    let subject = NodeSubject { node_id: node_id.clone(), role, cluster_id: cluster.id.clone() };
    let root_ca = &cluster.root_ca;
    let externals = of_root(&cluster.spec.external_cas, root_ca.signing_digest(), &root_ca.digest);
    let leaf_pem = if !externals.is_empty() {
        external.sign(&externals, root_ca.signing_pem(), csr_pem, &subject).await?
    } else if root_ca.signing_key_pem().is_empty() {
        return Err(Error::unavailable("the key of the swarm's root is with an external CA, and none is known"));
    } else {
        let authority = CertificateAuthority::from_pem(root_ca.signing_pem(), root_ca.signing_key_pem())?;
        authority.sign(csr_pem, &subject, now(), cluster.spec.node_cert_expiry)?
    };
    let certificate = certificate_facts(&leaf_pem, root_ca.signing_digest())?;
    let cross_signed_pem = root_ca.rotation.as_ref().map_or("", |rotation| &rotation.cross_signed_pem);
    Ok(Issued { node_id: node_id.clone(), chain_pem: leaf_pem + cross_signed_pem, certificate })
}

/// What the managers keep of a certificate.
fn certificate_facts(chain_pem: &str, issuer: &str) -> Result<NodeCertificate, Error> {
    Ok(NodeCertificate {
        issuer: issuer.to_owned(),
        key_digest: public_key_digest(chain_pem)?,
        not_after: chain_validity(chain_pem)?.not_after,
        renewal_due: false,
    })
}

/// A request that made a node once makes no second one: somebody repeats what he overheard.
fn check_unused(store: &Store, key_digest: &str) -> Result<(), Error> {
    let known = store.node_by_key(key_digest).is_some();
    if known { Err(Error::forbidden("this certificate request was used before")) } else { Ok(()) }
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
