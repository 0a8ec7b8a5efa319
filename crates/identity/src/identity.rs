//! The live identity of this node: what it is, and the TLS made of it. A renewed
//! certificate is swapped in without closing anything.

use crate::error::{IdentityError, Result};
use crate::peer::{Peer, Validity, certificate_validity};
use crate::store::StoredIdentity;
use crate::tls::{self, Keys};
use rustls::{ClientConfig, ServerConfig};
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::Role;
use std::fmt;
use std::sync::{Arc, RwLock};
use tokio::sync::watch;
use tonic::transport::Channel;

/// Handle to this node's identity; cheap to clone, all clones follow a renewal.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: NodeId,
    cluster_id: ClusterId,
    root_pem: String,
    facts: RwLock<Facts>,
    keys: Arc<Keys>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Copy)]
struct Facts {
    role: Role,
    validity: Validity,
}

impl Identity {
    /// An identity from its PEM parts.
    ///
    /// # Errors
    /// When a part is malformed or key and certificate do not belong together.
    pub fn new(parts: &StoredIdentity) -> Result<Self> {
        let leaf = tls::first_certificate(&parts.chain_pem)?;
        let peer = Peer::from_der(&leaf)?;
        let keys = Arc::new(Keys::new(&parts.root_pem, &parts.chain_pem, &parts.key_pem)?);
        let shared = Shared {
            node_id: peer.node_id,
            cluster_id: peer.cluster_id,
            root_pem: parts.root_pem.clone(),
            facts: RwLock::new(Facts { role: peer.role, validity: certificate_validity(&leaf)? }),
            server: tls::server_config(&parts.root_pem, keys.clone())?,
            client: tls::client_config(&parts.root_pem, keys.clone())?,
            keys,
            changed: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Swaps in a renewed certificate: new handshakes use it at once. Saving it is the caller's business.
    ///
    /// # Errors
    /// When it is malformed, does not match the key or names another node.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<()> {
        let leaf = tls::first_certificate(chain_pem)?;
        let peer = Peer::from_der(&leaf)?;
        if peer.node_id != self.shared.node_id {
            return Err(IdentityError::OtherNode {
                expected: self.shared.node_id.0.clone(),
                found: peer.node_id.0.clone(),
            });
        }
        let facts = Facts { role: peer.role, validity: certificate_validity(&leaf)? };
        self.shared.keys.replace(&self.shared.root_pem, chain_pem, key_pem)?;
        *self.shared.facts.write().unwrap_or_else(std::sync::PoisonError::into_inner) = facts;
        self.shared.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    pub fn node_id(&self) -> NodeId {
        self.shared.node_id.clone()
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster_id.clone()
    }

    /// Role the present certificate says.
    pub fn role(&self) -> Role {
        self.facts().role
    }

    /// Life span of the present certificate.
    pub fn validity(&self) -> Validity {
        self.facts().validity
    }

    /// The root this node trusts.
    pub fn root_pem(&self) -> &str {
        &self.shared.root_pem
    }

    /// Counts renewals.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// For listeners: a client may come without a certificate (a joining node), but one that
    /// is shown must be ours. Follows renewals.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.shared.server.clone()
    }

    /// For outgoing connections, verified against the swarm's root. Follows renewals.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.shared.client.clone()
    }

    /// Connects to a manager's gRPC port (`host:port`) and completes TLS before answering.
    ///
    /// # Errors
    /// When the address is malformed, nobody answers, or the other side is no manager of this swarm.
    pub async fn connect(&self, address: &str) -> Result<Channel> {
        tls::connect(address, self.client_config()).await
    }

    /// Like [`Identity::connect`], but connects on first use and again after a failure.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn connect_lazy(&self, address: &str) -> Result<Channel> {
        tls::connect_lazy(address, self.client_config())
    }

    fn facts(&self) -> Facts {
        *self.shared.facts.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.shared.node_id)
            .field("role", &self.role())
            .field("cluster_id", &self.shared.cluster_id)
            .finish_non_exhaustive()
    }
}
