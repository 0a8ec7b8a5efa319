//! `docker save`: one archive that is both a docker archive and an OCI layout.
//!
//! Sizes are known beforehand, so the archive streams: nothing is gathered on disk.

use super::digest::Digest;
use super::error::{ImageError, ImageResult};
use super::index::{Image, Index, LayerRecord};
use super::manifest::{
    ArchiveImage, Descriptor, ImageList, Manifest, NAME_ANNOTATION, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
    REF_NAME_ANNOTATION,
};
use super::store::{Pin, Store};
use bytes::Bytes;
use serde::Serialize;
use skep_model::image::Reference;
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks made before the reader takes them.
const CHUNKS_AHEAD: usize = 8;
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What goes into the archive, pinned.
pub(crate) struct Plan {
    images: Vec<(Arc<Image>, BTreeSet<Reference>)>,
    layers: BTreeMap<Digest, Arc<LayerRecord>>,
    _pins: Vec<Pin>,
}

/// Finds the images. A repository without a tag stands for all of its tags.
pub(crate) fn plan(store: &Arc<Store>, names: &[String]) -> Result<Plan> {
    let index = store.index();
    let mut images: Vec<(Arc<Image>, BTreeSet<Reference>)> = Vec::new();
    for name in names {
        for (image, tag) in find(&index, name)? {
            let at = images.iter().position(|(known, _)| known.id == image.id).unwrap_or_else(|| {
                images.push((image, BTreeSet::new()));
                images.len() - 1
            });
            images[at].1.extend(tag);
        }
    }
    let mut pins = Vec::new();
    let mut layers = BTreeMap::new();
    for (image, _) in &images {
        pins.push(store.pin(&image.id));
        for chain_id in image.chain.iter() {
            pins.push(store.pin(chain_id));
            let layer = store.index().layer(chain_id).cloned();
            let layer = layer.ok_or_else(|| Error::not_found(format!("No such image: {}", image.id)))?;
            pins.extend(layer.blob.as_ref().map(|blob| store.pin(&blob.digest)));
            layers.insert(layer.diff_id.clone(), layer);
        }
    }
    Ok(Plan { images, layers, _pins: pins })
}

fn find(index: &Index, name: &str) -> Result<Vec<(Arc<Image>, Option<Reference>)>> {
    let reference = Reference::parse(name).ok();
    if let Some(repository) = reference.as_ref().filter(|r| r.tag.is_none() && r.digest.is_none()) {
        let same = |tag: &&Reference| {
            tag.digest.is_none() && (&tag.registry, &tag.repository) == (&repository.registry, &repository.repository)
        };
        let tagged: Vec<_> = index
            .images()
            .flat_map(|image| image.names.iter().filter(same).map(|tag| (Arc::clone(image), Some(tag.clone()))))
            .collect();
        if !tagged.is_empty() {
            return Ok(tagged);
        }
    }
    let image = index.find(name)?;
    let by_name = reference.filter(|_| !Index::is_id_prefix(image, name)).filter(|r| r.tag.is_some());
    Ok(vec![(Arc::clone(image), by_name.map(super::index::stored_form))])
}

/// Starts writing; the archive is what can be read. An error ends the reading with that error.
pub(crate) fn stream(store: Arc<Store>, plan: Plan) -> Box<dyn AsyncRead + Send + Unpin> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let out = BufWriter::with_capacity(CHUNK_BYTES, Chunks(sender.clone()));
        if let Err(error) = write(&store, &plan, out) {
            // Nobody listens any more if this fails; then the error is that.
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    Box::new(StreamReader::new(ReceiverStream::new(receiver)))
}

/// Sends what is written.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(data);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(store: &Store, plan: &Plan, out: impl Write) -> ImageResult<()> {
    let mut archive = Writer { tar: tar::Builder::new(out) };
    for (diff_id, layer) in &plan.layers {
        archive.layer(store, diff_id, layer)?;
    }
    let mut list = ImageList { schema_version: 2, media_type: OCI_INDEX.into(), manifests: Vec::new() };
    let mut images = Vec::new();
    for (image, tags) in &plan.images {
        let config = store.read_json_blob(&image.id)?;
        archive.file(&blob_name(&image.id), &config)?;
        let manifest = oci_manifest(plan, image, config.len() as u64);
        let body = json(&manifest)?;
        let digest = Digest::of(&body);
        archive.file(&blob_name(&digest), &body)?;
        list.manifests.extend(oci_entries(&digest, body.len() as u64, tags));
        images.push(ArchiveImage {
            config: blob_name(&image.id),
            repo_tags: tags.iter().map(Reference::familiar).collect(),
            layers: image.config.rootfs.diff_ids.iter().map(blob_name).collect(),
            parent: None,
        });
    }
    archive.file("index.json", &json(&list)?)?;
    archive.file("manifest.json", &json(&images)?)?;
    archive.file("oci-layout", LAYOUT)?;
    let failed = ImageError::io("writing the archive");
    let mut out = archive.tar.into_inner().map_err(failed)?;
    out.flush().map_err(ImageError::io("writing the archive"))
}

fn oci_manifest(plan: &Plan, image: &Image, config_size: u64) -> Manifest {
    let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let size = |diff_id| plan.layers.get(diff_id).map_or(0, |layer| layer.tar_size);
    let diff_ids = image.config.rootfs.diff_ids.iter();
    Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: descriptor(OCI_CONFIG, &image.id, config_size),
        layers: diff_ids.map(|diff_id| descriptor(OCI_LAYER, diff_id, size(diff_id))).collect(),
    }
}

/// One entry per name, or one without a name.
fn oci_entries(digest: &Digest, size: u64, tags: &BTreeSet<Reference>) -> Vec<Descriptor> {
    let entry = |annotations| Descriptor {
        media_type: OCI_MANIFEST.into(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations,
    };
    if tags.is_empty() {
        return vec![entry(BTreeMap::new())];
    }
    let named = |tag: &Reference| {
        let whole = super::index::canonical(tag);
        let short = tag.tag.clone().unwrap_or_default();
        entry([(NAME_ANNOTATION.to_owned(), whole), (REF_NAME_ANNOTATION.to_owned(), short)].into())
    };
    tags.iter().map(named).collect()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json(value: &impl Serialize) -> ImageResult<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| ImageError::Archive(e.to_string()))
}

struct Writer<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Writer<W> {
    fn file(&mut self, name: &str, content: &[u8]) -> ImageResult<()> {
        let mut header = header(content.len() as u64);
        self.tar.append_data(&mut header, name, content).map_err(ImageError::io("writing the archive"))
    }

    fn layer(&mut self, store: &Store, diff_id: &Digest, layer: &LayerRecord) -> ImageResult<()> {
        let failed = || ImageError::io::<io::Error>("writing the archive");
        let mut header = header(layer.tar_size);
        header.set_path(blob_name(diff_id)).map_err(failed())?;
        header.set_cksum();
        // The builder wants to read content; ours is written, so only the header goes through it.
        self.tar.append(&header, io::empty()).map_err(failed())?;
        let out = self.tar.get_mut();
        store.write_tar(layer, &mut *out)?;
        let padding = layer.tar_size.next_multiple_of(512) - layer.tar_size;
        out.write_all(&vec![0; padding as usize]).map_err(failed())
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
