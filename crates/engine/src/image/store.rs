//! The store on disk and the rules that keep it whole.
//!
//! `repositories.json` is the only truth about which images exist; it is replaced in one
//! rename, after everything it refers to is on disk. Blobs and layers that nothing refers
//! to are leftovers: dropped at start, or when the last image that used them goes.
//! While work is under way a [`Pin`] keeps what it needs.

use super::config::ImageConfig;
use super::digest::{Digest, Hashing};
use super::error::{ImageError, ImageResult};
use super::index::{ImageRecord, Index, IndexFile, LayerRecord};
use super::{partial, tree};
use rustix::fs::{Mode, OFlags};
use skep_model::Timestamp;
use skep_model::image::Reference;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

/// Configs and manifests are read into memory whole.
pub(crate) const JSON_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// `repositories.json`: about a hundred bytes per image and name.
const INDEX_BYTES_MAX: u64 = 256 * 1024 * 1024;
const LAYER_FILE: &str = "layer.json";

/// The image store's directories, its index and what is being worked on.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    index: RwLock<Arc<Index>>,
    /// Held while a changed index is written and swapped in; taken before `pins`.
    changing: Mutex<()>,
    /// Layers (by chain id) and blobs that must not be collected now.
    pins: Mutex<HashMap<Digest, usize>>,
    /// Work that must not be done twice at the same time.
    busy: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    temporary: AtomicU64,
    /// Layers and large blobs written so far, and how many of them a sync covered.
    written: AtomicU64,
    synced: Mutex<u64>,
}

/// Keeps a layer or blob from being collected while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    store: Arc<Store>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.unpin(&self.digest);
    }
}

