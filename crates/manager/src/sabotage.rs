//! Bugs that the simulation plants, to see whether it finds them. Not in the product.

use crate::ids::RandomIds;
use skep_cluster::Command;
use skep_cluster::ids::IdSource;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug that shows now and then shows once in so many times.
const STRIKES_EVERY: u32 = 200;

/// None, or the number of the planted bug.
static PLANTED: AtomicU8 = AtomicU8::new(u8::MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sabotage {
    /// The log says that entries are durable before they are.
    AnswerEarly,
    /// A vote is remembered in memory only.
    ForgetVote,
    /// A write that is sent on again counts as a new one.
    ForgetIds,
    /// A manager now and then does not apply what was committed.
    SkipEntry,
    /// The content of a snapshot from another manager is not taken.
    IgnoreSnapshot,
}

impl Sabotage {
    pub const ALL: [Self; 5] =
        [Self::AnswerEarly, Self::ForgetVote, Self::ForgetIds, Self::SkipEntry, Self::IgnoreSnapshot];

    /// From here on this process has the bug.
    pub fn plant(self) {
        PLANTED.store(self as u8, Ordering::Relaxed);
    }

    pub(crate) fn is_planted(self) -> bool {
        PLANTED.load(Ordering::Relaxed) == self as u8
    }

    /// It is planted, and shows this time.
    pub(crate) fn strikes(self) -> bool {
        self.is_planted() && rand::random_ratio(1, STRIKES_EVERY)
    }

    /// The command as it is sent on: under another id if that bug is planted.
    pub(crate) fn rename(command: &Arc<Command>) -> Arc<Command> {
        if !Self::ForgetIds.is_planted() {
            return command.clone();
        }
        Arc::new(Command { id: RandomIds.swarm_id(), ..Command::clone(command) })
    }
}
