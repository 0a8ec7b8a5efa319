//! Becoming a member: a join token turns into a certificate.

use rand::seq::SliceRandom;
use skep_identity::{CertStore, CertificateRequest, Identity, JoinToken, RootDigest, StoredIdentity, connect_for_join};
use skep_model::node::Availability;
use skep_model::{Error, ErrorKind, Result};
use skep_proto::ca::ca_client::CaClient;
use skep_proto::ca::node_ca_client::NodeCaClient;
use skep_proto::ca::{GetRootCaCertificateRequest, IssueNodeCertificateRequest, IssueNodeCertificateResponse};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Issuing writes to the replicated store, so it takes longer than a plain call.
const ISSUE_MAX: Duration = Duration::from_secs(20);

/// Gets a certificate from one of the managers at `addresses`, saves it in `store`, and
/// returns the identity it makes.
///
/// # Errors
/// `InvalidArgument` for a token that is malformed or not this swarm's, otherwise the last
/// address's failure.
pub async fn join(
    store: &CertStore,
    addresses: &[String],
    token: &str,
    availability: Availability,
) -> Result<Identity> {
    let token: JoinToken = token.parse()?;
    let mut addresses = addresses.to_vec();
    addresses.shuffle(&mut rand::rng());
    let mut failure = Error::invalid("at least 1 remote manager address is required to join a swarm");
    for address in &addresses {
        match join_at(store, address, &token, availability).await {
            Ok(identity) => return Ok(identity),
            Err(error) if matches!(error.kind, ErrorKind::InvalidArgument | ErrorKind::Forbidden) => return Err(error),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn join_at(store: &CertStore, address: &str, token: &JoinToken, availability: Availability) -> Result<Identity> {
    let channel = connect_for_join(address, token).await?;
    let mut ca = CaClient::new(channel.clone());
    let root_pem = deadline(ca.get_root_ca_certificate(GetRootCaCertificateRequest {})).await?.certificate_pem;
    check_root(&root_pem, token)?;
    let request = CertificateRequest::create()?;
    let issued = issue(channel, &request, token.to_text(), availability).await?;
    save(store, &root_pem, &issued, &request)
}

/// Renews the certificate over a connection made with the present one.
///
/// # Errors
/// When the manager refuses or cannot be reached.
pub(crate) async fn renew(store: &CertStore, channel: Channel, identity: &Identity) -> Result<()> {
    let request = CertificateRequest::create()?;
    let issued = issue(channel, &request, String::new(), Availability::Active).await?;
    let parts = StoredIdentity {
        root_pem: issued.root_ca_pem,
        chain_pem: issued.certificate_chain_pem,
        key_pem: request.key_pem().to_owned().into(),
    };
    take(store, identity, &parts)
}

/// From now on this node trusts these roots, and only these.
///
/// # Errors
/// When its own certificate is of none of them: it is to be renewed first.
pub(crate) fn trust(store: &CertStore, root_pem: &str, identity: &Identity) -> Result<()> {
    let stored = store.load()?.ok_or_else(|| Error::internal("this node's certificate is gone"))?;
    take(store, identity, &StoredIdentity { root_pem: root_pem.to_owned(), ..stored })
}

/// Checked first, then saved, then used: a crash in between leaves what is good either way.
fn take(store: &CertStore, identity: &Identity, parts: &StoredIdentity) -> Result<()> {
    identity.check(parts)?;
    store.save(parts)?;
    identity.replace(parts)?;
    Ok(())
}

/// TLS has proved the manager by the digest already; this proves the bytes that are kept.
fn check_root(root_pem: &str, token: &JoinToken) -> Result<()> {
    if RootDigest::of_pem(root_pem)? == *token.digest() {
        return Ok(());
    }
    Err(Error::invalid("remote CA does not match fingerprint. Expected: the certificate named by the join token"))
}

async fn issue(
    channel: Channel,
    request: &CertificateRequest,
    token: String,
    availability: Availability,
) -> Result<IssueNodeCertificateResponse> {
    let availability = match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    };
    let call =
        IssueNodeCertificateRequest { csr_pem: request.pem().to_owned(), token, availability: availability.to_owned() };
    let mut ca = NodeCaClient::new(channel);
    deadline(ca.issue_node_certificate(call)).await
}

fn save(
    store: &CertStore,
    root_pem: &str,
    issued: &IssueNodeCertificateResponse,
    request: &CertificateRequest,
) -> Result<Identity> {
    let parts = StoredIdentity {
        root_pem: root_pem.to_owned(),
        chain_pem: issued.certificate_chain_pem.clone(),
        key_pem: request.key_pem().to_owned().into(),
    };
    let identity = Identity::new(&parts)?;
    store.save(&parts)?;
    Ok(identity)
}

async fn deadline<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T> {
    match tokio::time::timeout(ISSUE_MAX, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Error::unavailable("the manager did not answer in time")),
    }
}

/// The text that clients of the reference see: `rpc error: code = ... desc = ...`.
fn refused(status: &Status) -> Error {
    let text = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument => Error::invalid(text),
        Code::PermissionDenied | Code::Unauthenticated => Error::forbidden(text),
        Code::Unavailable | Code::DeadlineExceeded => Error::unavailable(text),
        _ => Error::internal(text),
    }
}