/// A file or directory in `tmp/`, removed unless moved elsewhere.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = tree::remove_path(&self.0) {
            // The next start empties tmp/.
            tracing::warn!(%error, "a temporary file of the image store stays");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks protect is replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens or makes the store below `root`; drops what nothing refers to. Blocking.
    pub(crate) fn open(root: PathBuf) -> ImageResult<Self> {
        tree::remove_path(&root.join("tmp"))?;
        for directory in ["blobs/sha256", "layers", "tmp", "empty"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(ImageError::file("making", &path))?;
        }
        // Containers of an image without layers see this directory.
        open_to_all(&root.join("empty"))?;
        let store = Self {
            root,
            index: RwLock::default(),
            changing: Mutex::default(),
            pins: Mutex::default(),
            busy: Mutex::default(),
            temporary: AtomicU64::new(0),
            written: AtomicU64::new(0),
            synced: Mutex::default(),
        };
        let mut index = Index::default();
        store.load_layers(&mut index)?;
        store.load_images(&mut index)?;
        store.drop_unused(&mut index)?;
        *store.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(store)
    }

    fn load_layers(&self, index: &mut Index) -> ImageResult<()> {
        for path in children(&self.root.join("layers"))? {
            let record = std::fs::read(path.join(LAYER_FILE)).ok().and_then(|b| serde_json::from_slice(&b).ok());
            let record = record.filter(|r: &LayerRecord| self.layer_path(&r.chain_id) == path);
            let Some(mut record) = record else {
                tracing::warn!(path = %path.display(), "a half-made layer is removed");
                tree::remove_path(&path)?;
                continue;
            };
            record.blob = record.blob.filter(|blob| self.blob_path(&blob.digest).exists());
            index.set_layer(record);
        }
        Ok(())
    }

    fn load_images(&self, index: &mut Index) -> ImageResult<()> {
        let path = self.index_path();
        let bytes = match File::open(&path) {
            Ok(file) => read_limited(file, INDEX_BYTES_MAX).map_err(ImageError::file("reading", &path))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(ImageError::file("opening", &path)(e)),
        };
        let file = IndexFile::parse(&bytes).map_err(|e| ImageError::Archive(format!("{}: {e}", path.display())))?;
        for (id, record) in file.images() {
            let blob = self.read_json_blob(id).and_then(|blob| ImageConfig::parse(&blob));
            match blob {
                Ok(config) => index.add_image(id, Arc::new(config), record.clone()),
                Err(error) => tracing::error!(image = %id, %error, "an image of the store cannot be read; left out"),
            }
        }
        let incomplete: Vec<Digest> = index
            .images()
            .filter(|image| image.chain.iter().any(|layer| index.layer(layer).is_none()))
            .map(|image| image.id.clone())
            .collect();
        for id in incomplete {
            tracing::error!(image = %id, "an image of the store lacks a layer; left out");
            index.remove_image(&id);
        }
        index.add_references(&file);
        Ok(())
    }

    fn drop_unused(&self, index: &mut Index) -> ImageResult<()> {
        for layer in index.take_unused_layers(|_| false) {
            tree::remove_path(&self.layer_path(&layer.chain_id))?;
        }
        let used: BTreeSet<PathBuf> = index.used_blobs().iter().map(|digest| self.blob_path(digest)).collect();
        for path in children(&self.root.join("blobs/sha256"))? {
            if !used.contains(&path) {
                partial::keep(&self.root, &path)?;
            }
        }
        Ok(())
    }

    // --- paths ---

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("repositories.json")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    /// The unpacked content of a layer.
    pub(crate) fn diff_path(&self, chain_id: &Digest) -> PathBuf {
        self.layer_path(chain_id).join("diff")
    }

    /// A directory that is always empty: the lower side of an image without layers.
    pub(crate) fn empty_path(&self) -> PathBuf {
        self.root.join("empty")
    }

    /// A name in `tmp/` that nobody uses yet.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        Temporary(self.root.join("tmp").join(number.to_string()))
    }

    // --- the index ---

    /// What is there now; a snapshot.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the index, on disk first. Blocking.
    pub(crate) fn change<T, E: From<ImageError>>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, E>,
    ) -> Result<T, E> {
        let _changing = lock(&self.changing);
        let mut next = (*self.index()).clone();
        let outcome = change(&mut next)?;
        let bytes = serde_json::to_vec_pretty(&next.to_file()).map_err(|e| ImageError::Archive(e.to_string()))?;
        self.write_durably(self.temporary().path(), &self.index_path(), &bytes)?;
        self.swap(next);
        Ok(outcome)
    }

    /// Makes an unpacked layer known. Layers stand in no file of their own but `layer.json` beside them.
    pub(crate) fn add_layer(&self, layer: LayerRecord) {
        let _changing = lock(&self.changing);
        let mut next = (*self.index()).clone();
        next.set_layer(layer);
        self.swap(next);
    }

    fn swap(&self, next: Index) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// Adds an image with its config blob and gives it names. Blocking.
    ///
    /// The caller pins the image's layers until this returns.
    pub(crate) fn add_image(
        self: &Arc<Self>,
        blob: &[u8],
        parent: Option<Digest>,
        names: Vec<Reference>,
        now: Timestamp,
    ) -> ImageResult<Digest> {
        let config = Arc::new(ImageConfig::parse(blob)?);
        let id = Digest::of(blob);
        let _pin = self.pin(&id);
        self.put_blob(blob)?;
        self.sync()?;
        self.change(|index| {
            check_layers(index, Some(&*config))?;
            index.add_image(&id, config, ImageRecord { parent, last_tag_time: Timestamp::NEVER });
            for name in names {
                index.set_reference(name, &id, now);
            }
            Ok(id)
        })
    }

    /// Adds images that each build on the one before, with as few disk flushes as possible. Blocking.
    pub(crate) fn add_image_chain(
        self: &Arc<Self>,
        blobs: &[Vec<u8>],
        parent: Option<Digest>,
    ) -> ImageResult<Vec<Digest>> {
        let configs =
            blobs.iter().map(|blob| ImageConfig::parse(blob).map(Arc::new)).collect::<ImageResult<Vec<_>>>()?;
        let ids: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
        let _pins: Vec<Pin> = ids.iter().map(|id| self.pin(id)).collect();
        for (blob, id) in blobs.iter().zip(&ids) {
            self.put_blob_unlinked(blob, id)?;
        }
        let directory = self.root.join("blobs/sha256");
        let synced = File::open(&directory).and_then(|directory| directory.sync_all());
        synced.map_err(ImageError::file("syncing", &directory))?;
        self.sync()?;
        self.change(|index| {
            check_layers(index, configs.last().map(|config| &**config))?;
            let mut parent = parent;
            for (config, id) in configs.into_iter().zip(&ids) {
                let record = ImageRecord { parent: parent.replace(id.clone()), last_tag_time: Timestamp::NEVER };
                index.add_image(id, config, record);
            }
            Ok::<_, ImageError>(())
        })?;
        Ok(ids)
    }

    /// A blob whose content is durable, but not yet its name.
    fn put_blob_unlinked(&self, bytes: &[u8], digest: &Digest) -> ImageResult<()> {
        let temporary = self.temporary();
        let (next, path) = (temporary.path(), self.blob_path(digest));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(next)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(next, &path)
        };
        write().map_err(ImageError::file("storing", &path))
    }

    // --- blobs ---

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Stores bytes under their digest.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> ImageResult<Digest> {
        let digest = Digest::of(bytes);
        let temporary = self.temporary();
        self.write_durably(temporary.path(), &self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    /// Moves a finished file among the blobs.
    pub(crate) fn keep_blob(&self, from: &Path, digest: &Digest) -> ImageResult<()> {
        let path = self.blob_path(digest);
        std::fs::rename(from, &path).map_err(ImageError::file("storing", &path))?;
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Reads a config and checks it against its digest.
    pub(crate) fn read_json_blob(&self, digest: &Digest) -> ImageResult<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(ImageError::file("opening", &path))?;
        let mut reader = Hashing::new(file);
        let bytes = read_limited(&mut reader, JSON_BYTES_MAX).map_err(ImageError::file("reading", &path))?;
        let (_, actual, _) = reader.finish();
        if actual != *digest {
            return Err(ImageError::DigestMismatch { expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    // --- layers ---

    /// Moves a finished layer directory (`diff/` inside) to its place. If another was
    /// faster with the same content, that one stays.
    pub(crate) fn keep_layer(&self, from: &Path, layer: LayerRecord) -> ImageResult<()> {
        write_layer_file(from, &layer)?;
        let path = self.layer_path(&layer.chain_id);
        match std::fs::rename(from, &path) {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => return Ok(()),
            Err(e) => return Err(ImageError::file("storing", &path)(e)),
        }
        self.written.fetch_add(1, Ordering::AcqRel);
        self.add_layer(layer);
        Ok(())
    }

    /// Remembers the compressed form of a layer that is there.
    pub(crate) fn update_layer(&self, layer: LayerRecord) -> ImageResult<()> {
        write_layer_file(&self.layer_path(&layer.chain_id), &layer)?;
        self.add_layer(layer);
        Ok(())
    }

    // --- pins and collection ---

    pub(crate) fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        self.hold(digest);
        Pin { store: Arc::clone(self), digest: digest.clone() }
    }

    /// Pins without a guard, until [`Store::unpin`].
    pub(crate) fn hold(&self, digest: &Digest) {
        *lock(&self.pins).entry(digest.clone()).or_default() += 1;
    }

    pub(crate) fn unpin(&self, digest: &Digest) {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(digest);
            }
        }
    }

    /// The lock for work on one digest, so that the same work is not done twice at a time.
    pub(crate) fn busy(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = lock(&self.busy);
        busy.retain(|_, held| held.strong_count() > 0);
        if let Some(held) = busy.get(digest).and_then(Weak::upgrade) {
            return held;
        }
        let fresh = Arc::default();
        busy.insert(digest.clone(), Arc::downgrade(&fresh));
        fresh
    }

    /// Removes the layers and blobs that nothing refers to and nobody pins.
    /// Returns the chain ids of removed layers. Blocking.
    pub(crate) fn collect(&self) -> ImageResult<Vec<Digest>> {
        let mut removed = Vec::new();
        let mut waste = Vec::new();
        {
            let _changing = lock(&self.changing);
            let pins = lock(&self.pins);
            let mut next = (*self.index()).clone();
            for layer in next.take_unused_layers(|chain_id| pins.contains_key(chain_id)) {
                waste.push(self.move_away(&self.layer_path(&layer.chain_id))?);
                removed.push(layer.chain_id.clone());
            }
            let kept: BTreeSet<PathBuf> =
                next.used_blobs().iter().chain(pins.keys()).map(|digest| self.blob_path(digest)).collect();
            for path in children(&self.root.join("blobs/sha256"))? {
                if !kept.contains(&path) {
                    waste.push(self.move_away(&path)?);
                }
            }
            self.swap(next);
        }
        // Dropping removes the content, outside the locks.
        drop(waste);
        Ok(removed)
    }

    fn move_away(&self, path: &Path) -> ImageResult<Temporary> {
        let temporary = self.temporary();
        std::fs::rename(path, temporary.path()).map_err(ImageError::file("removing", path))?;
        Ok(temporary)
    }

    // --- durability ---

    /// Every layer and blob stored so far is on disk afterwards. One sync of the file system
    /// is far cheaper than one per unpacked file.
    pub(crate) fn sync(&self) -> ImageResult<()> {
        let mut synced = lock(&self.synced);
        let written = self.written.load(Ordering::Acquire);
        if *synced < written {
            let root = tree::open_root(&self.root)?;
            rustix::fs::syncfs(&root).map_err(|e| ImageError::file("syncing", &self.root)(e.into()))?;
            *synced = written;
        }
        Ok(())
    }

    /// Writes `path` by way of `next`, so that it is there whole or not at all, also after a power cut.
    fn write_durably(&self, next: &Path, path: &Path, bytes: &[u8]) -> ImageResult<()> {
        let write = || -> std::io::Result<()> {
            let mut file = File::create(next)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(next, path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path.parent().unwrap_or(&self.root), flags, Mode::empty())?;
            Ok(rustix::fs::fsync(directory)?)
        };
        write().map_err(ImageError::file("writing", path))
    }
}

/// The layers may have gone with another image between being looked up and now.
fn check_layers(index: &Index, config: Option<&ImageConfig>) -> ImageResult<()> {
    let chain = config.map(|config| super::digest::chain_ids(&config.rootfs.diff_ids)).unwrap_or_default();
    match chain.iter().find(|layer| index.layer(layer).is_none()) {
        Some(missing) => Err(ImageError::Config(format!("layer {missing} is not in the store"))),
        None => Ok(()),
    }
}

/// Replaces `layer.json` in one step. Not synced: the next image that uses the layer does.
fn write_layer_file(directory: &Path, layer: &LayerRecord) -> ImageResult<()> {
    let bytes = serde_json::to_vec(layer).map_err(|e| ImageError::Archive(e.to_string()))?;
    let (next, path) = (directory.join("layer.json.next"), directory.join(LAYER_FILE));
    std::fs::write(&next, bytes).map_err(ImageError::file("writing", &next))?;
    std::fs::rename(&next, &path).map_err(ImageError::file("writing", &path))
}

/// Makes a directory that containers may see, whatever our umask.
pub(crate) fn open_to_all(path: &Path) -> ImageResult<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(ImageError::file("setting the mode of", path))
}

fn children(directory: &Path) -> ImageResult<Vec<PathBuf>> {
    let failed = |e| ImageError::file("listing", directory)(e);
    std::fs::read_dir(directory).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// Reads all, or fails when there is more than `limit`.
pub(crate) fn read_limited(reader: impl Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(crate) mod tests;
