//! `docker push`.

use super::super::RegistryAuth;
use super::super::digest::Digest;
use super::super::error::ImageError;
use super::super::index::{Image, LayerRecord, stored_form};
use super::super::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
    OCI_MANIFEST,
};
use super::super::store::{Pin, Store};
use super::client::{Access, Client};
use super::download::{ATTEMPTS_MAX, backoff};
use super::endpoint::Registries;
use super::failure::{Attempt, Failure};
use super::{blocking, tell};
use crate::progress::{Progress, ProgressSender};
use futures_util::{StreamExt, TryStreamExt, stream};
use skep_model::image::Reference;
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::io::ReaderStream;

/// Layers that go over at the same time.
const UPLOADS_MAX: usize = 3;
const CHUNK_BYTES: usize = 128 * 1024;
const REPORTS_PER_LAYER: u64 = 50;

/// One push: what and where to.
struct Push<'a> {
    store: &'a Arc<Store>,
    client: Client,
    progress: &'a ProgressSender,
}

/// Pushes a tag.
pub(crate) async fn push(
    store: &Arc<Store>,
    registries: &Registries,
    reference: &Reference,
    auth: Option<&RegistryAuth>,
    progress: &ProgressSender,
    now: Timestamp,
) -> Result<()> {
    if reference.digest.is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    let reference = &stored_form(reference.clone());
    let index = store.index();
    let image = index.reference(reference).and_then(|id| index.image(id)).cloned().ok_or_else(|| {
        Error::not_found(format!("An image does not exist locally with the tag: {}", reference.familiar_name()))
    })?;
    let repository = format!("{}/{}", reference.registry, reference.repository);
    tell(progress, None, &format!("The push refers to repository [{repository}]"), 0, 0).await?;
    let client = Client::new(&registries.origin(reference), reference, auth, Access::Push)?;
    let push = Push { store, client, progress };
    let (digest, size) = push.image(&image, reference).await.map_err(Failure::into_error)?;
    let tag = reference.tag.clone().unwrap_or_default();
    let name = Reference { tag: None, digest: Some(digest.to_string()), ..reference.clone() };
    let changed = Arc::clone(store);
    blocking(move || {
        changed.change(|index| {
            // Removed meanwhile: then there is nothing to remember the digest for.
            if index.image(&image.id).is_some() {
                index.set_reference(name, &image.id, now);
            }
            Ok::<(), ImageError>(())
        })
    })
    .await?;
    tell(progress, None, &format!("{tag}: digest: {digest} size: {size}"), 0, 0).await?;
    let pushed = Progress::Pushed { tag, digest: digest.to_string(), size };
    progress.send(pushed).await.map_err(|_| Failure::Cancelled.into_error())
}

