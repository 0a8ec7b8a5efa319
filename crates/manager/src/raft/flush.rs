//! Group commit: one thread makes everything written so far durable, then answers all
//! who waited for it. What comes in meanwhile shares the next flush.
//!
//! sled flushes with `sync_file_range`, which survives a crash of the process but not of
//! the machine; an fdatasync of its file after each flush closes that gap.

use super::types::TypeConfig;
use openraft::storage::IOFlushed;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Writers that may wait at once; more block until the disk catches up.
const WAITERS_MAX: usize = 1024;

/// Whom to tell that a write is durable.
pub(crate) enum Waiter {
    Entries(IOFlushed<TypeConfig>),
    Write(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn answer(self, result: io::Result<()>) {
        match self {
            Self::Entries(callback) => callback.io_completed(result),
            // The one who asked may have been cancelled; the write is durable all the same.
            Self::Write(sender) => drop(sender.send(result)),
        }
    }
}

/// Owner of the flush thread.
pub(crate) struct Flusher {
    sender: Option<mpsc::SyncSender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// `path` is the folder of `db`.
    pub(crate) fn start(db: sled::Db, path: &Path) -> io::Result<Self> {
        let file = File::open(path.join("db"))?;
        let (sender, receiver) = mpsc::sync_channel(WAITERS_MAX);
        let thread = std::thread::Builder::new()
            .name("raft-log-flush".into())
            .stack_size(256 * 1024)
            .spawn(move || run(&db, &file, &receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Answers `waiter` once everything written before is durable.
    pub(crate) fn submit(&self, waiter: Waiter) {
        let refused = match &self.sender {
            Some(sender) => sender.send(waiter).map_err(|mpsc::SendError(waiter)| waiter),
            None => Err(waiter),
        };
        if let Err(waiter) = refused {
            waiter.answer(Err(io::Error::other("the flush thread has stopped")));
        }
    }

    /// Waits until everything written before is durable.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Waiter::Write(sender));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the flush thread has stopped")))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread of the Raft log panicked");
        }
    }
}

fn run(db: &sled::Db, file: &File, receiver: &mpsc::Receiver<Waiter>) {
    let mut waiters = Vec::new();
    while let Ok(first) = receiver.recv() {
        waiters.push(first);
        waiters.extend(receiver.try_iter().take(WAITERS_MAX));
        let result = db.flush().map_err(io::Error::from).and_then(|_| file.sync_data());
        for waiter in waiters.drain(..) {
            waiter.answer(result.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
        }
    }
}
