//! The live identity of this node: what it is, whom it trusts, and the TLS made of both. A
//! renewed certificate or another root is swapped in without closing anything.

use crate::error::{IdentityError, Result};
use crate::peer::{Issuer, Peer, Validity, certificate_validity};
use crate::store::StoredIdentity;
use crate::tls::{self, Keys};
use rustls::{ClientConfig, ServerConfig};
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::Role;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
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
    live: RwLock<Live>,
    changed: watch::Sender<u64>,
}

/// All that a renewal changes, changed together.
#[derive(Clone)]
struct Live {
    role: Role,
    validity: Validity,
    issuer: Option<Issuer>,
    root_pem: Arc<str>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    keys: Arc<Keys>,
}

impl Live {
    fn new(parts: &StoredIdentity) -> Result<(Peer, Self)> {
        let leaf = tls::first_certificate(&parts.chain_pem)?;
        let peer = Peer::from_der(&leaf)?;
        let keys = Arc::new(Keys::new(&parts.root_pem, &parts.chain_pem, &parts.key_pem)?);
        let live = Self {
            role: peer.role,
            validity: certificate_validity(&leaf)?,
            issuer: Issuer::of_chain(&parts.chain_pem, &parts.root_pem).ok(),
            root_pem: parts.root_pem.as_str().into(),
            server: tls::server_config(&parts.root_pem, keys.clone())?,
            client: tls::client_config(&parts.root_pem, keys.clone())?,
            keys,
        };
        Ok((peer, live))
    }
}

impl Identity {
    /// An identity from its PEM parts.
    ///
    /// # Errors
    /// When a part is malformed or key and certificate do not belong together.
    pub fn new(parts: &StoredIdentity) -> Result<Self> {
        let (Peer { node_id, cluster_id, .. }, live) = Live::new(parts)?;
        let shared = Shared { node_id, cluster_id, live: RwLock::new(live), changed: watch::Sender::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Swaps in a renewed certificate, or other roots to trust: new handshakes use them at
    /// once. Saving them is the caller's business.
    ///
    /// # Errors
    /// When a part is malformed, does not match the key, names another node, or the
    /// certificate would not be trusted by nodes that trust these roots.
    pub fn replace(&self, parts: &StoredIdentity) -> Result<()> {
        let live = self.checked(parts)?;
        *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.shared.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Whether [`Identity::replace`] would take these.
    ///
    /// # Errors
    /// As `replace`.
    pub fn check(&self, parts: &StoredIdentity) -> Result<()> {
        self.checked(parts).map(drop)
    }

    fn checked(&self, parts: &StoredIdentity) -> Result<Live> {
        let (peer, live) = Live::new(parts)?;
        if peer.node_id != self.shared.node_id {
            return Err(IdentityError::OtherNode {
                expected: self.shared.node_id.0.clone(),
                found: peer.node_id.0.clone(),
            });
        }
        tls::check_trusted(&parts.chain_pem, &parts.root_pem)?;
        Ok(live)
    }

    pub fn node_id(&self) -> NodeId {
        self.shared.node_id.clone()
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster_id.clone()
    }

    /// Role the present certificate says.
    pub fn role(&self) -> Role {
        self.live().role
    }

    /// Life span of the present certificate.
    pub fn validity(&self) -> Validity {
        self.live().validity
    }

    /// The roots this node trusts.
    pub fn root_pem(&self) -> Arc<str> {
        self.live().root_pem
    }

    /// Who signed the present certificate; `None` if that cannot be told from what is here.
    pub fn issuer(&self) -> Option<Issuer> {
        self.live().issuer
    }

    /// Counts renewals and changes of the roots.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// For listeners: a client may come without a certificate (a joining node), but one that
    /// is shown must be ours. To be asked for at each handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.live().server
    }

    /// For outgoing connections, verified against the swarm's roots. To be asked for at each handshake.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.live().client
    }

    /// For requests by HTTP/1.1 to a server that shows a certificate of the swarm's roots or of
    /// `other_roots_pem`; this node shows its own.
    ///
    /// # Errors
    /// When the roots are malformed.
    pub fn https_config(&self, other_roots_pem: &str) -> Result<ClientConfig> {
        let live = self.live();
        tls::https_config_with(&format!("{}\n{other_roots_pem}", live.root_pem.trim_end()), Some(live.keys))
    }

    /// Connects to a manager's gRPC port (`host:port`) and completes TLS before answering.
    ///
    /// # Errors
    /// When the address is malformed, nobody answers, or the other side is no manager of this swarm.
    pub async fn connect(&self, address: &str) -> Result<Channel> {
        let identity = self.clone();
        tls::connect(address, move || identity.client_config()).await
    }

    /// Like [`Identity::connect`], but connects on first use and again after a failure.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn connect_lazy(&self, address: &str) -> Result<Channel> {
        let identity = self.clone();
        tls::connect_lazy(address, move || identity.client_config())
    }

    fn live(&self) -> Live {
        self.shared.live.read().unwrap_or_else(PoisonError::into_inner).clone()
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
