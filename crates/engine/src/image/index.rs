//! What the store holds, in memory: images, their names and layers. Pure; the store
//! swaps a changed copy in after writing it to disk.

use super::config::{self, ImageConfig};
use super::digest::{self, Digest};
use super::error::{ImageError, ImageResult};
use serde::{Deserialize, Serialize};
use skep_model::image::{ImageInfo, Reference};
use skep_model::{Error, Result, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The file's format; another number is refused.
const FILE_VERSION: u32 = 1;

/// An unpacked layer, as `layer.json` beside it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) chain_id: Digest,
    pub(crate) diff_id: Digest,
    /// Content bytes of regular files.
    pub(crate) size: u64,
    /// Bytes of the uncompressed tar.
    pub(crate) tar_size: u64,
    /// The compressed tar; `None` when it can be made again from the directory.
    pub(crate) blob: Option<BlobRecord>,
}

/// A compressed layer among the blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) zstd: bool,
}

/// What the store remembers of an image besides its config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRecord {
    /// The image a build step or commit started from.
    pub(crate) parent: Option<Digest>,
    pub(crate) last_tag_time: Timestamp,
}

/// An image, ready to be asked about.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) id: Digest,
    pub(crate) record: ImageRecord,
    pub(crate) config: Arc<ImageConfig>,
    /// Chain ids of its layers, bottom first.
    pub(crate) chain: Arc<Vec<Digest>>,
    /// Names that point here, tags before digests.
    pub(crate) names: Vec<Reference>,
}

/// `repositories.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IndexFile {
    version: u32,
    images: BTreeMap<Digest, ImageRecord>,
    /// Canonical reference, with a tag or a digest, to image id.
    references: BTreeMap<String, Digest>,
}

impl IndexFile {
    pub(crate) fn parse(bytes: &[u8]) -> ImageResult<Self> {
        let file: Self = serde_json::from_slice(bytes).map_err(|e| ImageError::Archive(e.to_string()))?;
        if file.version != FILE_VERSION {
            return Err(ImageError::Archive(format!("version {} is not supported", file.version)));
        }
        Ok(file)
    }

    pub(crate) fn images(&self) -> &BTreeMap<Digest, ImageRecord> {
        &self.images
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    images: BTreeMap<Digest, Arc<Image>>,
    references: BTreeMap<Reference, Digest>,
    /// By chain id.
    layers: HashMap<Digest, Arc<LayerRecord>>,
}

impl Index {
    /// Takes over the names of a file whose images were added before; others are dropped.
    pub(crate) fn add_references(&mut self, file: &IndexFile) {
        for (name, id) in &file.references {
            match Reference::parse(name) {
                Ok(reference) if self.images.contains_key(id) => {
                    self.references.insert(reference, id.clone());
                }
                _ => tracing::error!(name, image = %id, "a name of the image store points nowhere; dropped"),
            }
        }
        self.refresh_names();
    }

    pub(crate) fn to_file(&self) -> IndexFile {
        IndexFile {
            version: FILE_VERSION,
            images: self.images.iter().map(|(id, image)| (id.clone(), image.record.clone())).collect(),
            references: self.references.iter().map(|(name, id)| (canonical(name), id.clone())).collect(),
        }
    }

    // --- layers ---

    pub(crate) fn layer(&self, chain_id: &Digest) -> Option<&Arc<LayerRecord>> {
        self.layers.get(chain_id)
    }

    pub(crate) fn set_layer(&mut self, layer: LayerRecord) {
        self.layers.insert(layer.chain_id.clone(), Arc::new(layer));
    }

    /// Takes out the layers that no image uses and `keep` does not hold, topmost first.
    pub(crate) fn take_unused_layers(&mut self, keep: impl Fn(&Digest) -> bool) -> Vec<Arc<LayerRecord>> {
        let used: BTreeSet<&Digest> = self.images.values().flat_map(|image| image.chain.iter()).collect();
        let unused: Vec<Digest> = self.layers.keys().filter(|id| !used.contains(id) && !keep(id)).cloned().collect();
        unused.iter().filter_map(|id| self.layers.remove(id)).collect()
    }

