//! Replaces the swarm's root certificate. From the moment it is decided, certificates are
//! signed by the new root, and everybody is told to trust both; the leader asks nodes for a
//! renewal, a few at a time; when all have moved, the old root goes, and with it the join
//! tokens that name it.

use crate::control::fresh_token;
use crate::edit::edit;
use crate::external_ca::of_root;
use crate::raft::{Replicator, now};
use crate::root::{Root, stray_key};
use crate::store_handle::Changes;
use skep_cluster::Store;
use skep_cluster::command::{Kind, Object, Write};
use skep_identity::{CertificateAuthority, Issuer, RootDigest};
use skep_model::cluster::{Cluster, RootCa, RootRotation};
use skep_model::node::{Node, NodeState};
use skep_model::{Error, Result, Timestamp};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Nodes that are asked for a renewal at the same time.
const RENEWALS_AT_ONCE: usize = 30;
/// How often the leader looks how far the nodes are, at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Begins what a changed spec asks for: a root of the user's own, or a fresh one.
///
/// # Errors
/// The user's root is unusable or comes without its key.
pub(crate) fn begin(cluster: &mut Cluster, key_pem: &str, now: Timestamp) -> Result<()> {
    let spec = &mut cluster.spec;
    let root_ca = &mut cluster.root_ca;
    let is_forced = spec.ca_force_rotate != root_ca.last_forced_rotation;
    let given = digest_of(&spec.signing_ca_cert)?;
    let wanted = match given {
        Some(given) if given != root_ca.signing_digest() => {
            let signed_outside = !of_root(&spec.external_cas, &given, &root_ca.digest).is_empty();
            Root::given(&spec.signing_ca_cert, key_pem, signed_outside, now)?
        }
        None | Some(_) if is_forced => {
            spec.signing_ca_cert.clear();
            Root::fresh(now)?
        }
        None if !key_pem.is_empty() => return Err(stray_key()),
        None | Some(_) => return Ok(()),
    };
    root_ca.last_forced_rotation = spec.ca_force_rotate;
    let digest = wanted.digest()?;
    // Back to the root that is still there: nodes that moved already will move back.
    root_ca.rotation = if digest == root_ca.digest { None } else { Some(towards(root_ca, &wanted, digest, now)?) };
    Ok(())
}

fn digest_of(cert_pem: &str) -> Result<Option<String>> {
    if cert_pem.trim().is_empty() {
        return Ok(None);
    }
    Ok(Some(RootDigest::of_pem(cert_pem)?.as_str().to_owned()))
}

fn towards(root_ca: &RootCa, wanted: &Root, digest: String, now: Timestamp) -> Result<RootRotation> {
    if root_ca.key_pem.is_empty() {
        return Err(Error::invalid(
            "the key of the present root certificate is with an external CA, so it cannot vouch for another root here",
        ));
    }
    let present = CertificateAuthority::from_pem(&root_ca.cert_pem, &root_ca.key_pem)?;
    let cross_signed_pem = match wanted {
        Root::Here(authority) => present.cross_sign(authority, now)?,
        Root::Outside(cert_pem) => present.cross_sign_root(cert_pem, now)?,
    };
    let (cert_pem, key_pem) = (wanted.cert_pem().to_owned(), wanted.key_pem().to_owned());
    Ok(RootRotation { cert_pem, key_pem, digest, cross_signed_pem })
}

/// Drives rotations while this manager leads. Runs until `stop`.
pub(crate) async fn run(replicator: Replicator, stop: CancellationToken) -> Result<()> {
    let mut changes = replicator.store().changes();
    let mut leads = false;
    loop {
        let busy = if leads { drive(&replicator).await } else { false };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            led = replicator.leadership_change(leads) => leads = led?,
            () = tokio::time::sleep(LOOK_INTERVAL), if busy => {}
            () = concerns_roots(&mut changes), if !busy => {}
        }
    }
}

async fn concerns_roots(changes: &mut tokio::sync::broadcast::Receiver<Changes>) {
    loop {
        match changes.recv().await {
            Ok(Changes::Keys(_, keys, _)) if keys.iter().all(|key| key.kind != Kind::Cluster) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// One step; answers whether there will be another.
async fn drive(replicator: &Replicator) -> bool {
    let decided = edit(replicator, |store, _, _| {
        let step = step(store)?;
        Ok((step.busy, step.writes))
    });
    decided.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot go on with the rotation of the root certificate");
        true
    })
}

#[derive(Debug, Default, PartialEq)]
struct Step {
    writes: Vec<Write>,
    /// Nodes are on the way.
    busy: bool,
}

fn step(store: &Store) -> Result<Step> {
    let Some(cluster) = store.cluster().filter(|cluster| !cluster.root_ca.digest.is_empty()) else {
        return Ok(Step::default());
    };
    let root_ca = &cluster.root_ca;
    let issuer = Issuer::of_root(root_ca.signing_pem())?;
    let is_behind =
        |node: &Node| !is_certified_by(node, &issuer) || node.description.trust_root_pem != root_ca.trust_pem();
    let behind: Vec<&Node> = store.nodes().map(AsRef::as_ref).filter(|node| is_behind(node)).collect();
    if behind.is_empty() {
        let writes = match &root_ca.rotation {
            Some(rotation) => vec![finish(cluster, rotation)?],
            None => Vec::new(),
        };
        return Ok(Step { writes, busy: false });
    }
    let writes = ask(&behind, root_ca.signing_digest());
    let busy = root_ca.rotation.is_some() || !writes.is_empty();
    Ok(Step { writes, busy })
}

fn is_certified_by(node: &Node, issuer: &Issuer) -> bool {
    let told = &node.description;
    told.cert_issuer_public_key_der == issuer.public_key_der && told.cert_issuer_subject_der == issuer.subject_der
}

/// Asks the next nodes that can answer; those that were asked and have not renewed yet count.
fn ask(behind: &[&Node], signing_digest: &str) -> Vec<Write> {
    let awaited = |node: &&&Node| {
        let is_old = !node.certificate.issuer.is_empty() && node.certificate.issuer != signing_digest;
        is_old && node.status.state == NodeState::Ready
    };
    let (asked, others): (Vec<&Node>, Vec<&Node>) =
        behind.iter().filter(awaited).partition(|node| node.certificate.renewal_due);
    let free = RENEWALS_AT_ONCE.saturating_sub(asked.len());
    let asking = others.into_iter().take(free).map(|node| {
        let mut node = node.clone();
        node.certificate.renewal_due = true;
        Write::put(Object::Node(Box::new(node)))
    });
    asking.collect()
}

/// The new root is the only one from now on. Tokens name the root, so they are new too.
fn finish(cluster: &Cluster, rotation: &RootRotation) -> Result<Write> {
    tracing::info!("every node has a certificate of the new root: the rotation is finished");
    let mut cluster = cluster.clone();
    cluster.root_ca = RootCa {
        cert_pem: rotation.cert_pem.clone(),
        key_pem: rotation.key_pem.clone(),
        worker_token: fresh_token(&rotation.cert_pem)?,
        manager_token: fresh_token(&rotation.cert_pem)?,
        digest: rotation.digest.clone(),
        rotation: None,
        last_forced_rotation: cluster.root_ca.last_forced_rotation,
    };
    Ok(Write::put(Object::Cluster(cluster)))
}

/// The clock, for those who decide with it.
pub(crate) fn begin_now(cluster: &mut Cluster, key_pem: &str) -> Result<()> {
    begin(cluster, key_pem, now())
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
