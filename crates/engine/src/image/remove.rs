//! `docker rmi`: which names and images go, and what stands against it.
//!
//! The order of checks and the texts are Docker's; clients and users know them.

use super::Removed;
use super::digest::Digest;
use super::error::ImageResult;
use super::index::{Image, Index, stored_form};
use super::store::Store;
use skep_model::image::Reference;
use skep_model::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Which containers (id, running) use an image id.
pub(crate) type InUse<'a> = &'a dyn Fn(&str) -> Vec<(String, bool)>;

/// What is to be done, decided on an index. The changed index is applied as one.
struct Removal<'a> {
    index: &'a mut Index,
    in_use: InUse<'a>,
    done: Vec<Removed>,
    /// Images that are gone, with the layers that may go with them.
    gone: Vec<Arc<Image>>,
}

/// Which reasons to keep an image count.
#[derive(Clone, Copy)]
struct Checks {
    names: bool,
    stopped: bool,
}

/// Why an image stays.
struct Conflict {
    message: String,
    /// A container uses it.
    used: bool,
}

/// Removes a name or an image, and then whatever nobody needs any more. Blocking.
pub(crate) fn remove(store: &Store, name: &str, force: bool, in_use: InUse<'_>) -> Result<Vec<Removed>> {
    let (mut done, gone) = store.change(|index| {
        let mut removal = Removal { index, in_use, done: Vec::new(), gone: Vec::new() };
        removal.run(name, force)?;
        Ok::<_, Error>((removal.done, removal.gone))
    })?;
    done.extend(collect(store, &gone)?);
    Ok(done)
}

/// Removes the content of images that are gone; says which layers went, topmost first.
fn collect(store: &Store, gone: &[Arc<Image>]) -> ImageResult<Vec<Removed>> {
    let removed: HashSet<Digest> = store.collect()?.into_iter().collect();
    let mut told = HashSet::new();
    let layers = gone.iter().flat_map(|image| image.chain.iter().rev());
    let layers = layers.filter(|chain_id| removed.contains(chain_id) && told.insert((*chain_id).clone()));
    Ok(layers.map(|chain_id| Removed::Deleted(chain_id.to_string())).collect())
}

impl Removal<'_> {
    fn run(&mut self, name: &str, force: bool) -> Result<()> {
        let image = Arc::clone(self.index.find(name)?);
        if Index::is_id_prefix(&image, name) {
            if is_one_repository(&image.names) {
                self.check(&image, Checks { names: false, stopped: !force }).map_err(Error::from)?;
                for reference in &image.names {
                    self.untag(reference);
                }
            }
            return self.delete(&image, force, false);
        }
        self.remove_name(&image, name, force)
    }

    /// Takes one name away; the image goes with its last name.
    fn remove_name(&mut self, image: &Arc<Image>, name: &str, force: bool) -> Result<()> {
        if !force
            && is_one_repository(&image.names)
            && let Some((container, _)) = (self.in_use)(&image.id.to_string()).first()
        {
            return Err(Error::conflict(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - \
                 container {} is using its referenced image {}",
                truncated(container),
                image.id.short()
            )));
        }
        let reference = stored_form(Reference::parse(name)?);
        self.untag(&reference);
        let same_repository =
            |other: &&Reference| (&other.registry, &other.repository) == (&reference.registry, &reference.repository);
        let mut left: Vec<Reference> = image.names.iter().filter(|other| **other != reference).cloned().collect();
        let tags_left = left.iter().filter(same_repository).any(|other| other.digest.is_none());
        if reference.digest.is_none() && !tags_left {
            // The digest of a repository without tags means nothing to the user.
            let (digests, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|other| same_repository(&other));
            for digest in &digests {
                self.untag(digest);
            }
            left = others;
        }
        if left.is_empty() { self.delete(image, force, true) } else { Ok(()) }
    }

    fn untag(&mut self, reference: &Reference) {
        self.index.remove_reference(reference);
        self.done.push(Removed::Untagged(reference.familiar()));
    }

    /// Deletes an image and then its parents, as far as nobody needs them. `quiet`: a name
    /// was removed already, so an image that is still used just stays.
    fn delete(&mut self, image: &Arc<Image>, force: bool, quiet: bool) -> Result<()> {
        let Some(current) = self.index.image(&image.id).cloned() else { return Ok(()) };
        if let Err(conflict) = self.check(&current, Checks { names: !force, stopped: !force }) {
            let is_dangling = current.names.is_empty() && !self.index.has_children(&current.id);
            return if quiet && (!is_dangling || conflict.used) { Ok(()) } else { Err(conflict.into()) };
        }
        self.drop_image(&current);
        // Intermediate images of a build go with the last image made from them.
        let mut parent = current.record.parent.clone();
        while let Some(image) = parent.and_then(|id| self.index.image(&id).cloned()) {
            if self.check(&image, Checks { names: true, stopped: true }).is_err() {
                break;
            }
            self.drop_image(&image);
            parent = image.record.parent.clone();
        }
        Ok(())
    }

    fn drop_image(&mut self, image: &Arc<Image>) {
        for reference in &image.names {
            self.untag(reference);
        }
        self.index.remove_image(&image.id);
        self.done.push(Removed::Deleted(image.id.to_string()));
        self.gone.push(Arc::clone(image));
    }

    fn check(&self, image: &Image, checks: Checks) -> std::result::Result<(), Conflict> {
        let conflict = |must: &str, why: &str, used: bool| {
            let message = format!("conflict: unable to delete {} ({must}) - {why}", image.id.short());
            Err(Conflict { message, used })
        };
        if self.index.has_children(&image.id) {
            return conflict("cannot be forced", "image has dependent child images", false);
        }
        let containers = (self.in_use)(&image.id.to_string());
        if let Some((id, _)) = containers.iter().find(|(_, running)| *running) {
            let why = format!("image is being used by running container {}", truncated(id));
            return conflict("cannot be forced", &why, true);
        }
        if checks.names && !image.names.is_empty() {
            return conflict("must be forced", "image is referenced in multiple repositories", false);
        }
        match containers.first() {
            Some((id, _)) if checks.stopped => {
                let why = format!("image is being used by stopped container {}", truncated(id));
                conflict("must be forced", &why, true)
            }
            _ => Ok(()),
        }
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::conflict(conflict.message)
    }
}

/// At most one tag, and digests only of the same repository.
fn is_one_repository(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest.is_none()).count();
    let repositories: BTreeSet<_> = names.iter().map(|name| (&name.registry, &name.repository)).collect();
    names.len() <= 1 || (tags <= 1 && repositories.len() == 1)
}

/// The first twelve characters of a container's id.
fn truncated(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
#[path = "remove_tests.rs"]
mod tests;