    /// Every blob something refers to: configs and compressed layers.
    pub(crate) fn used_blobs(&self) -> BTreeSet<Digest> {
        let layers = self.layers.values().filter_map(|layer| layer.blob.as_ref()).map(|blob| blob.digest.clone());
        self.images.keys().cloned().chain(layers).collect()
    }

    // --- images ---

    pub(crate) fn image(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    /// Adds an image, or gives a known one the record's parent if it has none.
    pub(crate) fn add_image(&mut self, id: &Digest, config: Arc<ImageConfig>, record: ImageRecord) {
        if let Some(known) = self.images.get_mut(id) {
            let known = Arc::make_mut(known);
            known.record.parent = known.record.parent.take().or(record.parent);
            return;
        }
        let chain = Arc::new(digest::chain_ids(&config.rootfs.diff_ids));
        let image = Image { id: id.clone(), record, config, chain, names: Vec::new() };
        self.images.insert(id.clone(), Arc::new(image));
    }

    pub(crate) fn remove_image(&mut self, id: &Digest) {
        self.images.remove(id);
        self.references.retain(|_, target| target != id);
    }

    pub(crate) fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| image.record.parent.as_ref() == Some(id))
    }

    /// Finds by reference, id, `sha256:id` or unique id prefix.
    pub(crate) fn find(&self, name: &str) -> Result<&Arc<Image>> {
        let missing = || Error::not_found(format!("No such image: {name}"));
        if let Ok(id) = Digest::parse(name) {
            return self.images.get(&id).ok_or_else(missing);
        }
        if let Some(image) = self.find_reference(name) {
            return Ok(image);
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !prefix.is_empty() && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return Err(missing());
        }
        let mut matches = self.images.values().filter(|image| image.id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(image), None) => Ok(image),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}"))),
            (None, _) => Err(missing()),
        }
    }

    fn find_reference(&self, name: &str) -> Option<&Arc<Image>> {
        let reference = stored_form(Reference::parse(name).ok()?);
        self.images.get(self.references.get(&reference)?)
    }

    /// Whether `name` names the image by (a prefix of) its id.
    pub(crate) fn is_id_prefix(image: &Image, name: &str) -> bool {
        let text = image.id.to_string();
        text.starts_with(name) || image.id.hex().starts_with(name)
    }

    // --- names ---

    pub(crate) fn reference(&self, reference: &Reference) -> Option<&Digest> {
        self.references.get(reference)
    }

    /// Points a tag or digest reference at an image, taking it from another if need be.
    pub(crate) fn set_reference(&mut self, reference: Reference, id: &Digest, now: Timestamp) {
        if reference.digest.is_none()
            && let Some(image) = self.images.get_mut(id)
        {
            Arc::make_mut(image).record.last_tag_time = now;
        }
        self.references.insert(reference, id.clone());
        self.refresh_names();
    }

    pub(crate) fn remove_reference(&mut self, reference: &Reference) {
        self.references.remove(reference);
        self.refresh_names();
    }

    fn refresh_names(&mut self) {
        let mut names: HashMap<&Digest, Vec<Reference>> = HashMap::new();
        for (reference, id) in &self.references {
            names.entry(id).or_default().push(reference.clone());
        }
        for image in self.images.values_mut() {
            let mut wanted = names.remove(&image.id).unwrap_or_default();
            wanted.sort_by_key(|reference| reference.digest.is_some());
            if image.names != wanted {
                Arc::make_mut(image).names = wanted;
            }
        }
    }

    /// What `inspect` shows.
    pub(crate) fn info(&self, image: &Image) -> ImageInfo {
        let (digests, tags): (Vec<_>, Vec<_>) = image.names.iter().partition(|name| name.digest.is_some());
        let config = &image.config;
        ImageInfo {
            id: image.id.to_string(),
            repo_tags: tags.into_iter().map(Reference::familiar).collect(),
            repo_digests: digests.into_iter().map(Reference::familiar).collect(),
            parent: image.record.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            comment: if config.comment.is_empty() {
                config.history.last().map(|entry| entry.comment.clone()).unwrap_or_default()
            } else {
                config.comment.clone()
            },
            author: config.author.clone(),
            created: config::parse_created(config.created.as_deref()),
            config: config.config.to_model(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os: config.os.clone(),
            size: image.chain.iter().filter_map(|id| self.layers.get(id)).map(|layer| layer.size).sum(),
            diff_ids: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            last_tag_time: image.record.last_tag_time,
        }
    }
}

