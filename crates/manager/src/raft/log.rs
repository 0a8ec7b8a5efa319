//! The Raft log and vote on disk, in sled, sealed.
//!
//! sled puts a page that outgrows a quarter of a segment into a file of its own which it
//! never syncs. Records are therefore cut into chunks small enough that no page can.

use super::flush::{Flusher, Waiter};
use super::seal::Seal;
use super::types::{Entry, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a lock that may be our own past one is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// A sled leaf holds 17 items at most, so pages stay below 48 KiB of the 64 KiB allowed.
const CHUNK_BYTES_MAX: usize = 2048;
const SEGMENT_BYTES: usize = 256 * 1024;
/// Pages kept in memory; the log is read from disk only at start and for slow followers.
const SLED_CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Newest entries kept decoded: they are applied and sent right after they are written.
const RECENT_BYTES_MAX: usize = 1024 * 1024;
/// Encoded entries in one message to a follower, unless a single one is larger.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Handle to the log; cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    /// Index and chunk number, both big-endian, to a chunk of the sealed entry.
    entries: sled::Tree,
    meta: sled::Tree,
    seal: Seal,
    recent: Mutex<Recent>,
    flusher: Flusher,
    /// Last field, dropped last: when it is gone, the files are closed.
    open: watch::Sender<()>,
}

#[derive(Default)]
struct Recent {
    entries: BTreeMap<u64, (Entry, usize)>,
    bytes: usize,
}

