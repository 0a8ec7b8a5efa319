//! `docker pull`.

use super::super::RegistryAuth;
use super::super::config::ImageConfig;
use super::super::digest::{self, Digest};
use super::super::error::ImageError;
use super::super::index;
use super::super::manifest::{self, Descriptor, Document, Manifest, Platform};
use super::super::store::{Pin, Store};
use super::client::{Access, Client, Found};
use super::download::download;
use super::endpoint::Registries;
use super::failure::{Attempt, Failure};
use super::{blocking, hint, tell, tidy, wanted};
use crate::progress::ProgressSender;
use skep_model::image::Reference;
use skep_model::{Error, Result, Timestamp};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// Layers that come over at the same time.
const DOWNLOADS_MAX: usize = 3;
const EXTRACT_REPORTS: u64 = 50;

/// One pull: what for and with what.
struct Pull<'a> {
    store: &'a Arc<Store>,
    reference: &'a Reference,
    platform: Option<Platform>,
    progress: &'a ProgressSender,
    now: Timestamp,
}

/// Pulls a reference; gives the image's id.
pub(crate) async fn pull(
    store: &Arc<Store>,
    registries: &Registries,
    reference: &Reference,
    platform: Option<&str>,
    auth: Option<&RegistryAuth>,
    progress: &ProgressSender,
    now: Timestamp,
) -> Result<Digest> {
    let platform = platform.filter(|text| !text.is_empty()).map(Platform::parse).transpose()?;
    let pull = Pull { store, reference, platform, progress, now };
    let mut endpoints = registries.for_pull(reference);
    let origin = endpoints.pop();
    for mirror in endpoints {
        // Credentials are for the registry, not for its mirrors.
        match pull.from(Client::new(&mirror, reference, None, Access::Pull)?).await {
            Ok(id) => return Ok(id),
            Err(Failure::Cancelled) => return Err(Failure::Cancelled.into_error()),
            Err(failure) => tracing::warn!(mirror = mirror.base, %failure, "a registry mirror did not help"),
        }
    }
    let origin = origin.unwrap_or_else(|| registries.origin(reference));
    let outcome = pull.from(Client::new(&origin, reference, auth, Access::Pull)?).await;
    if outcome.is_err() {
        tidy(store).await;
    }
    outcome.map_err(|failure| failure.into_pull_error(reference))
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

impl Pull<'_> {
    async fn from(&self, client: Client) -> Attempt<Digest> {
        let client = Arc::new(client);
        let word = wanted(self.reference);
        let found = client.manifest(&word).await?;
        let status = format!("Pulling from {}", self.reference.repository);
        tell(self.progress, Some(&word), &status, 0, 0).await?;
        let top = found.digest.clone();
        let manifest = self.image_manifest(&client, found).await?;
        let id = manifest.config.digest.clone();
        if self.store.index().image(&id).is_none() {
            self.content(&client, &manifest).await?;
        }
        let is_news = self.give_names(&id, &top).await?;
        let name = self.reference.familiar();
        let status = match is_news {
            true => format!("Status: Downloaded newer image for {name}"),
            false => format!("Status: Image is up to date for {name}"),
        };
        tell(self.progress, None, &format!("Digest: {top}"), 0, 0).await?;
        tell(self.progress, None, &status, 0, 0).await?;
        Ok(id)
    }

    /// The manifest of one image: the one of our platform if there are several.
    async fn image_manifest(&self, client: &Client, found: Found) -> Attempt<Manifest> {
        let list = match manifest::parse(&found.body)? {
            Document::Image(manifest) => return checked(manifest),
            Document::List(list) => list,
        };
        let platform = match &self.platform {
            Some(platform) => platform.clone(),
            None => Platform::parse("")?,
        };
        let chosen = list.choose(&platform).ok_or_else(|| {
            let variant = if platform.variant.is_empty() { "" } else { "/" };
            Failure::Other(Error::not_found(format!(
                "no matching manifest for {}/{}{variant}{} in the manifest list entries",
                platform.os, platform.architecture, platform.variant
            )))
        })?;
        let found = client.manifest(&chosen.digest.to_string()).await?;
        match manifest::parse(&found.body)? {
            Document::Image(manifest) => checked(manifest),
            Document::List(_) => Err(ImageError::Archive("manifest list inside a manifest list".into()).into()),
        }
    }

    /// Brings config and layers into the store and makes the image known.
    async fn content(&self, client: &Arc<Client>, manifest: &Manifest) -> Attempt<()> {
        let blob = client.small_blob(&manifest.config).await?;
        let config = ImageConfig::parse(&blob)?;
        self.check_platform(&config)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Config(format!(
                "{} layers in the config, {} in the manifest",
                diff_ids.len(),
                manifest.layers.len()
            ))
            .into());
        }
        let _pins = self.layers(client, &manifest.layers, diff_ids).await?;
        let (store, now) = (Arc::clone(self.store), self.now);
        blocking(move || store.add_image(&blob, None, Vec::new(), now)).await?;
        Ok(())
    }

    /// Only an explicit wish is checked: without one, what the registry has is taken.
    fn check_platform(&self, config: &ImageConfig) -> Attempt<()> {
        let Some(wish) = &self.platform else { return Ok(()) };
        if config.architecture == wish.architecture || config.architecture.is_empty() {
            return Ok(());
        }
        Err(Failure::Other(Error::not_found(format!(
            "image with reference {} was found but does not match the specified platform: \
             wanted {}/{}, actual: {}/{}",
            self.reference.familiar(),
            wish.os,
            wish.architecture,
            config.os,
            config.architecture
        ))))
    }

    /// Downloads several layers at a time and unpacks them in order.
    async fn layers(&self, client: &Arc<Client>, layers: &[Descriptor], diff_ids: &[Digest]) -> Attempt<Vec<Pin>> {
        let chain = digest::chain_ids(diff_ids);
        let mut pins: Vec<Pin> = chain.iter().map(|chain_id| self.store.pin(chain_id)).collect();
        let slots = Arc::new(Semaphore::new(DOWNLOADS_MAX));
        // Dropping the set, also when this pull is cancelled, ends the downloads.
        let mut downloads = JoinSet::new();
        let mut arrivals = Vec::new();
        for (layer, chain_id) in layers.iter().zip(&chain) {
            let id = layer.digest.short();
            if self.store.index().layer(chain_id).is_some() {
                tell(self.progress, Some(id), "Already exists", 0, 0).await?;
                arrivals.push(None);
                continue;
            }
            tell(self.progress, Some(id), "Pulling fs layer", 0, 0).await?;
            let (sender, arrival) = oneshot::channel();
            let work = download(Arc::clone(self.store), Arc::clone(client), layer.clone(), self.progress.clone());
            let slots = Arc::clone(&slots);
            downloads.spawn(async move {
                let _slot = slots.acquire_owned().await;
                // Nobody waits any more if this fails.
                let _ = sender.send(work.await);
            });
            arrivals.push(Some(arrival));
        }
        for (number, arrival) in arrivals.into_iter().enumerate() {
            let Some(arrival) = arrival else { continue };
            let pin = arrival.await.map_err(|_| Failure::Cancelled)??;
            let below = number.checked_sub(1).map(|below| &chain[below]);
            self.unpack(&layers[number], below, &diff_ids[number]).await?;
            pins.push(pin);
        }
        Ok(pins)
    }

    async fn unpack(&self, layer: &Descriptor, below: Option<&Digest>, diff_id: &Digest) -> Attempt<()> {
        let chain_id = Digest::chain(below, diff_id);
        let busy = self.store.busy(&chain_id);
        let turn = busy.lock().await;
        // Another pull may have been faster.
        if self.store.index().layer(&chain_id).is_none() {
            let (store, progress) = (Arc::clone(self.store), self.progress.clone());
            let (layer, below, diff_id) = (layer.clone(), below.cloned(), diff_id.clone());
            blocking(move || {
                let path = store.blob_path(&layer.digest);
                let file = std::fs::File::open(&path).map_err(ImageError::file("opening", &path))?;
                let watched = Watched::new(file, &layer, progress);
                store.add_blob_layer(watched, &layer.digest, layer.size, below.as_ref(), &diff_id)
            })
            .await?;
        }
        drop(turn);
        tell(self.progress, Some(layer.digest.short()), "Pull complete", 0, 0).await
    }

    /// Points tag and digest at the image; says whether that changed anything.
    async fn give_names(&self, id: &Digest, top: &Digest) -> Attempt<bool> {
        let mut names = vec![Reference {
            registry: self.reference.registry.clone(),
            repository: self.reference.repository.clone(),
            tag: None,
            digest: Some(top.to_string()),
        }];
        if self.reference.digest.is_none() {
            names.push(index::stored_form(self.reference.clone()));
        }
        let index = self.store.index();
        if names.iter().all(|name| index.reference(name) == Some(id)) {
            return Ok(false);
        }
        let (store, id, now) = (Arc::clone(self.store), id.clone(), self.now);
        blocking(move || {
            store.change(|index| {
                if index.image(&id).is_none() {
                    return Err(ImageError::Archive("the image was removed while it was pulled".into()));
                }
                names.into_iter().for_each(|name| index.set_reference(name, &id, now));
                Ok(())
            })
        })
        .await?;
        Ok(true)
    }
}

