//! The worker: a thread, for the disk makes it wait.

use super::{Disk, WAITERS_MAX, Waiter, answer_all};
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

pub(super) struct Worker {
    sender: Option<mpsc::SyncSender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(disk: Disk) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(WAITERS_MAX);
        let thread = std::thread::Builder::new()
            .name("raft-log-flush".into())
            .stack_size(256 * 1024)
            .spawn(move || run(&disk, &receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Gives the waiter back when the thread has stopped.
    pub(super) fn submit(&self, waiter: Waiter) -> Result<(), Waiter> {
        match &self.sender {
            Some(sender) => sender.send(waiter).map_err(|mpsc::SendError(waiter)| waiter),
            None => Err(waiter),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread of the Raft log panicked");
        }
    }
}

fn run(disk: &Disk, receiver: &mpsc::Receiver<Waiter>) {
    let mut waiters = Vec::new();
    while let Ok(first) = receiver.recv() {
        waiters.push(first);
        waiters.extend(receiver.try_iter().take(WAITERS_MAX));
        answer_all(&mut waiters, &disk.sync());
    }
}
