//! Keeps the node's certificate fresh, its role what the swarm says, and its trust in the
//! swarm's roots.

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

/// Renews whenever half to four fifths of the certificate's life are over, the swarm gave the
/// node another role or wants it renewed, and trusts the roots that the managers say. Ends at `stop`.
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
        let todo = next(&identity, &view.borrow_and_update(), now, random);
        let done = match &todo {
            Todo::Wait(_) => Ok(()),
            // A certificate of none of these roots is renewed first, and brings the roots along.
            Todo::Trust(root_pem) => match join::trust(&store, root_pem, &identity) {
                Ok(()) => Ok(()),
                Err(_) => renew(&identity, &store, &view).await,
            },
            Todo::Renew => renew(&identity, &store, &view).await,
        };
        let pause = match (&todo, done) {
            (Todo::Wait(pause), _) => {
                backoff.reset();
                *pause
            }
            (Todo::Trust(_), Ok(())) => {
                tracing::info!("this node trusts other roots from now on");
                Duration::ZERO
            }
            (Todo::Renew, Ok(())) => {
                tracing::info!(role = identity.role().as_str(), "node certificate renewed");
                random = rand::random();
                // What still differs is asked for again, but not at once.
                backoff.next(&mut rand::rng())
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot renew the node certificate");
                backoff.next(&mut rand::rng())
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = news(&mut view), if matches!(todo, Todo::Wait(_)) => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Trust(String),
    Renew,
    Wait(Duration),
}

/// The next thing to do. `random` chooses the point within the certificate's life.
fn next(identity: &Identity, view: &SwarmView, now: Timestamp, random: u64) -> Todo {
    let roots = &view.trust_root_pem;
    if !roots.is_empty() && **roots != *identity.root_pem() {
        return Todo::Trust(roots.clone());
    }
    let wanted = view.node.as_ref().is_some_and(|node| node.role != identity.role() || node.certificate.renewal_due);
    let at = renew_at(identity.validity(), random);
    if wanted || now >= at { Todo::Renew } else { Todo::Wait(at.since(now).min(LOOK_AGAIN)) }
}

async fn news(view: &mut watch::Receiver<SwarmView>) {
    if view.changed().await.is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use skep_identity::{CertificateAuthority, CertificateRequest, NodeSubject, StoredIdentity};
    use skep_model::node::{Node, Role};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn identity() -> Identity {
        let authority = CertificateAuthority::create(NOW).unwrap();
        let subject = NodeSubject { node_id: "n".into(), role: Role::Worker, cluster_id: "c".into() };
        let request = CertificateRequest::create().unwrap();
        let chain_pem = authority.sign(request.pem(), &subject, NOW, HOUR * 99).unwrap();
        let key_pem = request.key_pem().to_owned().into();
        Identity::new(&StoredIdentity { root_pem: authority.cert_pem().to_owned(), chain_pem, key_pem }).unwrap()
    }

    #[test]
    fn what_is_to_be_done_next() {
        let identity = identity();
        let check = |view: &SwarmView, hours: u32, random: u64, expect: Todo| {
            assert_eq!(next(&identity, view, NOW.plus(HOUR * hours), random), expect, "after {hours} hours");
        };
        let quiet = SwarmView::default();
        // The certificate lives for 100 hours, the first of which is in the past.
        check(&quiet, 0, 0, Todo::Wait(HOUR));
        check(&quiet, 48, 0, Todo::Wait(HOUR));
        check(&quiet, 49, 0, Todo::Renew);
        check(&quiet, 78, u64::MAX, Todo::Wait(HOUR));
        check(&quiet, 79, u64::MAX, Todo::Renew);
        // The clock was away for longer than the certificate lives: try all the same.
        check(&quiet, 1000, 0, Todo::Renew);

        let view = |change: fn(&mut Node)| {
            let mut node = Node::default();
            change(&mut node);
            SwarmView { node: Some(node), trust_root_pem: identity.root_pem().to_string(), ..SwarmView::default() }
        };
        check(&view(|_| {}), 0, 0, Todo::Wait(HOUR));
        check(&view(|node| node.role = Role::Manager), 0, 0, Todo::Renew);
        check(&view(|node| node.certificate.renewal_due = true), 0, 0, Todo::Renew);
        let other = SwarmView { trust_root_pem: "other roots".into(), ..SwarmView::default() };
        check(&other, 0, 0, Todo::Trust("other roots".into()));
    }
}
