//! The swarm's own settings and join tokens.

use super::Control;
use skep_cluster::command::{Object, Write};
use skep_cluster::edit as decide;
use skep_identity::{JoinToken, RootDigest};
use skep_model::cluster::{Cluster, ClusterSpec, RootCa};
use skep_model::{Error, Result};
use std::sync::Arc;

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
        cluster.root_ca.key_pem.clear();
        Ok(Arc::new(cluster))
    }

    pub fn tokens(&self) -> Result<JoinTokens> {
        let cluster = self.full_cluster()?;
        let RootCa { worker_token, manager_token, .. } = &cluster.root_ca;
        Ok(JoinTokens { worker: worker_token.clone(), manager: manager_token.clone() })
    }

    /// `update out of sequence` when `version` is not the present one.
    pub async fn update_cluster(&self, version: u64, spec: ClusterSpec, rotate: RotateFlags) -> Result<()> {
        if spec.auto_lock_managers || rotate.unlock_key {
            return Err(Error::not_implemented("locking managers is not supported yet"));
        }
        if spec.ca_force_rotate != self.full_cluster()?.spec.ca_force_rotate {
            return Err(Error::not_implemented("rotating the root certificate is not supported yet"));
        }
        self.edit(|store, _, _| {
            let mut writes = decide::update_cluster(store, version, spec.clone())?;
            if rotate.worker_token || rotate.manager_token {
                rotate_tokens(&mut writes, rotate)?;
            }
            Ok(((), writes))
        })
        .await
    }

    fn full_cluster(&self) -> Result<Arc<Cluster>> {
        self.store().cluster().cloned().ok_or_else(|| Error::unavailable("the swarm's state is not here yet"))
    }
}

/// Fresh tokens in the cluster object that is about to be written.
fn rotate_tokens(writes: &mut [Write], rotate: RotateFlags) -> Result<()> {
    for write in writes {
        if let Write::Put { object: Object::Cluster(cluster), .. } = write {
            let root_ca = &mut cluster.root_ca;
            if rotate.worker_token {
                root_ca.worker_token = fresh_token(&root_ca.cert_pem)?;
            }
            if rotate.manager_token {
                root_ca.manager_token = fresh_token(&root_ca.cert_pem)?;
            }
        }
    }
    Ok(())
}

/// A token for the swarm of this root.
pub(crate) fn fresh_token(root_pem: &str) -> Result<String> {
    let digest = RootDigest::of_pem(root_pem)?;
    Ok(JoinToken::create(digest)?.to_text())
}
