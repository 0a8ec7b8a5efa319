//! The Raft state machine: committed commands become changes of the store.

use super::snapshot::SnapshotFile;
use super::types::{LogId, Membership, Outcome, Snapshot, SnapshotMeta, TypeConfig};
use crate::blocking::blocking;
use crate::store_handle::StoreHandle;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use skep_cluster::Store;
use std::io;
use std::sync::Arc;

/// Applies entries to the store.
pub(crate) struct Machine {
    store: StoreHandle,
    file: SnapshotFile,
    last_applied: Option<LogId>,
    membership: Membership,
}

impl Machine {
    /// Starts from the newest snapshot; later entries come from the log.
    pub(crate) fn open(file: SnapshotFile) -> io::Result<(Self, StoreHandle)> {
        let (meta, store) = match file.read()? {
            Some((meta, bytes)) => (meta, decode_store(&bytes)?),
            None => (SnapshotMeta::default(), Store::default()),
        };
        let store = StoreHandle::new(store);
        let machine =
            Self { store: store.clone(), file, last_applied: meta.last_log_id, membership: meta.last_membership };
        Ok((machine, store))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let index = entry.log_id.index;
            #[cfg(skep_simulated)]
            if crate::Sabotage::SkipEntry.strikes() {
                continue;
            }
            let outcome = match entry.payload {
                EntryPayload::Normal(proposal) => match self.store.apply(index, &proposal.0) {
                    Ok(applied) => Outcome::Applied(applied),
                    Err(rejection) => Outcome::Rejected(rejection),
                },
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    self.store.advance(index);
                    Outcome::Nothing
                }
                EntryPayload::Blank => {
                    self.store.advance(index);
                    Outcome::Nothing
                }
            };
            self.last_applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() };
        Builder { meta, store: self.store.snapshot(), file: self.file.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let store = decode_store(&snapshot)?;
        #[cfg(skep_simulated)]
        let store =
            if crate::Sabotage::IgnoreSnapshot.is_planted() { Store::clone(&self.store.snapshot()) } else { store };
        let (file, kept) = (self.file.clone(), meta.clone());
        off_thread(move || file.write(&kept, &snapshot)).await?;
        self.store.replace(store, meta.last_log_id.map_or(0, |id| id.index));
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let file = self.file.clone();
        let read = off_thread(move || file.read()).await?;
        Ok(read.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes one snapshot of the store while the machine goes on.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    store: Arc<Store>,
    file: SnapshotFile,
}

impl Builder {
    /// The snapshot is to say other members than there were.
    pub(super) fn set_membership(&mut self, membership: Membership) {
        self.meta.last_membership = membership;
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, store, file) = (self.meta.clone(), self.store.clone(), self.file.clone());
        off_thread(move || {
            let snapshot = store.to_bytes();
            file.write(&meta, &snapshot)?;
            Ok(Snapshot { meta, snapshot })
        })
        .await
    }
}

fn decode_store(bytes: &[u8]) -> io::Result<Store> {
    Store::from_bytes(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    blocking(work).await.map_err(io::Error::other)?
}
