//! All containers of this machine, by id and by name.

use crate::container::attach::PendingAttach;
use skep_model::container::{ContainerInfo, InjectedFile};
use skep_model::id::ContainerId;
use skep_model::shim::Started;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// What others may see of a container without waiting.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) info: Arc<ContainerInfo>,
    /// Times its process ended since the engine opened.
    pub(crate) exits: u64,
    pub(crate) removed: bool,
}

/// One container. Its verbs take [`Container::lock`] one after the other; everybody
/// reads [`Container::info`].
#[derive(Debug)]
pub(crate) struct Container {
    snapshot: watch::Sender<Snapshot>,
    verbs: Arc<tokio::sync::Mutex<Owned>>,
    /// Attached before there is a process.
    pub(crate) pending: Mutex<Vec<PendingAttach>>,
    files: Mutex<GivenFiles>,
    /// Cancelled and replaced when a user wants no (further) automatic restart.
    restart: Mutex<CancellationToken>,
}

/// Files given by value; never on disk, so lost with the engine.
#[derive(Debug)]
enum GivenFiles {
    Here(Vec<InjectedFile>),
    /// Secrets must not outlive the run that they were given for.
    Forgotten,
}

/// What only the holder of the lock may touch.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// Set while a process runs.
    pub(crate) running: Option<Started>,
    /// Stops the health probes of the present run.
    pub(crate) run_ended: CancellationToken,
    pub(crate) backoff: Option<std::time::Duration>,
    /// The shim of the last run, which may still hold the root filesystem.
    pub(crate) last_shim: Option<(u32, u64)>,
}

impl Container {
    pub(crate) fn new(info: ContainerInfo, files: Vec<InjectedFile>) -> Arc<Self> {
        let snapshot = Snapshot { info: Arc::new(info), exits: 0, removed: false };
        Arc::new(Self {
            snapshot: watch::Sender::new(snapshot),
            verbs: Arc::default(),
            pending: Mutex::default(),
            files: Mutex::new(GivenFiles::Here(files)),
            restart: Mutex::default(),
        })
    }

    /// The files that were given by value.
    ///
    /// # Errors
    /// They were forgotten after the run that they were for.
    pub(crate) fn files(&self) -> Result<Vec<InjectedFile>> {
        match &*lock(&self.files) {
            GivenFiles::Here(files) => Ok(files.clone()),
            GivenFiles::Forgotten => Err(Error::conflict(
                "the secrets and configs that this container was given for its one run are gone with it",
            )),
        }
    }

    /// After the last run: what may be secret is not kept.
    pub(crate) fn forget_files(&self) {
        let mut files = lock(&self.files);
        if matches!(&*files, GivenFiles::Here(files) if !files.is_empty()) {
            *files = GivenFiles::Forgotten;
        }
    }

    /// As it is now.
    pub(crate) fn info(&self) -> Arc<ContainerInfo> {
        self.snapshot.borrow().info.clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// Waits for its turn.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<Owned> {
        self.verbs.clone().lock_owned().await
    }

    /// Changes what everybody sees, and returns it.
    pub(crate) fn change(&self, edit: impl FnOnce(&mut ContainerInfo)) -> Arc<ContainerInfo> {
        let mut edit = Some(edit);
        self.snapshot.send_modify(|snapshot| {
            if let Some(edit) = edit.take() {
                edit(Arc::make_mut(&mut snapshot.info));
            }
        });
        self.info()
    }

    /// As [`Container::change`], at the end of a process.
    pub(crate) fn change_at_exit(&self, edit: impl FnOnce(&mut ContainerInfo)) -> Arc<ContainerInfo> {
        let mut edit = Some(edit);
        self.snapshot.send_modify(|snapshot| {
            snapshot.exits += 1;
            if let Some(edit) = edit.take() {
                edit(Arc::make_mut(&mut snapshot.info));
            }
        });
        self.info()
    }

    pub(crate) fn mark_removed(&self) {
        self.snapshot.send_modify(|snapshot| snapshot.removed = true);
    }

