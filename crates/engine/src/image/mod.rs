//! Content-addressed images: blobs, layers, references, registries, archives.
//!
//! Below `<data root>/image`: `blobs/sha256/<hex>` (configs, manifests, compressed
//! layers as pulled), `layers/<chain id>/diff` (unpacked, shared by images, read-only),
//! `tmp/` (never referenced, emptied at start), `repositories.json`.

pub(crate) mod compress;
mod config;
mod create;
mod digest;
mod error;
mod history;
mod index;
mod layer;
mod load;
mod manifest;
mod meter;
pub(crate) mod pack;
mod partial;
mod registry;
mod remove;
mod save;
mod store;
pub(crate) mod tree;
pub(crate) mod unpack;
pub(crate) mod whiteout;

use crate::config::EngineConfig;
use crate::progress::ProgressSender;
pub(crate) use error::{ImageError, ImageResult};
pub(crate) use pack::is_opaque;
use registry::Registries;
use skep_model::container::ContainerConfig;
use skep_model::image::{HistoryEntry, ImageInfo, Reference};
use skep_model::{Error, Result, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;
pub(crate) use store::Temporary;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

/// Credentials for one registry.
#[derive(Clone, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth { .. }")
    }
}

/// What `rmi` did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(String),
}

/// A layer made here: by the builder or by commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// `sha256:` of the uncompressed tar.
    pub diff_id: String,
    pub size: u64,
}

/// A change to an image config that makes a new image on top of a parent.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Image id to build on; `None` is scratch.
    pub parent: Option<String>,
    /// `None` for a step that changes only the config.
    pub layer: Option<NewLayer>,
    pub config: ContainerConfig,
    pub created: Timestamp,
    pub created_by: String,
    pub comment: String,
    pub author: String,
}

/// The image store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    store: Arc<Store>,
    registries: Arc<Registries>,
}

impl ImageStore {
    /// Opens or makes the store; drops half-made blobs and layers.
    pub async fn open(config: &EngineConfig) -> Result<Self> {
        let root = config.data_root.join("image");
        let store = blocking(move || {
            partial::purge(&root, std::time::SystemTime::now());
            Store::open(root)
        })
        .await?;
        let registries =
            Registries { insecure: config.insecure_registries.clone(), mirrors: config.registry_mirrors.clone() };
        Ok(Self { store: Arc::new(store), registries: Arc::new(registries) })
    }

    /// A name in `tmp/`, to be made a file or directory; removed with the handle.
    pub(crate) fn temporary(&self) -> Temporary {
        self.store.temporary()
    }

    /// Where the store lives.
    pub(crate) fn root(&self) -> &Path {
        self.store.root()
    }

    /// By reference, id, `sha256:id` or unique id prefix. `No such image: x` otherwise.
    pub fn resolve(&self, name: &str) -> Result<ImageInfo> {
        let index = self.store.index();
        index.find(name).map(|image| index.info(image))
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<ImageInfo> {
        let index = self.store.index();
        let mut images: Vec<ImageInfo> = index.images().map(|image| index.info(image)).collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        images
    }

    /// Bytes of all layers of all images, each counted once.
    pub(crate) fn layer_bytes(&self) -> u64 {
        let index = self.store.index();
        let chains: std::collections::BTreeSet<_> = index.images().flat_map(|image| image.chain.iter()).collect();
        chains.into_iter().filter_map(|chain_id| index.layer(chain_id)).map(|layer| layer.size).sum()
    }

    /// Newest entry first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let index = self.store.index();
        index.find(name).map(|image| history::history(&index, image))
    }

    /// Unpacked layer directories, topmost first: overlayfs's `lowerdir` order.
    pub fn layer_dirs(&self, image_id: &str) -> Result<Vec<PathBuf>> {
        let index = self.store.index();
        let image = index.find(image_id)?;
        if image.chain.is_empty() {
            return Ok(vec![self.store.empty_path()]);
        }
        Ok(image.chain.iter().rev().map(|chain_id| self.store.diff_path(chain_id)).collect())
    }

