//! Content-addressed images: blobs, layers, references, registries, archives.
//!
//! Below `<data root>/image`: `blobs/sha256/<hex>` (configs, manifests, compressed
//! layers as pulled), `layers/<chain id>/diff` (unpacked, shared by images, read-only),
//! `tmp/` (never referenced, emptied at start), `repositories.json`.

use crate::config::EngineConfig;
use crate::progress::ProgressSender;
use skep_model::container::ContainerConfig;
use skep_model::image::{HistoryEntry, ImageInfo};
use skep_model::{Result, Timestamp};
use std::path::{Path, PathBuf};
use tokio::io::AsyncRead;

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
pub struct ImageStore {}

impl ImageStore {
    /// Opens or makes the store; drops half-made blobs and layers.
    pub async fn open(config: &EngineConfig) -> Result<Self> {
        let _ = config;
        todo!()
    }

    /// By reference, id, `sha256:id` or unique id prefix. `No such image: x` otherwise.
    pub fn resolve(&self, name: &str) -> Result<ImageInfo> {
        let _ = name;
        todo!()
    }

    pub fn list(&self) -> Vec<ImageInfo> {
        todo!()
    }

    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let _ = name;
        todo!()
    }

    /// Unpacked layer directories, topmost first: overlayfs's `lowerdir` order.
    pub fn layer_dirs(&self, image_id: &str) -> Result<Vec<PathBuf>> {
        let _ = image_id;
        todo!()
    }

    /// Pulls and returns the image. `all_tags` pulls every tag of the repository.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        auth: Option<RegistryAuth>,
        progress: ProgressSender,
    ) -> Result<ImageInfo> {
        let _ = (reference, platform, auth, progress);
        todo!()
    }

    pub async fn push(&self, reference: &str, auth: Option<RegistryAuth>, progress: ProgressSender) -> Result<()> {
        let _ = (reference, auth, progress);
        todo!()
    }

    /// Digest and platforms (os, architecture) of a remote reference, without pulling.
    pub async fn remote_digest(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<RemoteDescriptor> {
        let _ = (reference, auth);
        todo!()
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
        let _ = (tar, reference, message, config, created);
        todo!()
    }

    /// `docker load`: a docker archive or an OCI layout.
    pub async fn load(
        &self,
        tar: impl AsyncRead + Send + Unpin + 'static,
        progress: ProgressSender,
    ) -> Result<Vec<String>> {
        let _ = (tar, progress);
        todo!()
    }

    /// `docker save`: an archive that is both a docker archive and an OCI layout.
    pub async fn save(&self, names: &[String]) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        let _ = names;
        todo!()
    }

    pub fn tag(&self, name: &str, target: &str) -> Result<()> {
        let _ = (name, target);
        todo!()
    }

    /// `in_use` answers which containers (id, running) use an image id.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&str) -> Vec<(String, bool)>,
    ) -> Result<Vec<Removed>> {
        let _ = (name, force, in_use);
        todo!()
    }

    /// Stores a directory's content (an overlay upper directory, whiteouts included) as a layer.
    pub async fn commit_dir(&self, parent_image: Option<&str>, upper: &Path) -> Result<NewLayer> {
        let _ = (parent_image, upper);
        todo!()
    }

    /// Makes an image of a parent and a change. Returns its id (`sha256:...`).
    pub async fn commit_image(&self, image: NewImage) -> Result<String> {
        let _ = image;
        todo!()
    }
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
