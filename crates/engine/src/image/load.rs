//! `docker load`: an archive becomes images. Reads docker archives (`manifest.json`) and
//! OCI layouts (`index.json`).
//!
//! Entries come in any order, so the archive is first spread into numbered files of a
//! temporary directory; names in the archive are only ever keys of a map.

use super::compress::{self, Compression};
use super::config::ImageConfig;
use super::digest::{Digest, Hashing};
use super::error::{ImageError, ImageResult};
use super::index;
use super::manifest::{
    self, ArchiveImage, Descriptor, Document, ImageList, Manifest, NAME_ANNOTATION, Platform, REF_NAME_ANNOTATION,
};
use super::meter::Metered;
use super::store::{self, JSON_BYTES_MAX, Pin, Store, Temporary};
use crate::progress::{Progress, ProgressSender};
use skep_model::Timestamp;
use skep_model::image::Reference;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;

/// Entries of an archive: a few per layer and image.
const ENTRIES_MAX: usize = 100_000;
/// Links from name to name in an archive.
const LINKS_MAX: usize = 16;
/// Indexes inside indexes.
const NESTING_MAX: usize = 4;

/// Loads all images of an archive; gives their names, or ids where they have none. Blocking.
pub(crate) fn load(
    store: &Arc<Store>,
    stream: impl Read,
    progress: &ProgressSender,
    now: Timestamp,
) -> ImageResult<Vec<String>> {
    let archive = Archive::spread(stream, store.temporary())?;
    let mut work = Work { store, archive: &archive, progress, now, pins: Vec::new() };
    let mut loaded = Vec::new();
    let outcome = archive.images()?.iter().try_for_each(|image| {
        loaded.extend(work.image(image)?);
        Ok(())
    });
    drop(work);
    // Images loaded so far stay; layers and blobs of an image that failed do not.
    store.collect()?;
    outcome.map(|()| loaded)
}

/// An archive spread into files.
struct Archive {
    /// Cleaned name to content.
    files: HashMap<PathBuf, Stored>,
    _directory: Temporary,
}

enum Stored {
    File { path: PathBuf, digest: Digest },
    Link(PathBuf),
}

/// One image of an archive, in whichever format it was.
struct Wanted {
    config: PathBuf,
    layers: Vec<PathBuf>,
    names: Vec<String>,
    parent: Option<Digest>,
}