impl LogStore {
    /// Opens or creates the log in the folder `path`.
    pub(crate) fn open(path: &Path, seal: Seal) -> io::Result<Self> {
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(SLED_CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None);
        let db = open_database(&config)?;
        let flusher = Flusher::start(db.clone(), path)?;
        let inner = Inner {
            entries: db.open_tree("entries")?,
            meta: db.open_tree("meta")?,
            seal,
            recent: Mutex::default(),
            flusher,
            open: watch::Sender::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Shows every entry, with its index, that is on disk; one that cannot be read as an error.
    /// Ends with the first error of `show`.
    pub(crate) fn each<E>(
        &self,
        mut show: impl FnMut(u64, io::Result<Entry>) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        let mut open: Option<(u64, Vec<u8>)> = None;
        for item in &self.inner.entries {
            let (key, chunk) = item?;
            let index = index_of(&key)?;
            match &mut open {
                Some((current, record)) if *current == index => record.extend_from_slice(&chunk),
                _ => {
                    if let Some((done, record)) = open.replace((index, chunk.to_vec()))
                        && let Err(error) = show(done, self.inner.decode(done, &record))
                    {
                        return Ok(Err(error));
                    }
                }
            }
        }
        Ok(open.map_or(Ok(()), |(done, record)| show(done, self.inner.decode(done, &record))))
    }

    /// Its `changed` fails once the last handle is dropped and the files are closed.
    pub(crate) fn closed(&self) -> watch::Receiver<()> {
        self.inner.open.subscribe()
    }
}

/// sled's own threads hold its lock for a moment after the last handle was dropped, so one
/// that opens again at once waits for them; another process's lock is an error.
fn open_database(config: &sled::Config) -> io::Result<sled::Db> {
    let begin = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && begin.elapsed() < LOCK_WAIT_MAX =>
            {
                std::thread::sleep(LOCK_POLL);
            }
            other => return Ok(other?),
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.inner.read(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.inner.read(start..end, BATCH_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.inner.get_meta(VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.inner.get_meta(PURGED)?;
        let last_log_id = self.inner.last_entry()?.map(|entry| entry.log_id).max(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        #[cfg(skep_simulated)]
        if crate::Sabotage::ForgetVote.is_planted() {
            return Ok(());
        }
        self.inner.put_meta(VOTE, vote)?;
        self.inner.flusher.flush().await
    }

    /// Not flushed: losing it only means that a restart applies a little later.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.inner.put_meta(COMMITTED, &committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.inner.get_meta::<Option<LogId>>(COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.inner.append(entries)?;
        self.inner.flusher.submit(Waiter::Entries(callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let first = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        self.inner.remove(first..)?;
        self.inner.flusher.flush().await
    }

    /// The note of what was purged goes first: entries left over by a crash are below it and not read.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.inner.put_meta(PURGED, &log_id)?;
        self.inner.remove(..=log_id.index)
    }
}

impl Inner {
    fn append(&self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        let mut recent = self.recent();
        for entry in entries {
            let index = entry.log_id.index;
            let bytes = skep_proto::codec::encode(&entry);
            let record = self.seal.seal(&index.to_be_bytes(), &bytes)?;
            for (number, chunk) in (0u32..).zip(record.chunks(CHUNK_BYTES_MAX)) {
                batch.insert(&chunk_key(index, number), chunk);
            }
            recent.insert(entry, bytes.len());
        }
        // Under the lock: nobody may read from memory what sled has not got.
        self.entries.apply_batch(batch)?;
        Ok(())
    }

    /// Entries of a range, at least one if there is one, then as many as fit into `bytes_max`.
    fn read<RB: RangeBounds<u64>>(&self, range: RB, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (start, end) = half_open(&range);
        if let Some(entries) = self.recent().get(start, end, bytes_max) {
            return Ok(entries);
        }
        let purged = self.get_meta::<LogId>(PURGED)?.map_or(0, |id| id.index.saturating_add(1));
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut open: Option<(u64, Vec<u8>)> = None;
        for item in self.entries.range(chunk_key(start.max(purged), 0)..chunk_key(end.max(start), 0)) {
            let (key, chunk) = item?;
            let index = index_of(&key)?;
            match &mut open {
                Some((current, record)) if *current == index => record.extend_from_slice(&chunk),
                _ => {
                    if let Some((done, record)) = open.replace((index, chunk.to_vec())) {
                        bytes += record.len();
                        entries.push(self.decode(done, &record)?);
                        if bytes >= bytes_max {
                            return Ok(entries);
                        }
                    }
                }
            }
        }
        if let Some((done, record)) = open {
            entries.push(self.decode(done, &record)?);
        }
        Ok(entries)
    }

    fn last_entry(&self) -> io::Result<Option<Entry>> {
        let Some((key, _)) = self.entries.last()? else { return Ok(None) };
        let index = index_of(&key)?;
        Ok(self.read(index..=index, usize::MAX)?.pop())
    }

    fn remove<RB: RangeBounds<u64>>(&self, range: RB) -> io::Result<()> {
        let (start, end) = half_open(&range);
        let mut batch = sled::Batch::default();
        let mut recent = self.recent();
        for key in self.entries.range(chunk_key(start, 0)..chunk_key(end, 0)).keys() {
            batch.remove(key?);
        }
        recent.remove(start, end);
        self.entries.apply_batch(batch)?;
        Ok(())
    }

    fn decode(&self, index: u64, record: &[u8]) -> io::Result<Entry> {
        let bytes = self.seal.open(&index.to_be_bytes(), record)?;
        skep_proto::codec::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    fn get_meta<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let Some(record) = self.meta.get(key)? else { return Ok(None) };
        let bytes = self.seal.open(key, &record)?;
        let value = skep_proto::codec::decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(value))
    }

    fn put_meta<T: Serialize>(&self, key: &[u8], value: &T) -> io::Result<()> {
        let record = self.seal.seal(key, &skep_proto::codec::encode(value))?;
        self.meta.insert(key, record)?;
        Ok(())
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn insert(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        if let Some((_, replaced)) = self.entries.insert(entry.log_id.index, (entry, bytes)) {
            self.bytes -= replaced;
        }
        while self.bytes > RECENT_BYTES_MAX {
            let Some((_, (_, oldest))) = self.entries.pop_first() else { return };
            self.bytes -= oldest;
        }
    }

    fn remove(&mut self, start: u64, end: u64) {
        let gone: Vec<u64> = self.entries.range(start..end).map(|(index, _)| *index).collect();
        for index in gone {
            if let Some((_, bytes)) = self.entries.remove(&index) {
                self.bytes -= bytes;
            }
        }
    }

    /// `None` unless the whole range is here.
    fn get(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let length = usize::try_from(end.saturating_sub(start)).ok()?;
        if start >= end || self.entries.range(start..end).count() != length {
            return None;
        }
        let mut entries = Vec::with_capacity(length);
        let mut bytes = 0;
        for (entry, entry_bytes) in self.entries.range(start..end).map(|(_, kept)| kept) {
            if bytes >= bytes_max {
                break;
            }
            bytes += entry_bytes;
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

fn half_open<RB: RangeBounds<u64>>(range: &RB) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end.max(start))
}

fn chunk_key(index: u64, number: u32) -> [u8; 12] {
    let mut key = [0u8; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes =
        key.first_chunk::<8>().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed log key"))?;
    Ok(u64::from_be_bytes(*bytes))
}
