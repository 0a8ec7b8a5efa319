//! What this node knows of its tasks, kept over restarts: the daemon finds its containers
//! again without asking a manager, and never starts one twice.

use skep_model::id::TaskId;
use skep_model::task::Task;
use skep_model::{Error, Result};
use skep_proto::codec;
use std::path::Path;

/// Task records are few and small; sled would otherwise take a gigabyte.
const CACHE_BYTES: u64 = 1024 * 1024;
/// Records that are not awaited reach the disk after this time at most.
const FLUSH_EVERY_MS: u64 = 500;
const TASKS: &str = "tasks";
const META: &str = "meta";
const MANAGERS: &str = "managers";

/// The agent's database. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LocalDb {
    db: sled::Db,
    tasks: sled::Tree,
    meta: sled::Tree,
}

impl LocalDb {
    /// Opens or makes the database in `directory`.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let config =
            sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open().map_err(failed)?;
        let tasks = db.open_tree(TASKS).map_err(failed)?;
        let meta = db.open_tree(META).map_err(failed)?;
        Ok(Self { db, tasks, meta })
    }

    /// Every record that can be read. One that cannot is dropped: the manager knows the task
    /// as well, and its container is found by its label.
    pub(crate) fn tasks(&self) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        for entry in &self.tasks {
            let (key, value) = entry.map_err(failed)?;
            match codec::decode::<Task>(&value) {
                Ok(task) => tasks.push(task),
                Err(error) => {
                    tracing::warn!(task = %String::from_utf8_lossy(&key), %error, "dropping an unreadable task record");
                    self.tasks.remove(&key).map_err(failed)?;
                }
            }
        }
        Ok(tasks)
    }

    /// An end is durable when this returns. What comes before need not be: after a crash the
    /// container and the manager tell it as well, and a start should not wait for a disk.
    pub(crate) async fn put_task(&self, task: &Task) -> Result<()> {
        self.tasks.insert(task.id.as_str(), codec::encode(task)).map_err(failed)?;
        if task.status.state.is_terminal() { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn remove_task(&self, id: &TaskId) -> Result<()> {
        self.tasks.remove(id.as_str()).map_err(failed)?;
        self.flush().await
    }

    /// Addresses of the managers last heard of.
    pub(crate) fn managers(&self) -> Result<Vec<String>> {
        let stored = self.meta.get(MANAGERS).map_err(failed)?;
        Ok(stored.and_then(|bytes| codec::decode(&bytes).ok()).unwrap_or_default())
    }

    pub(crate) async fn put_managers(&self, addresses: &[String]) -> Result<()> {
        self.meta.insert(MANAGERS, codec::encode(&addresses)).map_err(failed)?;
        self.flush().await
    }

    /// Forgets everything: the node left its swarm.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.tasks.clear().map_err(failed)?;
        self.meta.clear().map_err(failed)?;
        self.flush().await
    }

    async fn flush(&self) -> Result<()> {
        self.db.flush_async().await.map(|_| ()).map_err(failed)
    }
}

fn failed(error: sled::Error) -> Error {
    Error::internal(format!("task database: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_survive_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let db = LocalDb::open(directory.path()).unwrap();
        db.put_task(&Task { id: "t1".into(), slot: 4, ..Task::default() }).await.unwrap();
        db.put_task(&Task { id: "t2".into(), ..Task::default() }).await.unwrap();
        db.put_managers(&["10.0.0.1:2377".to_owned()]).await.unwrap();
        db.remove_task(&"t2".into()).await.unwrap();
        drop(db);
        let db = LocalDb::open(directory.path()).unwrap();
        let tasks = db.tasks().unwrap();
        assert_eq!((tasks.len(), tasks[0].slot), (1, 4));
        assert_eq!(db.managers().unwrap(), ["10.0.0.1:2377"]);
        db.clear().await.unwrap();
        assert!(db.tasks().unwrap().is_empty());
    }

    #[tokio::test]
    async fn unreadable_records_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let db = LocalDb::open(directory.path()).unwrap();
        db.tasks.insert("bad", b"\xff\x00").unwrap();
        assert!(db.tasks().unwrap().is_empty());
        assert!(db.tasks.is_empty());
    }
}