    /// Pulls and returns the image. Neither tag nor digest means `latest`.
    ///
    /// # Errors
    /// `manifest for x not found: ...` and `pull access denied for x, ...` are not-found errors.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        auth: Option<RegistryAuth>,
        progress: ProgressSender,
    ) -> Result<ImageInfo> {
        let reference = Reference::parse(reference)?.with_default_tag();
        let (store, registries) = (&self.store, &self.registries);
        let id = registry::pull(store, registries, &reference, platform, auth.as_ref(), &progress, now()).await?;
        self.resolve(&id.to_string())
    }

    /// Pushes a tag; layers made here are compressed first, once.
    pub async fn push(&self, reference: &str, auth: Option<RegistryAuth>, progress: ProgressSender) -> Result<()> {
        let reference = Reference::parse(reference)?.with_default_tag();
        registry::push(&self.store, &self.registries, &reference, auth.as_ref(), &progress, now()).await
    }

    /// Whether a registry (`host[:port]` or URL) takes the credentials.
    ///
    /// # Errors
    /// `Unauthenticated` when it does not; others when it cannot be asked.
    pub async fn login(&self, server: &str, auth: &RegistryAuth) -> Result<()> {
        registry::login(&self.registries, server, auth).await
    }

    /// Digest and platforms (os, architecture) of a remote reference, without pulling.
    pub async fn remote_digest(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<RemoteDescriptor> {
        let reference = Reference::parse(reference)?.with_default_tag();
        registry::remote_digest(&self.registries, &reference, auth.as_ref()).await
    }

    /// `docker import`: a root filesystem tar becomes a one-layer image. Returns its id.
    pub async fn import(
        &self,
        tar: impl AsyncRead + Send + Unpin + 'static,
        reference: Option<&str>,
        message: &str,
        config: ContainerConfig,
        created: Timestamp,
    ) -> Result<String> {
        let name = reference.map(create::tag_name).transpose()?;
        let store = Arc::clone(&self.store);
        let reader = SyncIoBridge::new(tar);
        let message = message.to_owned();
        blocking(move || create::import(&store, reader, name, message, &config, created, now())).await
    }

    /// `docker load`: a docker archive or an OCI layout. Reports Docker's `Loaded image: x`
    /// lines itself; gives the names, or ids of images without one.
    pub async fn load(
        &self,
        tar: impl AsyncRead + Send + Unpin + 'static,
        progress: ProgressSender,
    ) -> Result<Vec<String>> {
        let store = Arc::clone(&self.store);
        let reader = SyncIoBridge::new(tar);
        blocking(move || load::load(&store, reader, &progress, now())).await
    }

    /// `docker save`: an archive that is both a docker archive and an OCI layout.
    /// A failure on the way is an error of the reading.
    pub async fn save(&self, names: &[String]) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        let plan = save::plan(&self.store, names)?;
        Ok(save::stream(Arc::clone(&self.store), plan))
    }

    /// Gives an image one more name, taking the name from another image if need be. Blocking, shortly.
    pub fn tag(&self, name: &str, target: &str) -> Result<()> {
        let target = create::tag_name(target)?;
        self.store.change(|index| {
            let id = index.find(name)?.id.clone();
            index.set_reference(target, &id, now());
            Ok(())
        })
    }

    /// `in_use` answers which containers (id, running) use an image id. Blocking: removes files.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&str) -> Vec<(String, bool)>,
    ) -> Result<Vec<Removed>> {
        remove::remove(&self.store, name, force, in_use)
    }

    /// Stores a directory's content (an overlay upper directory, whiteouts included) as a layer.
    pub async fn commit_dir(&self, parent_image: Option<&str>, upper: &Path) -> Result<NewLayer> {
        let store = Arc::clone(&self.store);
        let parent = match parent_image {
            Some(name) => store.index().find(name)?.chain.last().cloned(),
            None => None,
        };
        let upper = upper.to_owned();
        blocking(move || {
            let (layer, _pin) = store.add_directory(&upper, parent.as_ref())?;
            // Until `commit_image`, which lets go of it, or the next start.
            store.hold(&layer.chain_id);
            Ok(NewLayer { diff_id: layer.diff_id.to_string(), size: layer.size })
        })
        .await
    }

    /// A layer of another image for [`ImageStore::commit_image`], on top of the same layers.
    pub(crate) fn reuse_layer(&self, parent_image: Option<&str>, diff_id: &str) -> Result<NewLayer> {
        create::reuse_layer(&self.store, parent_image, diff_id)
    }

    /// Makes an image of a parent and a change. Returns its id (`sha256:...`).
    pub async fn commit_image(&self, image: NewImage) -> Result<String> {
        let store = Arc::clone(&self.store);
        blocking(move || create::commit(&store, &image)).await
    }

    /// Makes images of changes to the config alone, each on top of the one before and the
    /// first on its own parent. All or none. Returns their ids in order.
    pub async fn commit_chain(&self, images: Vec<NewImage>) -> Result<Vec<String>> {
        let store = Arc::clone(&self.store);
        blocking(move || create::commit_chain(&store, &images)).await
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> ImageResult<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Error::from),
        Err(e) => Err(Error::internal(format!("the image store's work was stopped: {e}"))),
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

/// What a registry says of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDescriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    /// (architecture, os)
    pub platforms: Vec<(String, String)>,
}

#[cfg(fuzzing)]
pub(crate) fn fuzz_documents(bytes: &[u8]) {
    if let Ok(manifest::Document::List(list)) = manifest::parse(bytes) {
        let _ = manifest::Platform::parse("linux/arm64/v8").map(|wanted| list.choose(&wanted).is_some());
    }
    let _ = config::ImageConfig::parse(bytes);
    let _ = index::IndexFile::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Reference::parse(text);
        let _ = digest::Digest::parse(text);
        let _ = manifest::Platform::parse(text);
    }
}

#[cfg(fuzzing)]
#[expect(clippy::expect_used, reason = "a fuzzer ends at what it does not expect")]
pub(crate) fn fuzz_layer(bytes: &[u8]) {
    let place = tempfile::tempdir_in("/dev/shm").expect("a folder of memory");
    let root = place.path().join("root");
    std::fs::create_dir(&root).expect("an empty folder");
    if let Ok((compression, stream)) = compress::detect(bytes)
        && let Ok(content) = compress::decoder(compression, stream)
    {
        // What compresses well would fill memory with nothing.
        let _ = unpack::unpack(std::io::Read::take(content, 1 << 20), &root);
    }
    let beside = std::fs::read_dir(place.path()).expect("the folder is there").count();
    assert_eq!(beside, 1, "a layer left its folder");
}
