//! Speaking with registries: the distribution protocol over HTTP, pull and push.

mod auth;
mod client;
mod download;
mod endpoint;
mod failure;
mod login;
mod pull;
mod push;

pub(crate) use endpoint::Registries;
pub(crate) use login::login;
pub(crate) use pull::pull;
pub(crate) use push::push;

use super::config::ImageConfig;
use super::manifest::{self, Document};
use super::store::Store;
use super::{RegistryAuth, RemoteDescriptor};
use crate::progress::{Progress, ProgressSender};
use client::{Access, Client};
use endpoint::Endpoint;
use failure::{Attempt, Failure};
use skep_model::image::Reference;
use skep_model::{Error, Result};
use tokio::sync::mpsc::error::TrySendError;

/// What a registry says of a reference, without pulling it. Mirrors are asked first, as
/// for a pull: both must speak of the same image.
pub(crate) async fn remote_digest(
    registries: &Registries,
    reference: &Reference,
    auth: Option<&RegistryAuth>,
) -> Result<RemoteDescriptor> {
    let mut endpoints = registries.for_pull(reference);
    let origin = endpoints.pop().unwrap_or_else(|| registries.origin(reference));
    for mirror in endpoints {
        // Credentials are for the registry, not for its mirrors.
        match digest_at(&mirror, reference, None).await {
            Ok(found) => return Ok(found),
            Err(failure) => tracing::warn!(mirror = mirror.base, %failure, "a registry mirror did not help"),
        }
    }
    digest_at(&origin, reference, auth).await.map_err(|failure| failure.into_pull_error(reference))
}

async fn digest_at(
    endpoint: &Endpoint,
    reference: &Reference,
    auth: Option<&RegistryAuth>,
) -> Attempt<RemoteDescriptor> {
    let client = Client::new(endpoint, reference, auth, Access::Pull)?;
    let found = client.manifest(&wanted(reference)).await?;
    let platforms = match manifest::parse(&found.body)? {
        Document::List(list) => list.manifests.into_iter().filter_map(|m| m.platform).collect(),
        Document::Image(image) => {
            let config = ImageConfig::parse(&client.small_blob(&image.config).await?)?;
            vec![manifest::Platform { architecture: config.architecture, os: config.os, ..Default::default() }]
        }
    };
    Ok(RemoteDescriptor {
        media_type: found.media_type,
        digest: found.digest.to_string(),
        size: found.body.len() as u64,
        // Attestations stand in lists as a platform of their own, which nobody can run.
        platforms: platforms
            .into_iter()
            .filter(|platform| platform.os != "unknown")
            .map(|platform| (platform.architecture, platform.os))
            .collect(),
    })
}

/// The last part of a manifest's address: a digest if there is one, else the tag.
fn wanted(reference: &Reference) -> String {
    reference.digest.clone().or_else(|| reference.tag.clone()).unwrap_or_else(|| "latest".to_owned())
}

/// Tells one thing; a receiver that went away cancels the work.
async fn tell(progress: &ProgressSender, id: Option<&str>, status: &str, current: u64, total: u64) -> Attempt<()> {
    let status = Progress::Status { id: id.map(str::to_owned), status: status.to_owned(), current, total };
    progress.send(status).await.map_err(|_| Failure::Cancelled)
}

/// Tells one thing if there is room for it. For work that others wait for: a client that
/// does not read must not hold them up.
fn hint(progress: &ProgressSender, id: &str, status: &str, current: u64, total: u64) -> Attempt<()> {
    let status = Progress::Status { id: Some(id.to_owned()), status: status.to_owned(), current, total };
    match progress.try_send(status) {
        Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
        Err(TrySendError::Closed(_)) => Err(Failure::Cancelled),
    }
}

/// Runs blocking store work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> super::ImageResult<T> + Send + 'static) -> Attempt<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Failure::from),
        Err(e) => Err(Failure::Other(Error::internal(format!("the image store's work was stopped: {e}")))),
    }
}

/// Drops what an unfinished transfer left in the store. Its error is not worth more than a warning.
async fn tidy(store: &std::sync::Arc<Store>) {
    let store = std::sync::Arc::clone(store);
    if let Err(failure) = blocking(move || store.collect()).await {
        tracing::warn!(%failure, "leftovers of a transfer stay until the next start");
    }
}