/// The form a reference is stored under: a digest makes the tag irrelevant, neither means `latest`.
pub(crate) fn stored_form(reference: Reference) -> Reference {
    let mut reference = reference.with_default_tag();
    if reference.digest.is_some() {
        reference.tag = None;
    }
    reference
}

/// Registry, repository and tag or digest, nothing left out.
pub(crate) fn canonical(reference: &Reference) -> String {
    let mut text = format!("{}/{}", reference.registry, reference.repository);
    if let Some(tag) = &reference.tag {
        text.push(':');
        text.push_str(tag);
    }
    if let Some(digest) = &reference.digest {
        text.push('@');
        text.push_str(digest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> (Index, Vec<Digest>) {
        let mut index = Index::default();
        let mut ids = Vec::new();
        for word in ["one", "two"] {
            let id = Digest::of(word.as_bytes());
            index.add_image(&id, Arc::default(), ImageRecord::default());
            let reference = Reference::parse(word).unwrap().with_default_tag();
            index.set_reference(reference, &id, Timestamp(1));
            ids.push(id);
        }
        (index, ids)
    }

    fn check(name: &str, expect: Result<usize, &str>) {
        let (index, ids) = index();
        let found = index.find(name).map(|image| image.id.clone()).map_err(|e| e.message);
        assert_eq!(found, expect.map(|n| ids[n].clone()).map_err(str::to_owned), "{name}");
    }

    #[test]
    fn images_are_found_by_reference_id_and_unique_prefix() {
        let (_, ids) = index();
        check("one", Ok(0));
        check("docker.io/library/two:latest", Ok(1));
        check(&ids[0].to_string(), Ok(0));
        check(ids[1].hex(), Ok(1));
        check(&ids[1].hex()[..4], Ok(1));
        check(&format!("sha256:{}", &ids[0].hex()[..6]), Ok(0));
        check("nosuch", Err("No such image: nosuch"));
        check("one:2", Err("No such image: one:2"));
        check("", Err("No such image: "));
        check("sha256:", Err("No such image: sha256:"));
    }

    #[test]
    fn an_ambiguous_prefix_is_said_so() {
        let mut index = Index::default();
        for n in 0..40_u8 {
            index.add_image(&Digest::of(&[n]), Arc::default(), ImageRecord::default());
        }
        // Forty ids and sixteen digits: some digit starts two of them.
        let ambiguous = "0123456789abcdef"
            .chars()
            .any(|c| index.find(&c.to_string()).is_err_and(|e| e.message.starts_with("multiple IDs found")));
        assert!(ambiguous);
    }

    #[test]
    fn a_name_moves_to_the_image_it_was_set_to_last() {
        let (mut index, ids) = index();
        index.set_reference(Reference::parse("one:latest").unwrap(), &ids[1], Timestamp(2));
        assert_eq!(index.find("one").unwrap().id, ids[1]);
        let info = index.info(index.image(&ids[1]).unwrap());
        assert_eq!(info.repo_tags, ["one:latest", "two:latest"]);
        assert_eq!(info.last_tag_time, Timestamp(2));
        assert!(index.info(index.image(&ids[0]).unwrap()).repo_tags.is_empty());
    }

    #[test]
    fn the_file_keeps_names_and_records() {
        let (index, ids) = index();
        let bytes = serde_json::to_vec(&index.to_file()).unwrap();
        let file = IndexFile::parse(&bytes).unwrap();
        let mut again = Index::default();
        for (id, record) in file.images() {
            again.add_image(id, Arc::default(), record.clone());
        }
        again.add_references(&file);
        assert_eq!(again.find("two").unwrap().id, ids[1]);
        assert!(IndexFile::parse(br#"{"version":2,"images":{},"references":{}}"#).is_err());
    }
}
