//! The swarm's own settings and join tokens.

use super::Control;
use crate::blocking::blocking;
use crate::raft::now;
use crate::{backup, lock, rotation};
use skep_cluster::command::{Object, Write};
use skep_cluster::edit as decide;
use skep_identity::{IdentityError, Issuer, JoinToken, RootDigest};
use skep_model::cluster::{Cluster, ClusterSpec, RootCa, SecretBytes};
use skep_model::node::NodeDescription;
use skep_model::{Error, Result};
use std::sync::Arc;
use zeroize::Zeroizing;

/// `rotate*` flags of `swarm update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotateFlags {
    pub worker_token: bool,
    pub manager_token: bool,
    pub unlock_key: bool,
}

/// The tokens that let nodes join. Secrets: shown to the user, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

impl Control {
    /// The swarm, without the key of its root certificate.
    pub fn cluster(&self) -> Result<Arc<Cluster>> {
        let mut cluster = Cluster::clone(&*self.full_cluster()?);
        cluster.root_ca = cluster.root_ca.without_keys();
        cluster.unlock_key = SecretBytes::default();
        Ok(Arc::new(cluster))
    }

    pub fn tokens(&self) -> Result<JoinTokens> {
        let cluster = self.full_cluster()?;
        let RootCa { worker_token, manager_token, .. } = &cluster.root_ca;
        Ok(JoinTokens { worker: worker_token.clone(), manager: manager_token.clone() })
    }

    /// Text of the key that unlocks managers, `None` when they are not locked. A secret.
    pub fn unlock_key(&self) -> Result<Option<String>> {
        Ok(lock::unlock_key_of(&*self.full_cluster()?)?.map(|key| key.to_text()))
    }

    /// All that is replicated at this moment, in one file: sealed with the passphrase, or without
    /// one with the swarm's unlock key.
    pub async fn backup(&self, passphrase: Option<String>) -> Result<Vec<u8>> {
        // An empty command orders this after everything that was acknowledged before.
        self.replicator.propose(Vec::new(), false).await?;
        let store = self.store();
        let written = blocking(move || backup::write(&store, passphrase.as_deref(), now())).await;
        written.map_err(|e| Error::internal(format!("writing the backup died: {e}")))?
    }

    /// What a node tells of itself when it trusts and is certified as the swarm wants it: only
    /// the fields about certificates are filled in.
    pub fn trust(&self) -> Result<NodeDescription> {
        let root_ca = &self.full_cluster()?.root_ca;
        let issuer = Issuer::of_root(root_ca.signing_pem())?;
        Ok(NodeDescription {
            trust_root_pem: root_ca.trust_pem(),
            cert_issuer_subject_der: issuer.subject_der,
            cert_issuer_public_key_der: issuer.public_key_der,
            ..NodeDescription::default()
        })
    }

    /// `update out of sequence` when `version` is not the present one. A change of the lock is
    /// on this manager's disk when it returns; the other managers follow.
    pub async fn update_cluster(&self, version: u64, mut spec: ClusterSpec, rotate: RotateFlags) -> Result<()> {
        let signing_key = std::mem::take(&mut spec.signing_ca_key);
        let signing_key = Zeroizing::new(String::from_utf8(signing_key.0).map_err(|_| IdentityError::Key)?);
        self.external.check_update(&*self.full_cluster()?, &spec, !signing_key.is_empty()).await?;
        let lock_version = self
            .edit(|store, _, _| {
                let mut writes = decide::update_cluster(store, version, spec.clone())?;
                let mut lock_version = 0;
                for write in &mut writes {
                    if let Write::Put { object: Object::Cluster(cluster), .. } = write {
                        rotate_tokens(&mut cluster.root_ca, rotate)?;
                        lock::settle_key(cluster, rotate.unlock_key)?;
                        rotation::begin_now(cluster, &signing_key)?;
                        lock_version = cluster.unlock_key_version;
                    }
                }
                Ok((lock_version, writes))
            })
            .await?;
        lock::wait_settled(&self.locks, lock_version).await
    }

    fn full_cluster(&self) -> Result<Arc<Cluster>> {
        self.store().cluster().cloned().ok_or_else(|| Error::unavailable("the swarm's state is not here yet"))
    }
}

/// Fresh tokens; their digest is the present root's.
fn rotate_tokens(root_ca: &mut RootCa, rotate: RotateFlags) -> Result<()> {
    if rotate.worker_token {
        root_ca.worker_token = fresh_token(&root_ca.cert_pem)?;
    }
    if rotate.manager_token {
        root_ca.manager_token = fresh_token(&root_ca.cert_pem)?;
    }
    Ok(())
}

/// A token for the swarm of this root.
pub(crate) fn fresh_token(root_pem: &str) -> Result<String> {
    let digest = RootDigest::of_pem(root_pem)?;
    Ok(JoinToken::create(digest)?.to_text())
}
