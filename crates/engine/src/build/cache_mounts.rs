//! The directories of `RUN --mount=type=cache`. They outlive builds and daemons.
//!
//! Below `<data root>/build/cache`: one directory for each, named after the hash of its id,
//! with `data/` and what is known of it in `cache.json`. Names that begin with a dot are
//! half made or half gone, and are removed at start.

use super::error::{BuildError, BuildResult};
use super::layered;
use super::parse::Sharing;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_model::Timestamp;
use std::collections::HashMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;

const RECORD_FILE: &str = "cache.json";
const DATA: &str = "data";
/// Characters of the hash that names a directory.
const NAME_LENGTH: usize = 25;
/// Bytes of a block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// One cache that a step wants.
#[derive(Debug, Clone)]
pub(crate) struct CacheWish {
    pub(crate) id: String,
    /// Where it is shown, for people.
    pub(crate) target: String,
    pub(crate) sharing: Sharing,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a cache begins with: layers, topmost first, and a path in them.
pub(crate) type Beginning = (Vec<PathBuf>, String);

/// A cache as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    pub id: String,
    pub description: String,
    pub created: Timestamp,
    pub last_used: Timestamp,
    pub uses: u64,
    pub in_use: bool,
    /// Bytes on disk.
    pub size: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    id: String,
    target: String,
    created: Timestamp,
    last_used: Timestamp,
    uses: u64,
}

/// All caches of this data root.
#[derive(Debug)]
pub(crate) struct CacheMounts {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Steps that use a directory now, by its name.
    users: HashMap<String, usize>,
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    made: u64,
}

/// A cache in use. It cannot be pruned while this lives.
#[derive(Debug)]
pub(crate) struct CacheMount {
    caches: Arc<CacheMounts>,
    name: String,
    path: PathBuf,
    _lock: Option<OwnedMutexGuard<()>>,
}

impl CacheMount {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        let mut state = self.caches.state();
        if let Some(count) = state.users.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.users.remove(&self.name);
            }
        }
    }
}

impl CacheMounts {
    /// Removes what a daemon that was killed left half made. Blocking.
    pub(crate) fn open(root: PathBuf) -> Self {
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.')
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "a half-made build cache stays");
            }
        }
        Self { root, state: Mutex::default() }
    }

    /// Whether a step that wants it locked would have to wait.
    pub(crate) fn is_locked(&self, id: &str) -> bool {
        self.state().locks.get(&name_of(id)).is_some_and(|lock| lock.try_lock().is_err())
    }

    /// The cache, made if there is none.
    pub(crate) async fn take(
        self: &Arc<Self>,
        wish: CacheWish,
        beginning: Option<Beginning>,
    ) -> BuildResult<CacheMount> {
        let lock = match wish.sharing {
            Sharing::Locked => {
                let lock = Arc::clone(self.state().locks.entry(name_of(&wish.id)).or_default());
                Some(lock.lock_owned().await)
            }
            Sharing::Shared | Sharing::Private => None,
        };
        let (id, name) = self.reserve(&wish);
        let path = self.root.join(&name).join(DATA);
        let mount = CacheMount { caches: Arc::clone(self), name, path, _lock: lock };
        let caches = Arc::clone(self);
        let preparing = tokio::task::spawn_blocking(move || {
            caches.prepare(&mount.name, &id, &wish, beginning)?;
            Ok(mount)
        });
        preparing.await.map_err(|error| BuildError::io("prepare a cache")(std::io::Error::other(error)))?
    }

    /// Counts a user, and says which cache it is: a private one is one that nobody uses.
    fn reserve(&self, wish: &CacheWish) -> (String, String) {
        let mut state = self.state();
        let mut number = 1;
        loop {
            let id = if number == 1 { wish.id.clone() } else { format!("{} #{number}", wish.id) };
            let name = name_of(&id);
            if wish.sharing != Sharing::Private || !state.users.contains_key(&name) {
                *state.users.entry(name.clone()).or_default() += 1;
                return (id, name);
            }
            number += 1;
        }
    }

    fn prepare(&self, name: &str, id: &str, wish: &CacheWish, beginning: Option<Beginning>) -> BuildResult<()> {
        let directory = self.root.join(name);
        let failed = || format!("prepare the cache {id}");
        let now = Timestamp::from_chrono(chrono::Utc::now());
        if let Some(mut record) = read(&directory) {
            record.last_used = now;
            record.uses += 1;
            return write(&directory, &record).map_err(BuildError::io(failed()));
        }
        let new = self.root.join(format!(".new-{}", self.number()));
        let make = || -> std::io::Result<()> {
            std::fs::create_dir_all(new.join(DATA))?;
            std::fs::set_permissions(&new, Permissions::from_mode(0o700))?;
            std::os::unix::fs::chown(new.join(DATA), Some(wish.uid), Some(wish.gid))?;
            std::fs::set_permissions(new.join(DATA), Permissions::from_mode(wish.mode))
        };
        make().map_err(BuildError::io(failed()))?;
        if let Some((layers, path)) = beginning {
            begin(&layers, &path, &new.join(DATA))?;
        }
        let record = Record { id: id.to_owned(), target: wish.target.clone(), created: now, last_used: now, uses: 1 };
        write(&new, &record).map_err(BuildError::io(failed()))?;
        match std::fs::rename(&new, &directory) {
            Ok(()) => Ok(()),
            // Another step was faster.
            Err(_) if read(&directory).is_some() => std::fs::remove_dir_all(&new).map_err(BuildError::io(failed())),
            Err(error) => Err(BuildError::io(failed())(error)),
        }
    }

    /// All caches, the least recently used first. Blocking: measures them.
    pub(crate) fn list(&self) -> Vec<CacheRecord> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<CacheRecord> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
                let record = read(&entry.path())?;
                let in_use = self.state().users.contains_key(&name);
                let size = disk_size(&entry.path());
                let Record { id, target, created, last_used, uses } = record;
                let description = format!("cached mount {target} from exec (id {id})");
                Some(CacheRecord { id: name, description, created, last_used, uses, in_use, size })
            })
            .collect();
        found.sort_by_key(|record| record.last_used);
        found
    }

    /// Removes one unless a step uses it; says whether it is gone. Blocking.
    pub(crate) fn remove(&self, name: &str) -> std::io::Result<bool> {
        let gone = self.root.join(format!(".gone-{}", self.number()));
        {
            // No step can begin to use it meanwhile.
            let state = self.state();
            if state.users.contains_key(name) {
                return Ok(false);
            }
            std::fs::rename(self.root.join(name), &gone)?;
        }
        std::fs::remove_dir_all(&gone)?;
        Ok(true)
    }

    fn number(&self) -> u64 {
        let mut state = self.state();
        state.made += 1;
        state.made
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(id: &str) -> String {
    let mut name = hex::encode(Sha256::digest(id));
    name.truncate(NAME_LENGTH);
    name
}

/// Fills a new cache from an image.
fn begin(layers: &[PathBuf], path: &str, data: &Path) -> BuildResult<()> {
    let layered::Part::Directories(lower) = layered::find(layers, path)? else {
        return Err(BuildError::Instruction(format!("a cache cannot begin with a file: {path}")));
    };
    if lower.is_empty() {
        return Ok(());
    }
    layered::copy(&lower, data)
}

fn read(directory: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(directory.join(RECORD_FILE)).ok()?).ok()
}

