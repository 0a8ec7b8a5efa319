//! What a swarm begins with: ids, a root certificate, tokens, and the first manager's
//! certificate.

use crate::ca::certificate_facts;
use crate::config::SwarmInit;
use crate::control::fresh_token;
use crate::ids::RandomIds;
use crate::manager::{FIRST_RAFT_ID, host_of};
use crate::raft::now;
use crate::{external_ca, lock};
use skep_cluster::edit::Bootstrap;
use skep_cluster::ids::IdSource;
use skep_identity::{
    CertificateAuthority, CertificateRequest, IdentityError, NodeSubject, RootDigest, StoredIdentity, check_root,
};
use skep_model::cluster::{Cluster, ClusterSpec, RootCa};
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::{ManagerStatus, Node, NodeCertificate, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::{Error, Result};
use zeroize::Zeroizing;

/// Keys and certificates of a swarm that does not exist yet.
pub(crate) struct Founded {
    cluster_id: ClusterId,
    node_id: NodeId,
    root_ca: RootCa,
    pub(crate) stored: StoredIdentity,
    certificate: NodeCertificate,
}

impl Founded {
    /// With a fresh root, or the one that the settings bring: its key, or who signs for it. The
    /// key is taken out of them.
    pub(crate) async fn create(spec: &mut ClusterSpec) -> Result<Self> {
        let cluster_id = ClusterId(RandomIds.swarm_id());
        let node_id = NodeId(RandomIds.swarm_id());
        let request = CertificateRequest::create()?;
        let subject = NodeSubject { node_id: node_id.clone(), role: Role::Manager, cluster_id: cluster_id.clone() };
        let (root_pem, root_key_pem, chain_pem) = match root_of(spec)? {
            Root::Here(authority) => {
                let chain_pem = authority.sign(request.pem(), &subject, now(), spec.node_cert_expiry)?;
                (authority.cert_pem().to_owned(), authority.key_pem().to_owned(), chain_pem)
            }
            Root::Outside(cert_pem) => {
                let chain_pem = external_ca::sign_first(&spec.external_cas, &cert_pem, request.pem(), &subject).await?;
                (cert_pem, String::new(), chain_pem)
            }
        };
        let root_ca = RootCa {
            worker_token: fresh_token(&root_pem)?,
            manager_token: fresh_token(&root_pem)?,
            digest: RootDigest::of_pem(&root_pem)?.as_str().to_owned(),
            cert_pem: root_pem.clone(),
            key_pem: root_key_pem,
            ..RootCa::default()
        };
        let stored = StoredIdentity { root_pem, chain_pem, key_pem: request.key_pem().to_owned().into() };
        let certificate = certificate_facts(&stored.chain_pem, &root_ca.digest)?;
        Ok(Self { cluster_id, node_id, root_ca, stored, certificate })
    }

    /// All that the store begins with.
    pub(crate) fn facts(&self, init: SwarmInit, advertise_addr: &str) -> Result<Bootstrap> {
        let mut cluster = Cluster {
            id: self.cluster_id.clone(),
            spec: init.spec,
            root_ca: self.root_ca.clone(),
            default_address_pools: init.default_address_pools,
            subnet_size: init.subnet_size,
            data_path_port: init.data_path_port,
            ..Cluster::default()
        };
        lock::settle_key(&mut cluster, false)?;
        let host = host_of(advertise_addr);
        let data_path_address = if init.data_path_address.is_empty() { host.clone() } else { init.data_path_address };
        let node = Node {
            id: self.node_id.clone(),
            spec: NodeSpec { role: Role::Manager, availability: init.availability, ..NodeSpec::default() },
            description: init.description,
            status: NodeStatus { state: NodeState::Unknown, address: host, ..NodeStatus::default() },
            manager_status: Some(ManagerStatus {
                raft_id: FIRST_RAFT_ID,
                address: advertise_addr.to_owned(),
                leader: true,
                reachable: true,
            }),
            role: Role::Manager,
            data_path_address,
            certificate: self.certificate.clone(),
            ..Node::default()
        };
        Ok(Bootstrap { cluster, node })
    }
}

enum Root {
    Here(Box<CertificateAuthority>),
    /// External CAs have the key.
    Outside(String),
}

fn root_of(spec: &mut ClusterSpec) -> Result<Root> {
    let key = std::mem::take(&mut spec.signing_ca_key).0;
    let key_pem = Zeroizing::new(String::from_utf8(key).map_err(|_| IdentityError::Key)?);
    if spec.signing_ca_cert.is_empty() && spec.external_cas.is_empty() {
        return match key_pem.is_empty() {
            true => Ok(Root::Here(Box::new(CertificateAuthority::create(now())?))),
            false => Err(Error::invalid("a signing CA key was given without its certificate")),
        };
    }
    let given = std::iter::once(&spec.signing_ca_cert).chain(spec.external_cas.iter().map(|ca| &ca.ca_cert));
    let Some(cert_pem) = given.into_iter().find(|cert_pem| !cert_pem.is_empty()) else {
        let text = "an external CA signs for a root certificate, which a new swarm must be given: add cacert=FILE to --external-ca";
        return Err(Error::invalid(text));
    };
    if !key_pem.is_empty() {
        return Ok(Root::Here(Box::new(CertificateAuthority::adopt(cert_pem, &key_pem, now())?)));
    }
    if spec.external_cas.is_empty() {
        return Err(Error::invalid("a signing CA key must be given together with the signing CA certificate"));
    }
    check_root(cert_pem, now())?;
    Ok(Root::Outside(cert_pem.clone()))
}
