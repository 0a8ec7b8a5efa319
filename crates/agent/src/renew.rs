//! Keeps the node's certificate fresh, and its role what the swarm says.

use crate::backoff::Backoff;
use crate::join;
use crate::session::SwarmView;
use chrono::Utc;
use skep_identity::{CertStore, Identity, renew_at};
use skep_model::{Error, Result, Timestamp};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The clock may be set meanwhile, so the plan is looked at again at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Renews whenever half to four fifths of the certificate's life are over, or the swarm
/// gave the node another role. Ends at `stop`.
pub(crate) async fn run(
    identity: Identity,
    store: CertStore,
    mut view: watch::Receiver<SwarmView>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut random: u64 = rand::random();
    loop {
        let now = Timestamp::from_chrono(Utc::now());
        let at = renew_at(identity.validity(), random);
        let pause = if now >= at || role_differs(&identity, &view.borrow()) {
            match renew(&identity, &store, &view).await {
                Ok(()) => {
                    tracing::info!(role = identity.role().as_str(), "node certificate renewed");
                    random = rand::random();
                    backoff.reset();
                    // A role that still differs is asked for again, but not at once.
                    backoff.next(&mut rand::rng())
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the node certificate");
                    backoff.next(&mut rand::rng())
                }
            }
        } else {
            backoff.reset();
            at.since(now).min(LOOK_AGAIN)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = role_change(&identity, &mut view), if pause > LOOK_AGAIN / 2 => {}
        }
    }
}

fn role_differs(identity: &Identity, view: &SwarmView) -> bool {
    view.node.as_ref().is_some_and(|node| node.role != identity.role())
}

async fn role_change(identity: &Identity, view: &mut watch::Receiver<SwarmView>) {
    if view.wait_for(|view| role_differs(identity, view)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn renew(identity: &Identity, store: &CertStore, view: &watch::Receiver<SwarmView>) -> Result<()> {
    let managers = view.borrow().managers.clone();
    let mut failure = Error::unavailable("no manager is known");
    for (_, address) in managers {
        let renewed = async { join::renew(store, identity.connect(&address).await?, identity).await };
        match renewed.await {
            Ok(()) => return Ok(()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
