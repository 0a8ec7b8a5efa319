//! A new swarm of one manager, made of a backup: same cluster, same root certificate, same
//! services and secrets. The managers of before are gone; workers that still run find their
//! way back if the new manager is where an old one was.

use crate::backup;
use crate::blocking::blocking;
use crate::ca::issue;
use crate::config::{ManagerConfig, SwarmInit};
use crate::edit::edit;
use crate::external_ca::ExternalSigner;
use crate::founding::own_node;
use crate::ids::RandomIds;
use crate::manager::{FIRST_RAFT_ID, Manager, listen, mark_joined, remove_dir};
use crate::raft::{Member, Replicator};
use skep_cluster::Store;
use skep_cluster::command::{Key, Kind, Object, Write};
use skep_cluster::edit::lock_out;
use skep_cluster::ids::IdSource;
use skep_identity::{CertificateRequest, Identity, StoredIdentity};
use skep_model::cluster::Cluster;
use skep_model::id::NodeId;
use skep_model::node::{Node, Role};
use skep_model::{Error, Result};

impl Manager {
    /// Makes a swarm of `backup`, with this node as its only manager. Of `init`, only what is
    /// about this node is used.
    ///
    /// # Errors
    /// The backup cannot be opened with `secret`, this node has an identity already, or a
    /// folder or port cannot be used.
    pub async fn restore(config: ManagerConfig, init: SwarmInit, backup: Vec<u8>, secret: String) -> Result<Self> {
        let certificates = config.certificates();
        if certificates.load()?.is_some() {
            return Err(Error::unavailable("This node is already part of a swarm."));
        }
        let opened = blocking(move || backup::read(&backup, &secret)).await;
        let store = opened.map_err(|e| Error::internal(format!("reading the backup died: {e}")))??;
        let cluster = store.cluster().cloned().ok_or_else(|| Error::invalid("the backup holds no swarm"))?;
        remove_dir(&config.raft_dir())?;

        let node_id = NodeId(RandomIds.swarm_id());
        let request = CertificateRequest::create()?;
        let signer = ExternalSigner::without_certificate();
        let issued = issue(&cluster, &signer, request.pem(), &node_id, Role::Manager).await?;
        let stored = StoredIdentity {
            root_pem: cluster.root_ca.trust_pem(),
            chain_pem: issued.chain_pem,
            key_pem: request.key_pem().to_owned().into(),
        };
        let identity = Identity::new(&stored)?;
        let (listener, address, advertise_addr) = listen(&config).await?;
        let own = Member { node_id: node_id.clone(), address: advertise_addr.clone() };
        Replicator::seed(&config.raft_dir(), &config.vault, FIRST_RAFT_ID, own, &store)?;
        let replicator = Replicator::open(&config.raft_dir(), &config.vault, FIRST_RAFT_ID, identity.clone()).await?;
        replicator.elect_if_alone().await?;
        let node = Node { certificate: issued.certificate, ..own_node(&node_id, init, &advertise_addr) };
        mark_joined(&config)?;
        let manager = Self::start(&config, replicator, identity, listener, address, advertise_addr);
        let changed = edit(&manager.replicator, |store, now, _| Ok(((), replace_managers(store, &node, now))));
        // Last: a node with an identity has a swarm.
        match changed.await.and_then(|()| Ok(certificates.save(&stored)?)) {
            Ok(()) => Ok(manager),
            Err(error) => {
                manager.shutdown().await;
                Err(error)
            }
        }
    }
}

/// Managers of before have a Raft of their own: were one to come back, it must not be heard.
fn replace_managers(store: &Store, own: &Node, now: skep_model::Timestamp) -> Vec<Write> {
    let is_former = |node: &Node| node.role == Role::Manager || node.spec.role == Role::Manager;
    let former: Vec<&Node> = store.nodes().map(AsRef::as_ref).filter(|node| is_former(node)).collect();
    let mut removed: Option<Cluster> = None;
    let mut writes = Vec::new();
    for node in former {
        for write in lock_out(store, &node.id, now) {
            if let Write::Put { object: Object::Cluster(cluster), .. } = write {
                let all = removed.get_or_insert_with(|| cluster.clone());
                all.removed_nodes.extend(cluster.removed_nodes);
            }
        }
        let key = Key::new(Kind::Node, node.id.as_str());
        writes.push(Write::Remove { key, expected: node.meta.version });
    }
    writes.extend(removed.map(|cluster| Write::put(Object::Cluster(cluster))));
    writes.push(Write::put(Object::Node(Box::new(own.clone()))));
    writes
}