impl Archive {
    fn spread(stream: impl Read, directory: Temporary) -> ImageResult<Self> {
        std::fs::create_dir(directory.path()).map_err(ImageError::file("making", directory.path()))?;
        let (compression, stream) = compress::detect(stream)?;
        let (stream, meter) = Metered::new(compress::decoder(compression, stream)?);
        let mut tar = tar::Archive::new(stream);
        let mut files = HashMap::new();
        meter.expect_metadata();
        for entry in tar.entries().map_err(ImageError::Tar)? {
            let mut entry = entry.map_err(ImageError::Tar)?;
            meter.expect_content();
            if files.len() == ENTRIES_MAX {
                return Err(ImageError::Limit(format!("the archive has more than {ENTRIES_MAX} files")));
            }
            let name = key(&entry.path().map_err(ImageError::Tar)?)?;
            let stored = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let path = directory.path().join(files.len().to_string());
                    Some(store_file(&mut entry, path)?)
                }
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let target = entry.link_name().map_err(ImageError::Tar)?.unwrap_or_default();
                    let base = name.parent().filter(|_| kind == tar::EntryType::Symlink);
                    let target = base.map_or_else(|| target.to_path_buf(), |base| base.join(&target));
                    Some(Stored::Link(key(&target)?))
                }
                _ => None,
            };
            if let Some(stored) = stored {
                files.insert(name, stored);
            }
            io::copy(&mut entry, &mut io::sink()).map_err(ImageError::Tar)?;
            meter.expect_metadata();
        }
        Ok(Self { files, _directory: directory })
    }

    fn file(&self, name: &Path) -> ImageResult<(&Path, &Digest)> {
        let mut at = name;
        for _ in 0..LINKS_MAX {
            match self.files.get(at) {
                Some(Stored::File { path, digest }) => return Ok((path, digest)),
                Some(Stored::Link(target)) => at = target,
                None => return Err(ImageError::Archive(format!("\"{}\" is missing", name.display()))),
            }
        }
        Err(ImageError::Archive(format!("\"{}\" is a link to a link, too often", name.display())))
    }

    fn json(&self, name: &Path) -> ImageResult<Vec<u8>> {
        let (path, _) = self.file(name)?;
        let file = File::open(path).map_err(ImageError::file("opening", path))?;
        store::read_limited(file, JSON_BYTES_MAX)
            .map_err(|e| ImageError::Archive(format!("\"{}\": {e}", name.display())))
    }

    fn images(&self) -> ImageResult<Vec<Wanted>> {
        let (docker, oci) = (Path::new("manifest.json"), Path::new("index.json"));
        if self.files.contains_key(docker) {
            let bad = |e: serde_json::Error| ImageError::Archive(format!("manifest.json: {e}"));
            let images: Vec<ArchiveImage> = serde_json::from_slice(&self.json(docker)?).map_err(bad)?;
            return images.into_iter().map(docker_image).collect();
        }
        if !self.files.contains_key(oci) {
            return Err(ImageError::Archive("it has neither a manifest.json nor an index.json".into()));
        }
        let Document::List(list) = manifest::parse(&self.json(oci)?)? else {
            return Err(ImageError::Archive("index.json is not an index".into()));
        };
        let mut wanted = Vec::new();
        for descriptor in &list.manifests {
            wanted.extend(self.oci_image(descriptor)?);
        }
        Ok(wanted)
    }

    fn oci_image(&self, descriptor: &Descriptor) -> ImageResult<Option<Wanted>> {
        let Some(manifest) = self.oci_manifest(descriptor)? else { return Ok(None) };
        let annotation = |key: &str| descriptor.annotations.get(key);
        let whole = annotation(REF_NAME_ANNOTATION).filter(|name| name.contains([':', '/']));
        Ok(Some(Wanted {
            config: blob_name(&manifest.config.digest),
            layers: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
            names: annotation(NAME_ANNOTATION).or(whole).cloned().into_iter().collect(),
            parent: None,
        }))
    }

    /// Follows indexes to the manifest for this machine; `None` if what is found is no image.
    fn oci_manifest(&self, descriptor: &Descriptor) -> ImageResult<Option<Manifest>> {
        let mut at = descriptor.clone();
        for _ in 0..NESTING_MAX {
            match manifest::parse(&self.json(&blob_name(&at.digest))?)? {
                Document::Image(manifest) => return Ok(is_image(&manifest).then_some(manifest)),
                Document::List(list) => match self.choose(&list)? {
                    Some(chosen) => at = chosen.clone(),
                    None => return Ok(None),
                },
            }
        }
        Err(ImageError::Archive("indexes inside indexes".into()))
    }

    /// Prefers this machine's platform among the manifests that are really in the archive.
    fn choose<'a>(&self, list: &'a ImageList) -> ImageResult<Option<&'a Descriptor>> {
        let here = Platform::parse("").map_err(ImageError::Model)?;
        let present = |descriptor: &&Descriptor| self.files.contains_key(&blob_name(&descriptor.digest));
        let chosen = list.choose(&here).filter(present);
        Ok(chosen.or_else(|| list.manifests.iter().find(|d| d.platform.is_none() && present(d))))
    }
}

/// Attestations and other artifacts use manifests too; their config is not an image's.
fn is_image(manifest: &Manifest) -> bool {
    matches!(manifest.config.media_type.as_str(), "" | manifest::OCI_CONFIG | manifest::DOCKER_CONFIG)
}

fn docker_image(image: ArchiveImage) -> ImageResult<Wanted> {
    Ok(Wanted {
        config: key(Path::new(&image.config))?,
        layers: image.layers.iter().map(|layer| key(Path::new(layer))).collect::<ImageResult<_>>()?,
        names: image.repo_tags,
        parent: image.parent.and_then(|id| Digest::parse(&id).ok()),
    })
}