impl Push<'_> {
    /// Layers, config, then the manifest that makes them an image. Gives its digest and size.
    async fn image(&self, image: &Image, reference: &Reference) -> Attempt<(Digest, u64)> {
        let mut layers = Vec::new();
        let mut pins = vec![self.store.pin(&image.id)];
        for chain_id in image.chain.iter() {
            pins.push(self.store.pin(chain_id));
            let layer = self.store.index().layer(chain_id).cloned();
            layers.push(layer.ok_or_else(|| Failure::Other(Error::not_found("the image was removed")))?);
        }
        // Docker shows the topmost layer first.
        for layer in layers.iter().rev() {
            tell(self.progress, Some(layer.diff_id.short()), "Preparing", 0, 0).await?;
        }
        // Made before the stream: a closure over references is not Send for every lifetime.
        let work: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();
        let sent: Vec<(Sent, Pin)> = stream::iter(work).buffered(UPLOADS_MAX).try_collect().await?;
        let config = self.store.read_json_blob(&image.id)?;
        if !self.client.has_blob(&image.id).await? {
            let location = self.client.start_upload().await?;
            let (size, body) = (config.len() as u64, config.clone());
            self.client.finish_upload(&location, &image.id, size, body.into()).await?;
        }
        let (media_type, manifest) = manifest(image, config.len() as u64, sent.iter().map(|(sent, _)| sent));
        let body = serde_json::to_vec(&manifest).map_err(|e| ImageError::Archive(e.to_string()))?;
        let tag = reference.tag.as_deref().unwrap_or("latest");
        self.client.put_manifest(tag, media_type, &body).await?;
        Ok((Digest::of(&body), body.len() as u64))
    }

    async fn layer(&self, layer: &Arc<LayerRecord>) -> Attempt<(Sent, Pin)> {
        let id = layer.diff_id.short();
        // Two pushes must not compress the same layer twice.
        let busy = self.store.busy(&layer.chain_id);
        let turn = busy.lock().await;
        let (store, chain_id) = (Arc::clone(self.store), layer.chain_id.clone());
        let missing = || ImageError::Archive("the image was removed while it was pushed".into());
        let (blob, pin) = blocking(move || {
            let layer = store.index().layer(&chain_id).cloned().ok_or_else(missing)?;
            store.compressed(&layer)
        })
        .await?;
        drop(turn);
        let sent = Sent { digest: blob.digest, size: blob.size, zstd: blob.zstd };
        if self.client.has_blob(&sent.digest).await? {
            tell(self.progress, Some(id), "Layer already exists", 0, 0).await?;
            return Ok((sent, pin));
        }
        let mut attempt = 0;
        while let Err(failure) = self.upload(id, &sent).await {
            attempt += 1;
            if !failure.is_passing() || attempt >= ATTEMPTS_MAX {
                return Err(failure);
            }
            let pause = backoff(attempt);
            tell(self.progress, Some(id), &format!("Retrying in {} seconds", pause.as_secs().max(1)), 0, 0).await?;
            tokio::time::sleep(pause).await;
        }
        tell(self.progress, Some(id), "Pushed", 0, 0).await?;
        Ok((sent, pin))
    }

    async fn upload(&self, id: &str, blob: &Sent) -> Attempt<()> {
        let location = self.client.start_upload().await?;
        let path = self.store.blob_path(&blob.digest);
        let body = body(path, id.to_owned(), blob.size, self.progress.clone()).await?;
        self.client.finish_upload(&location, &blob.digest, blob.size, body).await
    }
}

/// A layer as it lies in the registry.
struct Sent {
    digest: Digest,
    size: u64,
    zstd: bool,
}

/// A file as a request body that tells how far it got.
async fn body(path: PathBuf, id: String, size: u64, progress: ProgressSender) -> Attempt<reqwest::Body> {
    let file = tokio::fs::File::open(&path).await.map_err(ImageError::file("opening", &path))?;
    let step = size / REPORTS_PER_LAYER + 1;
    let state = (ReaderStream::with_capacity(file, CHUNK_BYTES), 0_u64, 0_u64);
    let chunks = stream::try_unfold(state, move |(mut file, mut sent, mut reported)| {
        let (id, progress) = (id.clone(), progress.clone());
        async move {
            let Some(chunk) = file.try_next().await? else { return Ok(None) };
            sent += chunk.len() as u64;
            if sent >= reported + step || sent == size {
                reported = sent;
                let gone = |_| std::io::Error::other("the receiver of the progress went away");
                tell(&progress, Some(&id), "Pushing", sent, size).await.map_err(gone)?;
            }
            Ok::<_, std::io::Error>(Some((chunk, (file, sent, reported))))
        }
    });
    Ok(reqwest::Body::wrap_stream(chunks))
}

/// Docker's format where it can say everything, OCI's for zstd layers.
fn manifest<'a>(
    image: &Image,
    config_size: u64,
    layers: impl Iterator<Item = &'a Sent> + Clone,
) -> (&'static str, Manifest) {
    let is_oci = layers.clone().any(|layer| layer.zstd);
    let (media_type, config_type) = if is_oci { (OCI_MANIFEST, OCI_CONFIG) } else { (DOCKER_MANIFEST, DOCKER_CONFIG) };
    let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let layer_type = |layer: &Sent| match (is_oci, layer.zstd) {
        (false, _) => DOCKER_LAYER,
        (true, false) => OCI_LAYER_GZIP,
        (true, true) => OCI_LAYER_ZSTD,
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type.to_owned(),
        config: descriptor(config_type, &image.id, config_size),
        layers: layers.map(|layer| descriptor(layer_type(layer), &layer.digest, layer.size)).collect(),
    };
    (media_type, manifest)
}