    /// Ends a restart that is waiting for its time.
    pub(crate) fn cancel_restart(&self) {
        let mut token = lock(&self.restart);
        token.cancel();
        *token = CancellationToken::new();
    }

    pub(crate) fn restart_token(&self) -> CancellationToken {
        lock(&self.restart).clone()
    }

    /// Those who attached before the process runs.
    pub(crate) fn take_pending(&self) -> Vec<PendingAttach> {
        std::mem::take(&mut *lock(&self.pending))
    }
}

/// A poisoned lock guards plain data that is always whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names include those of containers that are being created.
    names: BTreeMap<String, String>,
}

/// The index. Never locked across an await.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    index: RwLock<Index>,
}

/// A name taken for a container that does not exist yet; given back when dropped.
pub(crate) struct NameReservation<'a> {
    registry: &'a Registry,
    name: String,
    kept: bool,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// By id, name (with or without slash) or unique id prefix, in this order.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        let index = self.read();
        let wanted = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = index.by_id.get(wanted) {
            return Ok(container.clone());
        }
        if let Some(container) = index.names.get(wanted).and_then(|id| index.by_id.get(id)) {
            return Ok(container.clone());
        }
        let is_prefix = !wanted.is_empty() && wanted.chars().all(|c| c.is_ascii_hexdigit());
        let mut found = index.by_id.range(wanted.to_owned()..).take_while(|(id, _)| id.starts_with(wanted));
        match (found.next().filter(|_| is_prefix), found.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("Multiple IDs found with provided prefix: {wanted}"))),
            _ => Err(Error::not_found(format!("No such container: {name}"))),
        }
    }

    /// All, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().by_id.values().cloned().collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.info().created));
        all
    }

    /// Takes a name.
    ///
    /// # Errors
    /// 409 with Docker's text.
    pub(crate) fn reserve(&self, name: &str, id: &ContainerId) -> Result<NameReservation<'_>> {
        let mut index = self.write();
        if let Some(holder) = index.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        index.names.insert(name.to_owned(), id.0.clone());
        Ok(NameReservation { registry: self, name: name.to_owned(), kept: false })
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        let info = container.info();
        let mut index = self.write();
        index.names.insert(info.name.clone(), info.id.0.clone());
        index.by_id.insert(info.id.0.clone(), container);
    }

    pub(crate) fn remove(&self, id: &ContainerId) {
        let mut index = self.write();
        index.by_id.remove(&id.0);
        index.names.retain(|_, holder| *holder != id.0);
    }

    /// Gives back the name a container no longer has.
    pub(crate) fn forget_name(&self, name: &str) {
        self.write().names.remove(name);
    }
}

impl NameReservation<'_> {
    /// The container exists now.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NameReservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.forget_name(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(ids: &[(&str, &str)]) -> Registry {
        let registry = Registry::default();
        for (id, name) in ids {
            let info = ContainerInfo { id: (*id).into(), name: (*name).into(), ..Default::default() };
            registry.insert(Container::new(info, Vec::new()));
        }
        registry
    }

    #[test]
    fn names_and_unique_prefixes_find_a_container() {
        let registry = registry(&[("abc1", "web"), ("abc2", "db"), ("def", "abc")]);
        let id = |name: &str| registry.find(name).unwrap().info().id.0.clone();
        assert_eq!(
            (id("web"), id("/db"), id("abc"), id("abc1"), id("de")),
            ("abc1".into(), "abc2".into(), "def".into(), "abc1".into(), "def".into())
        );
        assert_eq!(registry.find("ab").unwrap_err().message, "Multiple IDs found with provided prefix: ab");
        assert_eq!(registry.find("nosuch").unwrap_err().message, "No such container: nosuch");
        assert!(registry.find("").is_err());
    }

    #[test]
    fn a_name_is_taken_once_and_given_back() {
        let registry = registry(&[("abc1", "web")]);
        let error = registry.reserve("web", &"x".into()).err().unwrap();
        assert!(
            error.message.starts_with("Conflict. The container name \"/web\" is already in use by container \"abc1\".")
        );
        drop(registry.reserve("new", &"x".into()).unwrap());
        assert!(registry.reserve("new", &"y".into()).is_ok());
    }
}