fn blob_name(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// A name without `.` and `..`.
fn key(name: &Path) -> ImageResult<PathBuf> {
    let mut clean = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir if !clean.pop() => return Err(ImageError::Climbs(name.display().to_string())),
            Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn store_file(entry: &mut tar::Entry<'_, impl Read>, path: PathBuf) -> ImageResult<Stored> {
    let file = File::create(&path).map_err(ImageError::file("making", &path))?;
    let mut out = Hashing::new(BufWriter::with_capacity(128 * 1024, file));
    let expected = entry.size();
    let count = io::copy(entry, &mut out).map_err(ImageError::Tar)?;
    if count != expected {
        return Err(ImageError::Tar(io::ErrorKind::UnexpectedEof.into()));
    }
    let (mut file, digest, _) = out.finish();
    file.flush().map_err(ImageError::file("writing", &path))?;
    Ok(Stored::File { path, digest })
}

/// Loading one archive into the store.
struct Work<'a> {
    store: &'a Arc<Store>,
    archive: &'a Archive,
    progress: &'a ProgressSender,
    now: Timestamp,
    pins: Vec<Pin>,
}

impl Work<'_> {
    /// Gives the names of the image, or its id.
    fn image(&mut self, wanted: &Wanted) -> ImageResult<Vec<String>> {
        let blob = self.archive.json(&wanted.config)?;
        let config = ImageConfig::parse(&blob)?;
        let (expected, got) = (config.rootfs.diff_ids.len(), wanted.layers.len());
        if expected != got {
            return Err(ImageError::Archive(format!(
                "invalid manifest, layers length mismatch: expected {expected}, got {got}"
            )));
        }
        let names = wanted.names.iter().map(|name| Reference::parse(name).map(index::stored_form));
        let names: Vec<Reference> = names.collect::<Result<_, _>>()?;
        let mut chain: Option<Digest> = None;
        for (layer, diff_id) in wanted.layers.iter().zip(&config.rootfs.diff_ids) {
            self.layer(layer, diff_id, chain.as_ref())?;
            chain = Some(Digest::chain(chain.as_ref(), diff_id));
        }
        let parent = wanted.parent.clone().filter(|parent| self.store.index().image(parent).is_some());
        let id = Digest::of(&blob);
        self.tell_renamed(&names, &id)?;
        self.store.add_image(&blob, parent, names.clone(), self.now)?;
        if names.is_empty() {
            self.tell(Progress::Stream(format!("Loaded image ID: {id}\n")))?;
            return Ok(vec![id.to_string()]);
        }
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        for name in &names {
            self.tell(Progress::Stream(format!("Loaded image: {name}\n")))?;
        }
        Ok(names)
    }

    fn layer(&mut self, name: &Path, diff_id: &Digest, parent: Option<&Digest>) -> ImageResult<()> {
        let chain_id = Digest::chain(parent, diff_id);
        let busy = self.store.busy(&chain_id);
        let _turn = busy.blocking_lock();
        self.pins.push(self.store.pin(&chain_id));
        if self.store.index().layer(&chain_id).is_some() {
            return Ok(());
        }
        let (path, digest) = self.archive.file(name)?;
        let file = File::open(path).map_err(ImageError::file("opening", path))?;
        let total = file.metadata().map_err(ImageError::file("reading", path))?.len();
        self.hint(diff_id, 0, total)?;
        let (compression, stream) = compress::detect(file)?;
        if compression == Compression::Plain {
            self.pins.push(self.store.add_tar(stream, parent, Some(diff_id), super::layer::Keep::Compress)?.1);
        } else {
            self.pins.push(self.store.pin(digest));
            self.keep_compressed(path, digest)?;
            let file = File::open(path).map_err(ImageError::file("opening", path))?;
            self.pins.push(self.store.add_blob_layer(file, digest, total, parent, diff_id)?.1);
        }
        self.hint(diff_id, total, total)
    }

    /// A second name for the spread file: another image of the archive may need it too.
    fn keep_compressed(&self, path: &Path, digest: &Digest) -> ImageResult<()> {
        if self.store.has_blob(digest) {
            return Ok(());
        }
        let link = self.store.temporary();
        std::fs::hard_link(path, link.path()).map_err(ImageError::file("linking", path))?;
        self.store.keep_blob(link.path(), digest)
    }

    fn tell_renamed(&self, names: &[Reference], id: &Digest) -> ImageResult<()> {
        let index = self.store.index();
        for name in names {
            if let Some(old) = index.reference(name).filter(|old| *old != id) {
                self.tell(Progress::Stream(format!(
                    "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                    name.familiar()
                )))?;
            }
        }
        Ok(())
    }

    /// Others may wait for the layer we are working on; a client that does not read must not hold them up.
    fn hint(&self, diff_id: &Digest, current: u64, total: u64) -> ImageResult<()> {
        let id = Some(diff_id.short().to_owned());
        let status = Progress::Status { id, status: "Loading layer".into(), current, total };
        match self.progress.try_send(status) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(ImageError::Cancelled),
        }
    }

    fn tell(&self, progress: Progress) -> ImageResult<()> {
        self.progress.blocking_send(progress).map_err(|_| ImageError::Cancelled)
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
