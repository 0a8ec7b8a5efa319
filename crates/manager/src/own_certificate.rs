//! A manager that leads while its own certificate has expired signs itself a new one: nobody
//! would talk to it, its own agent included. That is so when a swarm of one manager was off
//! for longer than its certificate lives.

use crate::ca::CaService;
use crate::raft::{Replicator, now};
use skep_identity::{CertStore, Identity};
use skep_model::Result;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The clock may be set meanwhile, so it is looked at again at least so often.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(3600);
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Watches until `stop`.
pub(crate) async fn run(
    replicator: Replicator,
    ca: CaService,
    identity: Identity,
    certificates: CertStore,
    stop: CancellationToken,
) -> Result<()> {
    let mut leads = false;
    loop {
        let left = identity.validity().not_after.since(now());
        let mut pause = left.min(LOOK_AGAIN_MAX);
        if leads && left.is_zero() {
            tracing::warn!("this manager's certificate has expired; signing a new one");
            if let Err(error) = ca.renew_own(&identity, &certificates).await {
                tracing::error!(%error, "cannot renew this manager's own certificate");
            }
            pause = RETRY_INTERVAL;
        } else if left.is_zero() {
            pause = LOOK_AGAIN_MAX;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            led = replicator.leadership_change(leads) => leads = led?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Manager, ManagerConfig, SwarmInit};
    use skep_identity::{CertificateAuthority, CertificateRequest, NodeSubject, StoredIdentity};
    use skep_model::Timestamp;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_swarm_that_was_off_for_longer_than_its_certificate_lives_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let listen_addr = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let vault = ManagerConfig::vault_of(dir.path());
        let config =
            ManagerConfig { state_dir: dir.path().to_owned(), listen_addr, advertise_addr: String::new(), vault };
        let manager = Manager::bootstrap(config.clone(), SwarmInit::default()).await.unwrap();
        let cluster = manager.replicator().store().snapshot().cluster().unwrap().clone();
        let identity = manager.identity().clone();
        manager.shutdown().await;

        let authority = CertificateAuthority::from_pem(&cluster.root_ca.cert_pem, &cluster.root_ca.key_pem).unwrap();
        let request = CertificateRequest::create().unwrap();
        let subject =
            NodeSubject { node_id: identity.node_id(), role: identity.role(), cluster_id: cluster.id.clone() };
        let long_ago = Timestamp(now().0 - 7_200_000_000_000);
        let chain_pem = authority.sign(request.pem(), &subject, long_ago, Duration::from_secs(3600)).unwrap();
        let key_pem = request.key_pem().to_owned().into();
        let stored = StoredIdentity { root_pem: cluster.root_ca.cert_pem.clone(), chain_pem, key_pem };
        config.certificates().save(&stored).unwrap();
        let expired = Identity::new(&stored).unwrap();
        assert!(expired.validity().not_after < now());

        let manager = Manager::open(config.clone(), expired.clone()).await.unwrap();
        let renewed = async { expired.changed().wait_for(|count| *count > 0).await.map(drop) };
        tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("never renewed").unwrap();
        assert!(expired.validity().not_after > now());
        expired.connect(manager.advertise_addr()).await.unwrap();
        assert_ne!(config.certificates().load().unwrap().unwrap().chain_pem, stored.chain_pem);
        manager.shutdown().await;
    }
}
