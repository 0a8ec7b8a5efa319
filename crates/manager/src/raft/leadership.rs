//! Who leads, as far as this manager can know: Raft's own word, doubted when nothing was
//! heard for a while. Everything but the proposing itself goes by it.

use super::Replicator;
use super::types::Member;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};
use skep_model::Error;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A leader that was not heard of for so long is none; one that no majority answered for so
/// long is none either. Several times the longest election, so that a pause is forgiven.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How often silence is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A new leader must have everything that was committed before by then, or is asked again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Who leads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Leadership {
    /// This manager; a majority answers it, and all that was committed before is applied here.
    Us,
    Other(Member),
    Nobody {
        since: Instant,
    },
}

/// When the leader was last heard of.
#[derive(Clone, Default)]
pub(crate) struct Contact(Arc<Mutex<Option<Instant>>>);

impl Contact {
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_fresh(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < SILENCE_MAX)
    }
}

/// Since when Raft says that this manager leads.
#[derive(Clone, Default)]
pub(crate) struct Won(Arc<Mutex<Option<Instant>>>);

impl Won {
    /// Now, if that is new.
    fn since(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now)
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It won less than `age` ago.
    pub(crate) fn lately(&self, age: Duration) -> bool {
        let won_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        won_at.is_some_and(|at| at.elapsed() < age)
    }
}

/// What Raft says, with our doubts.
enum Claim {
    /// `alone`: there is nobody to hear from.
    Us {
        alone: bool,
    },
    Other(Member),
    Nobody,
}

impl Replicator {
    /// Follows who leads.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(crate) fn is_leader(&self) -> bool {
        *self.leadership.borrow() == Leadership::Us
    }

    /// Waits until this manager has become leader (`true`) or ceased to be (`false`), whichever
    /// it is not in the eyes of the caller. Fails when Raft stopped.
    pub(crate) async fn leadership_change(&self, was_leader: bool) -> Result<bool, Error> {
        let mut leadership = self.leadership();
        let changed = leadership.wait_for(|now| (*now == Leadership::Us) != was_leader).await;
        changed.map(|_| !was_leader).map_err(|_| Error::internal("Raft has stopped"))
    }

    /// Keeps [`Self::leadership`] true. Runs until `stop`, or until Raft fails.
    ///
    /// Stops Raft's clock while this is the only member and leads: it has nobody to send
    /// heartbeats to and nobody to lose an election to, and an idle node should sleep.
    pub(crate) async fn tend_leadership(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut metrics = self.raft.server_metrics();
        loop {
            metrics.borrow_and_update();
            let claim = self.claim();
            let alone = matches!(claim, Claim::Us { alone: true });
            self.raft.runtime_config().tick(!alone);
            let settled = match claim {
                Claim::Us { .. } if self.is_leader() => alone,
                Claim::Us { .. } => {
                    let applied = self.catch_up().await;
                    if let Err(error) = &applied {
                        tracing::info!(%error, "a new leader does not have everything yet");
                    }
                    self.publish(applied.map_or_else(|_| nobody(), |()| Leadership::Us));
                    alone && self.is_leader()
                }
                Claim::Other(member) => {
                    self.publish(Leadership::Other(member));
                    false
                }
                Claim::Nobody => {
                    self.publish(nobody());
                    false
                }
            };
            tokio::select! {
                changed = metrics.changed() => changed.map_err(|_| Error::internal("Raft has stopped"))?,
                () = tokio::time::sleep(LOOK_INTERVAL), if !settled => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn claim(&self) -> Claim {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            self.won.forget();
            let membership = metrics.membership_config.membership();
            let leader = metrics.current_leader.filter(|leader| *leader != self.raft_id());
            let leader = leader.and_then(|leader| membership.get_node(&leader));
            return match leader {
                Some(leader) if self.contact.is_fresh() => Claim::Other(leader.clone()),
                Some(_) | None => Claim::Nobody,
            };
        }
        let won_since = self.won.since().elapsed();
        let membership = metrics.membership_config.membership();
        let alone = membership.nodes().all(|(id, _)| *id == self.raft_id());
        let acked = metrics.last_quorum_acked.map_or(Duration::MAX, |at| at.elapsed());
        let silence = acked.min(won_since);
        if alone || silence < SILENCE_MAX { Claim::Us { alone } } else { Claim::Nobody }
    }

    fn publish(&self, leadership: Leadership) {
        self.leadership.send_if_modified(|present| {
            // Nobody stays nobody since the beginning.
            let is_same = match (&*present, &leadership) {
                (Leadership::Nobody { .. }, Leadership::Nobody { .. }) => true,
                (present, new) => present == new,
            };
            if !is_same {
                tracing::debug!(?leadership, "leadership changed");
                *present = leadership;
            }
            !is_same
        });
    }

    /// Waits until everything committed before now is applied here. Fails when not the leader.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        let read = self.raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex);
        match tokio::time::timeout(CATCH_UP_TIMEOUT, read).await {
            Ok(read) => read.map(|_| ()).map_err(|e| Error::unavailable(e.to_string())),
            Err(_) => Err(Error::unavailable("no majority answers")),
        }
    }

    /// The members that answer, this one included: on the leader by its heartbeats, without a
    /// leader by what was asked for votes. `None` where the leader knows better.
    pub(crate) fn reachable_here(&self) -> Option<BTreeSet<u64>> {
        let leadership = self.leadership.borrow().clone();
        match leadership {
            Leadership::Us => Some(self.reachable()),
            Leadership::Nobody { .. } => {
                let mut answered = self.network.answered_lately();
                answered.insert(self.raft_id());
                Some(answered)
            }
            Leadership::Other(_) => None,
        }
    }
}

pub(super) fn nobody() -> Leadership {
    Leadership::Nobody { since: Instant::now() }
}
