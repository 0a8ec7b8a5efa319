//! The leader's one loop: what changed is planned, what was planned is proposed, what was
//! proposed changes something, until nothing is left to do.

use crate::blocking::blocking;
use crate::ids::RandomIds;
use crate::raft::{ProposeError, Replicator, now};
use crate::store_handle::Changes;
use skep_cluster::command::{Key, WRITES_PER_COMMAND_MAX, Write};
use skep_cluster::plan::{Plan, plan};
use skep_model::{Error, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A plan that took long is not repeated for every single change: changes are gathered for as
/// long as it took, up to this.
const GATHER_MAX: Duration = Duration::from_millis(5);
/// Below this, planning is cheaper than waiting.
const GATHER_MIN: Duration = Duration::from_millis(1);
/// Least time between two plans woken by the clock alone.
const WAKE_MIN: Duration = Duration::from_millis(10);

/// Everything the loop reacts to.
enum Event {
    Leadership(bool),
    Changed(Changes),
    /// So much changed that nobody kept count.
    Lagged,
    Due,
    Stop,
}

struct Leader {
    replicator: Replicator,
    leads: bool,
    dirty: Dirty,
    wake_at: Option<Timestamp>,
    /// How long the last plan took.
    cost: Duration,
}

/// What has to be planned again.
#[derive(Debug, PartialEq)]
enum Dirty {
    Keys(BTreeSet<Key>),
    All,
}

/// Runs until `stop`, or until Raft fails.
pub(crate) async fn run(replicator: Replicator, stop: CancellationToken) -> Result<(), Error> {
    let mut changes = replicator.store().changes();
    let mut leader =
        Leader { replicator, leads: false, dirty: Dirty::Keys(BTreeSet::new()), wake_at: None, cost: Duration::ZERO };
    loop {
        match leader.next_event(&mut changes, &stop).await? {
            Event::Stop => return Ok(()),
            Event::Leadership(leads) => leader.set_leadership(leads),
            Event::Changed(change) => leader.dirty.mark(&change),
            Event::Lagged | Event::Due => leader.dirty = Dirty::All,
        }
        if leader.leads && !leader.dirty.is_clean() {
            if leader.cost > GATHER_MIN {
                tokio::time::sleep(leader.cost.min(GATHER_MAX)).await;
            }
            leader.dirty.mark_waiting(&mut changes);
            leader.round().await?;
        }
    }
}

impl Leader {
    async fn next_event(
        &self,
        changes: &mut broadcast::Receiver<Changes>,
        stop: &CancellationToken,
    ) -> Result<Event, Error> {
        let wake_in = self.wake_at.map_or(Duration::MAX, |at| at.since(now()).max(WAKE_MIN));
        tokio::select! {
            () = stop.cancelled() => Ok(Event::Stop),
            leads = self.replicator.leadership_change(self.leads) => leads.map(Event::Leadership),
            change = changes.recv() => match change {
                Ok(change) => Ok(Event::Changed(change)),
                Err(RecvError::Lagged(_)) => Ok(Event::Lagged),
                Err(RecvError::Closed) => Err(Error::internal("the store is gone")),
            },
            () = tokio::time::sleep(wake_in), if self.leads && self.wake_at.is_some() => Ok(Event::Due),
        }
    }

    /// A new leader, who has applied all that others committed, looks at everything.
    fn set_leadership(&mut self, leads: bool) {
        self.wake_at = None;
        tracing::info!(leads, "leadership changed");
        self.leads = leads;
        self.dirty = if leads { Dirty::All } else { Dirty::Keys(BTreeSet::new()) };
    }

    /// Plans once and proposes what came out. Its effects come back as changes.
    async fn round(&mut self) -> Result<(), Error> {
        let dirty = self.dirty.take();
        let store = self.replicator.store().snapshot();
        let planned_all = dirty.is_empty();
        let started = Instant::now();
        let planned = blocking(move || plan(&store, &dirty, now(), &mut RandomIds)).await;
        let Plan { writes, wake_at, report } = planned.map_err(|e| Error::internal(format!("planning failed: {e}")))?;
        self.cost = started.elapsed();
        for line in report {
            tracing::debug!(target: "skep_manager::plan", "{line}");
        }
        // A plan of everything knows every due time, one of some keys only theirs.
        self.wake_at = match (planned_all, self.wake_at, wake_at) {
            (false, Some(before), Some(new)) => Some(before.min(new)),
            (false, before, None) => before,
            (_, _, new) => new,
        };
        self.propose(writes).await
    }

    async fn propose(&mut self, mut writes: Vec<Write>) -> Result<(), Error> {
        let mut size = WRITES_PER_COMMAND_MAX;
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(size));
            let chunk = std::mem::replace(&mut writes, rest);
            match self.replicator.propose(chunk.clone(), true).await {
                Ok(applied) if applied.dropped.is_empty() => {}
                Ok(applied) => tracing::debug!(dropped = ?applied.dropped, "writes were overtaken"),
                Err(ProposeError::TooLarge(_)) if chunk.len() > 1 => {
                    size = chunk.len() / 2;
                    writes = chunk.into_iter().chain(std::mem::take(&mut writes)).collect();
                }
                Err(error @ (ProposeError::TooLarge(_) | ProposeError::Rejected(_))) => {
                    tracing::error!(%error, "a planned write was refused");
                }
                Err(ProposeError::NoLeader) => {
                    self.dirty = Dirty::All;
                    return Ok(());
                }
                Err(error @ ProposeError::Stopped(_)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Dirty {
    fn mark(&mut self, changes: &Changes) {
        match (&mut *self, changes) {
            (Self::Keys(keys), Changes::Keys(_, changed, _)) => keys.extend(changed.iter().cloned()),
            (Self::Keys(_), Changes::All) => *self = Self::All,
            (Self::All, _) => {}
        }
    }

    /// Everything that has come in so far belongs to the next plan, not to one of its own.
    fn mark_waiting(&mut self, changes: &mut broadcast::Receiver<Changes>) {
        loop {
            match changes.try_recv() {
                Ok(change) => self.mark(&change),
                Err(TryRecvError::Lagged(_)) => *self = Self::All,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn is_clean(&self) -> bool {
        matches!(self, Self::Keys(keys) if keys.is_empty())
    }

    /// The keys as `plan` takes them (none means all), leaving this clean.
    fn take(&mut self) -> BTreeSet<Key> {
        match std::mem::replace(self, Self::Keys(BTreeSet::new())) {
            Self::Keys(keys) => keys,
            Self::All => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_cluster::command::Kind;

    fn key(id: &str) -> Key {
        Key { kind: Kind::Task, id: id.into() }
    }

    #[test]
    fn changes_gather_and_all_swallows_keys() {
        let mut dirty = Dirty::Keys(BTreeSet::new());
        assert!(dirty.is_clean());
        let changes = |keys: &[Key]| Changes::Keys(1, keys.into(), Default::default());
        dirty.mark(&changes(&[key("a")]));
        dirty.mark(&changes(&[key("b"), key("a")]));
        assert_eq!(dirty.take(), BTreeSet::from([key("a"), key("b")]));
        assert!(dirty.is_clean());
        dirty.mark(&Changes::All);
        dirty.mark(&changes(&[key("a")]));
        assert!(!dirty.is_clean());
        assert!(dirty.take().is_empty());
        assert!(dirty.is_clean());
    }
}
