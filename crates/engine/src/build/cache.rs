//! Which image a step made before. One small file below the image store.
//!
//! A key is a hash over the parent image, the instruction as it is recorded in the
//! history (for a copy with the digest of what it copied) and the resulting config. The
//! file is only a help: a lost or damaged one costs time, never correctness.

use super::error::{BuildError, BuildResult};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_model::container::ContainerConfig;
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries kept; the least recently used go first.
const ENTRIES_MAX: usize = 4096;
const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct File {
    version: u32,
    /// Oldest use first.
    entries: Vec<(String, String)>,
}

/// The cache as one build sees it.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    /// Shared with the threads that copy files.
    known: Arc<HashMap<String, String>>,
    /// Learned by this build and not yet on disk, in order.
    learned: Vec<(String, String)>,
}

/// What a step's result depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    /// Image id, empty for scratch.
    pub(crate) parent: &'a str,
    pub(crate) created_by: &'a str,
    pub(crate) config: &'a ContainerConfig,
    /// Whatever else decides, for example where a copy comes from.
    pub(crate) extra: &'a [&'a str],
}

impl Cache {
    pub(crate) fn load(directory: &Path) -> Self {
        let path = file_in(directory);
        let known = Arc::new(read(&path).entries.into_iter().collect());
        Self { path, known, learned: Vec::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.known.get(key).map(String::as_str)
    }

    /// All that is known now.
    pub(crate) fn known(&self) -> Arc<HashMap<String, String>> {
        Arc::clone(&self.known)
    }

    pub(crate) fn learn(&mut self, key: String, image: String) {
        Arc::make_mut(&mut self.known).insert(key.clone(), image.clone());
        self.learned.push((key, image));
    }

    /// Adds what was learned to what is on disk by now: other builds write too.
    pub(crate) fn save(&mut self) -> BuildResult<()> {
        if self.learned.is_empty() {
            return Ok(());
        }
        let _lock = lock(&self.path)?;
        let mut file = read(&self.path);
        let fresh: HashMap<_, _> = self.learned.drain(..).collect();
        file.entries.retain(|(key, _)| !fresh.contains_key(key));
        file.entries.extend(fresh);
        let surplus = file.entries.len().saturating_sub(ENTRIES_MAX);
        file.entries.drain(..surplus);
        write(&self.path, file)
    }
}

/// Forgets all; returns the images that were known, each once.
pub(crate) fn forget(directory: &Path) -> BuildResult<BTreeSet<String>> {
    let path = file_in(directory);
    let _lock = lock(&path)?;
    let known = read(&path).entries.into_iter().map(|(_, image)| image).collect();
    write(&path, File::default())?;
    Ok(known)
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("build-cache.json")
}

/// Keeps other builds from writing for as long as it lives.
fn lock(path: &Path) -> BuildResult<std::fs::File> {
    let doing = || format!("write {}", path.display());
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.with_extension("lock"))
        .map_err(BuildError::io(doing()))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(BuildError::io(doing()))?;
    Ok(lock)
}

fn write(path: &Path, mut file: File) -> BuildResult<()> {
    let doing = || format!("write {}", path.display());
    file.version = FORMAT_VERSION;
    let bytes = serde_json::to_vec(&file).map_err(|error| BuildError::io(doing())(std::io::Error::other(error)))?;
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut temporary = tempfile::NamedTempFile::new_in(parent).map_err(BuildError::io(doing()))?;
    temporary.write_all(&bytes).map_err(BuildError::io(doing()))?;
    temporary.as_file().sync_data().map_err(BuildError::io(doing()))?;
    temporary.persist(path).map_err(|error| BuildError::io(doing())(error.error))?;
    Ok(())
}

impl Step<'_> {
    pub(crate) fn key(&self) -> String {
        let mut hasher = Sha256::new();
        let config = serde_json::to_string(self.config).unwrap_or_default();
        let fixed = [self.parent, self.created_by, config.as_str()];
        for field in fixed.iter().chain(self.extra) {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        hex::encode(hasher.finalize())
    }
}

/// A missing, damaged or newer file is an empty cache.
fn read(path: &Path) -> File {
    let file: File = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if file.version == FORMAT_VERSION { file } else { File::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_keep_each_others_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (Cache::load(dir.path()), Cache::load(dir.path()));
        a.learn("k1".into(), "i1".into());
        b.learn("k2".into(), "i2".into());
        a.save().unwrap();
        b.save().unwrap();
        let again = Cache::load(dir.path());
        assert_eq!((again.get("k1"), again.get("k2")), (Some("i1"), Some("i2")));
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("build-cache.json"), b"{\"version\":1,\"entr").unwrap();
        let mut cache = Cache::load(dir.path());
        assert_eq!(cache.get("k"), None);
        cache.learn("k".into(), "i".into());
        cache.save().unwrap();
        assert_eq!(Cache::load(dir.path()).get("k"), Some("i"));
    }

    #[test]
    fn every_part_of_a_step_changes_the_key() {
        let (plain, other) = (ContainerConfig::default(), ContainerConfig { user: "a".into(), ..Default::default() });
        let step = Step { parent: "p", created_by: "c", config: &plain, extra: &["x"] };
        for changed in [
            Step { parent: "q", ..step },
            Step { created_by: "d", ..step },
            Step { config: &other, ..step },
            Step { extra: &["y"], ..step },
            Step { extra: &["x", ""], ..step },
        ] {
            assert_ne!(step.key(), changed.key());
        }
    }
}