fn write(directory: &Path, record: &Record) -> std::io::Result<()> {
    let mut next = tempfile::NamedTempFile::new_in(directory)?;
    next.write_all(&serde_json::to_vec(record)?)?;
    next.persist(directory.join(RECORD_FILE)).map(drop).map_err(|error| error.error)
}

/// Bytes on disk below a directory; what vanishes meanwhile counts nothing.
pub(crate) fn disk_size(directory: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * BLOCK_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(id: &str, sharing: Sharing) -> CacheWish {
        CacheWish { id: id.into(), target: "/c".into(), sharing, mode: 0o750, uid: 5, gid: 6 }
    }

    fn caches() -> (tempfile::TempDir, Arc<CacheMounts>) {
        let dir = tempfile::tempdir().unwrap();
        let caches = Arc::new(CacheMounts::open(dir.path().join("cache")));
        (dir, caches)
    }

    #[tokio::test]
    async fn a_cache_keeps_what_is_in_it_and_is_shared() {
        let (dir, caches) = caches();
        let first = caches.take(wish("a", Sharing::Shared), None).await.unwrap();
        std::fs::write(first.path().join("x"), "1").unwrap();
        let metadata = first.path().metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (5, 6, 0o750));
        let second = caches.take(wish("a", Sharing::Shared), None).await.unwrap();
        assert_eq!(first.path(), second.path());
        drop((first, second));
        std::fs::create_dir(dir.path().join("cache/.new-7")).unwrap();
        let again = Arc::new(CacheMounts::open(dir.path().join("cache")));
        assert!(!dir.path().join("cache/.new-7").exists());
        let third = again.take(wish("a", Sharing::Shared), None).await.unwrap();
        assert_eq!(std::fs::read_to_string(third.path().join("x")).unwrap(), "1");
        let records = again.list();
        assert_eq!((records.len(), records[0].uses, records[0].in_use), (1, 3, true));
    }

    #[tokio::test]
    async fn private_ones_are_told_apart_and_locked_ones_wait() {
        let (_dir, caches) = caches();
        let first = caches.take(wish("p", Sharing::Private), None).await.unwrap();
        let second = caches.take(wish("p", Sharing::Private), None).await.unwrap();
        assert_ne!(first.path(), second.path());
        let held = caches.take(wish("l", Sharing::Locked), None).await.unwrap();
        assert!(caches.is_locked("l"));
        let mut waiting = Box::pin(caches.take(wish("l", Sharing::Locked), None));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_used_cannot_be_removed() {
        let (_dir, caches) = caches();
        let used = caches.take(wish("a", Sharing::Shared), None).await.unwrap();
        let name = caches.list()[0].id.clone();
        assert!(!caches.remove(&name).unwrap());
        drop(used);
        assert!(caches.remove(&name).unwrap());
        assert!(caches.list().is_empty());
    }

    #[tokio::test]
    async fn a_cache_begins_with_what_an_image_has() {
        let (dir, caches) = caches();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("sub")).unwrap();
        std::fs::write(layer.join("sub/x"), "from").unwrap();
        let beginning = Some((vec![layer], "/sub".to_owned()));
        let cache = caches.take(wish("a", Sharing::Shared), beginning).await.unwrap();
        assert_eq!(std::fs::read_to_string(cache.path().join("x")).unwrap(), "from");
    }
}
