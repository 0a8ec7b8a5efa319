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