/// Refuses what is stored like an image but is none.
fn checked(manifest: Manifest) -> Attempt<Manifest> {
    let kind = manifest.config.media_type.as_str();
    if !matches!(kind, "" | "application/octet-stream" | manifest::DOCKER_CONFIG | manifest::OCI_CONFIG) {
        let why = format!("encountered remote \"{kind}\" when fetching: it is not a container image");
        return Err(Failure::Other(Error::invalid(why)));
    }
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.media_type.contains("foreign")) {
        let why = format!("layer {} is kept outside of the registry, which is not supported", layer.digest);
        return Err(Failure::Other(Error::invalid(why)));
    }
    Ok(manifest)
}

/// Tells how much of a blob was read for unpacking.
struct Watched<R> {
    inner: R,
    id: String,
    read: u64,
    total: u64,
    reported: u64,
    progress: ProgressSender,
}

impl<R: Read> Watched<R> {
    fn new(inner: R, layer: &Descriptor, progress: ProgressSender) -> Self {
        let id = layer.digest.short().to_owned();
        Self { inner, id, read: 0, total: layer.size, reported: 0, progress }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        let is_end = count == 0 && self.reported < self.read;
        if is_end || self.read > self.reported + self.total / EXTRACT_REPORTS {
            self.reported = self.read;
            hint(&self.progress, &self.id, "Extracting", self.read, self.total)
                .map_err(|failure| io::Error::other(failure.to_string()))?;
        }
        Ok(count)
    }
}
