//! What a swarm begins with: ids, a root certificate, tokens, and the first manager's
//! certificate.

use crate::ca::issue;
use crate::config::SwarmInit;
use crate::control::fresh_token;
use crate::external_ca::ExternalSigner;
use crate::ids::RandomIds;
use crate::lock;
use crate::manager::{FIRST_RAFT_ID, host_of};
use crate::raft::now;
use crate::root::{Root, stray_key};
use skep_cluster::edit::Bootstrap;
use skep_cluster::ids::IdSource;
use skep_identity::{CertificateRequest, IdentityError, StoredIdentity};
use skep_model::cluster::{Cluster, ClusterSpec, RootCa};
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::{ManagerStatus, Node, NodeCertificate, NodeSpec, NodeStatus, Role};
use skep_model::{Error, Result};
use zeroize::Zeroizing;

/// Keys and certificates of a swarm that does not exist yet.
pub(crate) struct Founded {
    cluster: Cluster,
    node_id: NodeId,
    pub(crate) stored: StoredIdentity,
    certificate: NodeCertificate,
}

impl Founded {
    /// With a fresh root, or the one that the settings bring: its key, or who signs for it. The
    /// key is taken out of them.
    pub(crate) async fn create(init: &mut SwarmInit) -> Result<Self> {
        let root = root_of(&mut init.spec)?;
        let root_pem = root.cert_pem().to_owned();
        let cluster = Cluster {
            id: ClusterId(RandomIds.swarm_id()),
            spec: init.spec.clone(),
            root_ca: RootCa {
                worker_token: fresh_token(&root_pem)?,
                manager_token: fresh_token(&root_pem)?,
                digest: root.digest()?,
                cert_pem: root_pem.clone(),
                key_pem: root.key_pem().to_owned(),
                ..RootCa::default()
            },
            default_address_pools: init.default_address_pools.clone(),
            subnet_size: init.subnet_size,
            data_path_port: init.data_path_port,
            ..Cluster::default()
        };
        let node_id = NodeId(RandomIds.swarm_id());
        let request = CertificateRequest::create()?;
        let signer = ExternalSigner::without_certificate();
        let issued = issue(&cluster, &signer, request.pem(), &node_id, Role::Manager).await?;
        let key_pem = request.key_pem().to_owned().into();
        let stored = StoredIdentity { root_pem, chain_pem: issued.chain_pem, key_pem };
        Ok(Self { cluster, node_id, stored, certificate: issued.certificate })
    }

    /// All that the store begins with.
    pub(crate) fn facts(&self, init: SwarmInit, advertise_addr: &str) -> Result<Bootstrap> {
        let mut cluster = self.cluster.clone();
        lock::settle_key(&mut cluster, false)?;
        let node = own_node(&self.node_id, init, advertise_addr);
        Ok(Bootstrap { cluster, node: Node { certificate: self.certificate.clone(), ..node } })
    }
}

/// This node as the only manager of its swarm.
pub(crate) fn own_node(id: &NodeId, init: SwarmInit, advertise_addr: &str) -> Node {
    let address = host_of(advertise_addr);
    let data_path_address = if init.data_path_address.is_empty() { address.clone() } else { init.data_path_address };
    Node {
        id: id.clone(),
        spec: NodeSpec { role: Role::Manager, availability: init.availability, ..NodeSpec::default() },
        description: init.description,
        status: NodeStatus { address, ..NodeStatus::default() },
        manager_status: Some(ManagerStatus {
            raft_id: FIRST_RAFT_ID,
            address: advertise_addr.to_owned(),
            leader: true,
            reachable: true,
        }),
        role: Role::Manager,
        data_path_address,
        ..Node::default()
    }
}

fn root_of(spec: &mut ClusterSpec) -> Result<Root> {
    let key = std::mem::take(&mut spec.signing_ca_key).0;
    let key_pem = Zeroizing::new(String::from_utf8(key).map_err(|_| IdentityError::Key)?);
    let outside = spec.external_cas.iter().map(|external| &external.ca_cert);
    let given = std::iter::once(&spec.signing_ca_cert).chain(outside).find(|cert_pem| !cert_pem.is_empty());
    match given {
        Some(cert_pem) => Root::given(cert_pem, &key_pem, !spec.external_cas.is_empty(), now()),
        None if !spec.external_cas.is_empty() => Err(Error::invalid(
            "an external CA signs for a root certificate, which a new swarm must be given: add cacert=FILE to \
             --external-ca",
        )),
        None if !key_pem.is_empty() => Err(stray_key()),
        None => Root::fresh(now()),
    }
}
