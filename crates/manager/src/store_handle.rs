//! The replicated store as the rest of the manager sees it: snapshots that cost a
//! reference count, a version to wait on and a stream of what changed.

use skep_cluster::audience::{Audience, Before};
use skep_cluster::command::{Command, Key};
use skep_cluster::store::{Applied, Rejection, Store};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{broadcast, watch};

/// Changes a slow listener may lag behind; beyond that it is told that anything may have changed.
const CHANGES_KEPT_MAX: usize = 256;

/// What applying an entry changed.
#[derive(Debug, Clone)]
pub(crate) enum Changes {
    /// The Raft index, what changed at it, which may be nothing, and whom that concerns.
    Keys(u64, Arc<[Key]>, Arc<Audience>),
    /// The whole store was replaced.
    All,
}

/// Handle to the store; cheap to clone. Written only by the Raft state machine.
#[derive(Clone)]
pub(crate) struct StoreHandle {
    inner: Arc<Inner>,
}

struct Inner {
    current: RwLock<Arc<Store>>,
    version: watch::Sender<u64>,
    changes: broadcast::Sender<Changes>,
}

impl StoreHandle {
    pub(crate) fn new(store: Store) -> Self {
        let version = watch::Sender::new(store.index());
        let changes = broadcast::Sender::new(CHANGES_KEPT_MAX);
        Self { inner: Arc::new(Inner { current: RwLock::new(Arc::new(store)), version, changes }) }
    }

    /// The store as it is now; never changes under its holder.
    pub(crate) fn snapshot(&self) -> Arc<Store> {
        self.inner.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Raft index of the newest change.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Changes> {
        self.inner.changes.subscribe()
    }

    /// Waits until the entry at `index` is applied here.
    pub(crate) async fn wait_applied(&self, index: u64) {
        // The sender lives in this handle, so waiting cannot fail.
        let _ = self.version().wait_for(|version| *version >= index).await;
    }

    /// Applies in place when no snapshot is held, else on a copy of what it touches.
    pub(crate) fn apply(&self, index: u64, command: &Command) -> Result<Applied, Rejection> {
        let (result, audience) = {
            let mut current = self.inner.current.write().unwrap_or_else(PoisonError::into_inner);
            let before = Before::of(&current, command);
            let result = Arc::make_mut(&mut current).apply(index, command);
            (result, before.audience(&current))
        };
        self.inner.version.send_replace(index);
        let changed = result.as_ref().map(|applied| applied.changed.as_slice()).unwrap_or_default();
        // Without listeners there is nobody to tell.
        let _ = self.inner.changes.send(Changes::Keys(index, changed.into(), Arc::new(audience)));
        result
    }

    /// A snapshot from another manager, at log index `index`.
    pub(crate) fn replace(&self, store: Store, index: u64) {
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(store);
        self.inner.version.send_replace(index);
        let _ = self.inner.changes.send(Changes::All);
    }

    /// An entry without a command was applied.
    pub(crate) fn advance(&self, index: u64) {
        self.inner.version.send_replace(index);
    }
}
