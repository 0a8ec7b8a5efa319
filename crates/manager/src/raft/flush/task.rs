//! The worker in the simulation: a task, so that a seed decides when it is done, with a disk
//! that takes its time, so that a power cut finds writes that are not durable yet.

use super::{Disk, WAITERS_MAX, Waiter, answer_all};
use crate::sabotage::Sabotage;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A flush takes up to this, or ten times as long once in a while.
const FLUSH_MS_MAX: u64 = 6;
const STALLS_PER_MILLE: u32 = 10;

pub(super) struct Worker {
    sender: mpsc::Sender<Waiter>,
    task: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(disk: Disk) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITERS_MAX);
        Ok(Self { sender, task: tokio::spawn(run(disk, receiver)) })
    }

    /// Gives the waiter back when the task has stopped or too many wait.
    pub(super) fn submit(&self, waiter: Waiter) -> Result<(), Waiter> {
        self.sender.try_send(waiter).map_err(|error| error.into_inner())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(disk: Disk, mut receiver: mpsc::Receiver<Waiter>) {
    let mut waiters = Vec::new();
    while receiver.recv_many(&mut waiters, WAITERS_MAX).await > 0 {
        if Sabotage::AnswerEarly.is_planted() {
            answer_all(&mut waiters, &Ok(()));
        }
        let stall = if rand::random_ratio(STALLS_PER_MILLE, 1000) { 10 } else { 1 };
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=FLUSH_MS_MAX) * stall)).await;
        answer_all(&mut waiters, &disk.sync());
    }
}
