//! New images made on this machine: imported, built and committed ones.

use super::config::{ConfigHistory, ImageConfig, RootFs, RunConfig};
use super::digest::Digest;
use super::error::{ImageError, ImageResult};
use super::index::{self, Image};
use super::store::Store;
use super::{NewImage, NewLayer};
use skep_model::container::ContainerConfig;
use skep_model::image::{Reference, host_architecture};
use skep_model::{Error, Timestamp};
use std::io::Read;
use std::sync::Arc;

const ROOTFS_KIND: &str = "layers";

/// A name given to an image: with a tag, never with a digest.
pub(crate) fn tag_name(text: &str) -> Result<Reference, Error> {
    let reference = Reference::parse(text)?;
    if reference.digest.is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    Ok(index::stored_form(reference))
}

/// One tar becomes an image of one layer. Returns its id.
pub(crate) fn import(
    store: &Arc<Store>,
    tar: impl Read,
    name: Option<Reference>,
    message: String,
    config: &ContainerConfig,
    created: Timestamp,
    now: Timestamp,
) -> ImageResult<String> {
    let (layer, _pin) = store.add_foreign_tar(tar, None, None)?;
    let image = ImageConfig {
        architecture: host_architecture().to_owned(),
        os: "linux".to_owned(),
        comment: message.clone(),
        config: RunConfig::from_model(config),
        created: Some(created.to_rfc3339()),
        history: vec![ConfigHistory {
            created: Some(created.to_rfc3339()),
            comment: message,
            ..ConfigHistory::default()
        }],
        rootfs: RootFs { kind: ROOTFS_KIND.to_owned(), diff_ids: vec![layer.diff_id.clone()] },
        ..ImageConfig::default()
    };
    store.add_image(&image.to_blob()?, None, name.into_iter().collect(), now).map(|id| id.to_string())
}

/// A parent and a change become an image. Returns its id.
pub(crate) fn commit(store: &Arc<Store>, change: &NewImage) -> ImageResult<String> {
    let index = store.index();
    let parent = change.parent.as_deref().map(|id| index.find(id)).transpose()?;
    let mut image = start(parent);
    apply(&mut image, change);
    let held = change.layer.as_ref().map(|layer| held_layer(&mut image, parent.and_then(|p| p.chain.last()), layer));
    let held = held.transpose()?;
    let parent_id = parent.map(|parent| parent.id.clone());
    let id = store.add_image(&image.to_blob()?, parent_id, Vec::new(), change.created)?;
    if let Some(chain_id) = held {
        store.unpin(&chain_id);
    }
    Ok(id.to_string())
}

/// A layer that is there on top of a parent's, kept until [`commit`] takes it.
pub(crate) fn reuse_layer(store: &Arc<Store>, parent: Option<&str>, diff_id: &str) -> Result<NewLayer, Error> {
    let below = match parent {
        Some(name) => store.index().find(name)?.chain.last().cloned(),
        None => None,
    };
    let diff = Digest::parse(diff_id)?;
    let chain_id = Digest::chain(below.as_ref(), &diff);
    // Held first, so that it cannot go between being seen and being taken.
    store.hold(&chain_id);
    match store.index().layer(&chain_id) {
        Some(layer) => Ok(NewLayer { diff_id: diff_id.to_owned(), size: layer.size }),
        None => {
            store.unpin(&chain_id);
            Err(Error::not_found(format!("layer {chain_id} is not in the store")))
        }
    }
}

/// Changes of the config alone, each on top of the one before and the first on its own
/// parent. All become images, or none. Returns their ids.
pub(crate) fn commit_chain(store: &Arc<Store>, changes: &[NewImage]) -> ImageResult<Vec<String>> {
    let index = store.index();
    let parent = changes.first().and_then(|change| change.parent.as_deref());
    let parent = parent.map(|id| index.find(id)).transpose()?;
    let mut image = start(parent);
    let mut blobs = Vec::new();
    for change in changes {
        if change.layer.is_some() {
            return Err(ImageError::Config("a chain of settings has no layers".to_owned()));
        }
        apply(&mut image, change);
        blobs.push(image.to_blob()?);
    }
    let ids = store.add_image_chain(&blobs, parent.map(|parent| parent.id.clone()))?;
    Ok(ids.iter().map(Digest::to_string).collect())
}

fn start(parent: Option<&Arc<Image>>) -> ImageConfig {
    match parent {
        Some(parent) => (*parent.config).clone(),
        None => ImageConfig {
            architecture: host_architecture().to_owned(),
            os: "linux".to_owned(),
            rootfs: RootFs { kind: ROOTFS_KIND.to_owned(), diff_ids: Vec::new() },
            ..ImageConfig::default()
        },
    }
}

/// All of a change but its layer.
fn apply(image: &mut ImageConfig, change: &NewImage) {
    let created = Some(change.created.to_rfc3339());
    image.config = RunConfig::from_model(&change.config);
    image.author.clone_from(&change.author);
    image.comment.clone_from(&change.comment);
    image.created.clone_from(&created);
    image.history.push(ConfigHistory {
        created,
        created_by: change.created_by.clone(),
        author: change.author.clone(),
        comment: change.comment.clone(),
        empty_layer: change.layer.is_none(),
    });
}

/// Adds a layer that was made before to the config; returns its chain id, which is pinned since.
fn held_layer(image: &mut ImageConfig, below: Option<&Digest>, layer: &NewLayer) -> ImageResult<Digest> {
    let diff_id = Digest::parse(&layer.diff_id)?;
    let chain_id = Digest::chain(below, &diff_id);
    image.rootfs.diff_ids.push(diff_id);
    if image.rootfs.diff_ids.len() > super::config::LAYERS_MAX {
        return Err(ImageError::Config("max depth exceeded".to_owned()));
    }
    Ok(chain_id)
}
