//! Group commit: one worker makes everything written so far durable, then answers all
//! who waited for it. What comes in meanwhile shares the next flush.
//!
//! sled flushes with `sync_file_range`, which survives a crash of the process but not of
//! the machine; an fdatasync of its file after each flush closes that gap.

#[cfg_attr(not(skep_simulated), path = "flush/thread.rs")]
#[cfg_attr(skep_simulated, path = "flush/task.rs")]
mod worker;

use super::types::TypeConfig;
use openraft::storage::IOFlushed;
use std::fs::File;
use std::io;
use std::path::Path;
use tokio::sync::oneshot;
use worker::Worker;

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

/// Where everything is to be made durable.
struct Disk {
    db: sled::Db,
    file: File,
}

impl Disk {
    /// Answers after everything written until now is durable.
    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(io::Error::from).and_then(|_| self.file.sync_data())
    }
}

fn answer_all(waiters: &mut Vec<Waiter>, result: &io::Result<()>) {
    for waiter in waiters.drain(..) {
        waiter.answer(result.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
    }
}

/// Owner of the worker.
pub(crate) struct Flusher {
    worker: Worker,
}

impl Flusher {
    /// `path` is the folder of `db`.
    pub(crate) fn start(db: sled::Db, path: &Path) -> io::Result<Self> {
        let file = File::open(path.join("db"))?;
        Ok(Self { worker: Worker::start(Disk { db, file })? })
    }

    /// Answers `waiter` once everything written before is durable.
    pub(crate) fn submit(&self, waiter: Waiter) {
        if let Err(waiter) = self.worker.submit(waiter) {
            waiter.answer(Err(stopped()));
        }
    }

    /// Waits until everything written before is durable.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Waiter::Write(sender));
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> io::Error {
    io::Error::other("the flush thread has stopped")
}
