//! What builds keep besides images, and getting rid of it.

use super::cache;
use super::cache_mounts::{CacheMounts, CacheRecord};
use crate::Engine;
use skep_model::{Error, Result, Timestamp};
use std::path::Path;
use std::sync::Arc;

/// Directory below the data root.
const DIRECTORY: &str = "build/cache";

/// The caches of builds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Builds {
    caches: Arc<CacheMounts>,
}

/// What a prune spares.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also forget the results of steps, and remove images that only they keep.
    pub all: bool,
    /// Bytes of the most recently used caches that stay.
    pub keep_bytes: u64,
    /// Only what was not used since then.
    pub unused_since: Option<Timestamp>,
    /// Only caches whose id begins like this.
    pub id: Option<String>,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub ids: Vec<String>,
    pub bytes: u64,
}

impl Builds {
    /// Blocking, shortly.
    pub(crate) fn open(data_root: &Path) -> Self {
        Self { caches: Arc::new(CacheMounts::open(data_root.join(DIRECTORY))) }
    }

    pub(crate) fn caches(&self) -> &Arc<CacheMounts> {
        &self.caches
    }

    /// The caches of `RUN --mount=type=cache`, the least recently used first.
    ///
    /// # Errors
    /// Only if the task that measures them broke off.
    pub async fn list(&self) -> Result<Vec<CacheRecord>> {
        let caches = Arc::clone(&self.caches);
        tokio::task::spawn_blocking(move || caches.list()).await.map_err(broken_off)
    }
}

/// Removes what no build uses now.
///
/// # Errors
/// A cache could not be removed; those before it are gone.
pub async fn prune(engine: &Engine, options: PruneOptions) -> Result<Pruned> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || {
        let mut pruned = prune_caches(&engine.builds().caches, &options)?;
        if options.all && options.id.is_none() && options.unused_since.is_none() {
            let steps = prune_steps(&engine)?;
            pruned.ids.extend(steps.ids);
            pruned.bytes += steps.bytes;
        }
        Ok(pruned)
    })
    .await
    .map_err(broken_off)?
}

fn prune_caches(caches: &CacheMounts, options: &PruneOptions) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    for record in chosen(&caches.list(), options) {
        let removed = caches
            .remove(&record.id)
            .map_err(|error| Error::from(error).context(format!("remove the build cache {}", record.id)))?;
        if removed {
            pruned.bytes += record.size;
            pruned.ids.push(record.id.clone());
        }
    }
    Ok(pruned)
}

/// Which of the caches (least recently used first) go. Pure.
fn chosen<'a>(records: &'a [CacheRecord], options: &PruneOptions) -> Vec<&'a CacheRecord> {
    let mut left: u64 = records.iter().map(|record| record.size).sum();
    let mut chosen = Vec::new();
    for record in records {
        let spared = record.in_use
            || left <= options.keep_bytes && options.keep_bytes > 0
            || options.unused_since.is_some_and(|since| record.last_used >= since)
            || options.id.as_ref().is_some_and(|id| !record.id.starts_with(id.as_str()));
        if !spared {
            left -= record.size;
            chosen.push(record);
        }
    }
    chosen
}

/// Forgets all results of steps; images that have no name and no user go.
fn prune_steps(engine: &Engine) -> Result<Pruned> {
    let images = engine.images();
    let known = cache::forget(images.root()).map_err(Error::from)?;
    let before = images.layer_bytes();
    let mut pruned = Pruned::default();
    for id in known {
        let Ok(image) = images.resolve(&id) else { continue };
        let is_used = engine.list().iter().any(|container| container.image_id == image.id);
        // What others build on stays, and is no failure.
        if image.repo_tags.is_empty()
            && image.repo_digests.is_empty()
            && !is_used
            && engine.image_remove(&image.id, false).is_ok()
        {
            pruned.ids.push(id);
        }
    }
    pruned.bytes = before.saturating_sub(images.layer_bytes());
    Ok(pruned)
}

fn broken_off(error: tokio::task::JoinError) -> Error {
    Error::internal(format!("looking at the build cache broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, last_used: i64, size: u64, in_use: bool) -> CacheRecord {
        CacheRecord {
            id: id.into(),
            description: String::new(),
            created: Timestamp(1),
            last_used: Timestamp(last_used),
            uses: 1,
            in_use,
            size,
        }
    }

    fn check(options: &PruneOptions, expect: &[&str]) {
        let records = [record("a", 1, 10, false), record("b", 2, 20, true), record("c", 3, 30, false)];
        let ids: Vec<&str> = chosen(&records, options).iter().map(|record| record.id.as_str()).collect();
        assert_eq!(ids, expect, "{options:?}");
    }

    #[test]
    fn what_is_used_or_wanted_stays() {
        check(&PruneOptions::default(), &["a", "c"]);
        check(&PruneOptions { keep_bytes: 50, ..PruneOptions::default() }, &["a"]);
        check(&PruneOptions { keep_bytes: 60, ..PruneOptions::default() }, &[]);
        check(&PruneOptions { unused_since: Some(Timestamp(3)), ..PruneOptions::default() }, &["a"]);
        check(&PruneOptions { id: Some("c".into()), ..PruneOptions::default() }, &["c"]);
    }
}
