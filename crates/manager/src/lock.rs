//! Keeps this manager's keys on disk as locked as the swarm wants its managers to be.

use crate::blocking::blocking;
use crate::raft::Replicator;
use crate::store_handle::Changes;
use skep_cluster::command::Kind;
use skep_identity::{CertStore, UnlockKey, Vault};
use skep_model::cluster::{Cluster, SecretBytes};
use skep_model::{Error, Result};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// After a failure to write the keys.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a change waits for this manager's own keys.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The lock of the swarm that this manager's files follow: its version, and why not if not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settled {
    version: Option<u64>,
    error: String,
}

/// What turns on, turns off or renews the lock in a cluster whose spec has been changed.
///
/// # Errors
/// A new key is wanted for a swarm that is not to be locked.
pub(crate) fn settle_key(cluster: &mut Cluster, rotate: bool) -> Result<()> {
    let wanted = cluster.spec.auto_lock_managers;
    if rotate && !wanted {
        return Err(Error::invalid("cannot rotate because autolock is not turned on"));
    }
    let locked = !cluster.unlock_key.0.is_empty();
    if wanted && (rotate || !locked) {
        cluster.unlock_key = SecretBytes(UnlockKey::create()?.as_bytes().to_vec());
        cluster.unlock_key_version += 1;
    } else if !wanted && locked {
        cluster.unlock_key = SecretBytes::default();
        cluster.unlock_key_version += 1;
    }
    Ok(())
}

/// The swarm's unlock key, `None` when managers are not locked.
///
/// # Errors
/// When the stored bytes are no key.
pub(crate) fn unlock_key_of(cluster: &Cluster) -> Result<Option<UnlockKey>> {
    let bytes = &cluster.unlock_key.0;
    if bytes.is_empty() { Ok(None) } else { Ok(Some(UnlockKey::from_bytes(bytes)?)) }
}

/// Follows the store until `stop`.
pub(crate) async fn run(
    replicator: Replicator,
    vault: Vault,
    certificates: CertStore,
    settled: watch::Sender<Settled>,
    stop: CancellationToken,
) -> Result<()> {
    let mut changes = replicator.store().changes();
    loop {
        let store = replicator.store().snapshot();
        let version = store.cluster().map(|cluster| cluster.unlock_key_version);
        let mut failed = false;
        if let Some(cluster) = store.cluster()
            && settled.borrow().version != version
        {
            let (vault, certificates, cluster) = (vault.clone(), certificates.clone(), cluster.clone());
            let applied = blocking(move || apply(&vault, &certificates, &cluster)).await;
            let applied = applied.map_err(|e| Error::internal(format!("locking died: {e}")))?;
            failed = applied.is_err();
            match applied {
                Ok(()) => settled.send_replace(Settled { version, error: String::new() }),
                Err(error) => {
                    tracing::error!(%error, "cannot lock or unlock this manager's keys");
                    settled.send_replace(Settled { version: None, error: error.message })
                }
            };
        }
        drop(store);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY_INTERVAL), if failed => {}
            () = async {
                loop {
                    match changes.recv().await {
                        Ok(Changes::Keys(_, keys, _)) if keys.iter().all(|key| key.kind != Kind::Cluster) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => return,
                        Err(RecvError::Closed) => return std::future::pending().await,
                    }
                }
            }, if !failed => {}
        }
    }
}

/// The data key first: the private key follows it, whatever a crash left.
fn apply(vault: &Vault, certificates: &CertStore, cluster: &Cluster) -> Result<()> {
    let key = unlock_key_of(cluster)?;
    if vault.relock(key.as_ref(), cluster.unlock_key_version)? {
        tracing::info!(locked = key.is_some(), "this manager's keys are under the swarm's lock as it is now");
    }
    Ok(certificates.reseal()?)
}

/// Waits until this manager's files follow the lock's `version`.
///
/// # Errors
/// They do not, for the reason given.
pub(crate) async fn wait_settled(settled: &watch::Receiver<Settled>, version: u64) -> Result<()> {
    let mut settled = settled.clone();
    let reached = settled.wait_for(|settled| settled.version.is_some_and(|settled| settled >= version));
    if let Ok(Ok(_)) = tokio::time::timeout(SETTLE_MAX, reached).await {
        return Ok(());
    }
    let reason = settled.borrow().error.clone();
    Err(Error::internal(format!("the lock is changed, but this manager's keys do not follow it yet: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_spec() {
        let mut cluster = Cluster::default();
        settle_key(&mut cluster, false).unwrap();
        assert_eq!((cluster.unlock_key.0.len(), cluster.unlock_key_version), (0, 0));
        assert!(settle_key(&mut cluster, true).unwrap_err().message.contains("autolock is not turned on"));
        cluster.spec.auto_lock_managers = true;
        settle_key(&mut cluster, false).unwrap();
        let first = unlock_key_of(&cluster).unwrap().unwrap();
        settle_key(&mut cluster, false).unwrap();
        assert_eq!(unlock_key_of(&cluster).unwrap().unwrap(), first);
        settle_key(&mut cluster, true).unwrap();
        assert_ne!(unlock_key_of(&cluster).unwrap().unwrap(), first);
        cluster.spec.auto_lock_managers = false;
        settle_key(&mut cluster, false).unwrap();
        assert_eq!((unlock_key_of(&cluster).unwrap(), cluster.unlock_key_version), (None, 3));
    }
}
