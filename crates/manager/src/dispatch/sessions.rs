//! Who has a session, and until when its silence is forgiven. In memory only: a new
//! leader learns it anew.

use crate::ids::RandomIds;
use skep_cluster::ids::IdSource;
use skep_model::id::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Heartbeats that may be missed.
const PERIODS_FORGIVEN: u32 = 3;
/// After a change of leader nodes get twice the time to come.
const PERIODS_OF_GRACE: u32 = 6;

/// The table of sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    /// There is a deadline before the one that is waited for.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    nodes: BTreeMap<NodeId, Entry>,
    /// Sessions opened so far.
    opened: u64,
    /// The deadline that is waited for.
    watched: Option<Instant>,
}

struct Entry {
    /// `None`: the node is only expected.
    session: Option<Session>,
    /// The agent has closed its stream; it may go on with the session until the deadline.
    is_closed: bool,
    deadline: Instant,
}

/// An open session. `ended` is cancelled when it is no longer the node's, also when the
/// node goes on with it over another stream; its streams end then.
#[derive(Clone, Default)]
pub(crate) struct Session {
    pub(crate) id: String,
    /// Of two sessions of a node the later one has the higher number.
    pub(crate) number: u64,
    pub(crate) ended: CancellationToken,
    pub(crate) wakers: Wakers,
}

/// What makes the streams of a session look at the store again.
#[derive(Clone, Default)]
pub(crate) struct Wakers {
    pub(crate) session: Arc<Notify>,
    pub(crate) assignments: Arc<Notify>,
}

impl Sessions {
    /// Opens a session, or goes on with the one that is named. Any other of that node ends.
    pub(crate) fn open(&self, node: &NodeId, resume_id: &str, period: Duration, now: Instant) -> Session {
        let mut table = self.table();
        let deadline = now + period * PERIODS_FORGIVEN;
        let before = table.nodes.remove(node).and_then(|entry| entry.session);
        if let Some(before) = &before {
            before.ended.cancel();
        }
        let id = match before {
            Some(before) if before.id == resume_id => before.id,
            _ => RandomIds.swarm_id(),
        };
        table.opened += 1;
        let session = Session { id, number: table.opened, ..Session::default() };
        table.nodes.insert(node.clone(), Entry { session: Some(session.clone()), is_closed: false, deadline });
        let is_earliest = table.is_earliest(deadline);
        drop(table);
        if is_earliest {
            self.changed.notify_one();
        }
        session
    }

    /// The node lives: its deadline moves.
    pub(crate) fn beat(&self, node: &NodeId, session_id: &str, period: Duration, now: Instant) -> Result<(), Status> {
        let mut table = self.table();
        let entry = table.nodes.get_mut(node).filter(|entry| entry.is(session_id)).ok_or_else(unknown)?;
        entry.deadline = now + period * PERIODS_FORGIVEN;
        Ok(())
    }

    /// The node's present session, if it has that id.
    pub(crate) fn get(&self, node: &NodeId, session_id: &str) -> Result<Session, Status> {
        let table = self.table();
        let entry = table.nodes.get(node).filter(|entry| entry.is(session_id));
        entry.and_then(|entry| entry.session.clone()).ok_or_else(unknown)
    }

    /// The stream of a session was closed by its agent. Whether it was the node's present one.
    pub(crate) fn close(&self, node: &NodeId, session: &Session) -> bool {
        let mut table = self.table();
        let is_it = |entry: &&mut Entry| entry.session.as_ref().is_some_and(|known| known.number == session.number);
        table.nodes.get_mut(node).filter(is_it).map(|entry| entry.is_closed = true).is_some()
    }

    /// Whether the node is there with a session, whichever.
    pub(crate) fn is_open(&self, node: &NodeId) -> bool {
        self.table().nodes.get(node).is_some_and(|entry| entry.session.is_some() && !entry.is_closed)
    }

    /// Expects these nodes to open a session; answers those who have none yet.
    pub(crate) fn expect(&self, nodes: Vec<NodeId>, period: Duration, now: Instant) -> Vec<NodeId> {
        let deadline = now + period * PERIODS_OF_GRACE;
        let mut table = self.table();
        let missing: Vec<NodeId> = nodes.into_iter().filter(|node| !table.nodes.contains_key(node)).collect();
        for node in &missing {
            table.nodes.insert(node.clone(), Entry { session: None, is_closed: false, deadline });
        }
        let is_earliest = table.is_earliest(deadline);
        drop(table);
        if is_earliest {
            self.changed.notify_one();
        }
        missing
    }

    /// Takes out the nodes that were silent for too long; their streams end.
    pub(crate) fn expire(&self, now: Instant) -> Vec<NodeId> {
        let mut table = self.table();
        let expired: Vec<NodeId> =
            table.nodes.iter().filter(|(_, entry)| entry.deadline <= now).map(|(node, _)| node.clone()).collect();
        for node in &expired {
            if let Some(Entry { session: Some(session), .. }) = table.nodes.remove(node) {
                session.ended.cancel();
            }
        }
        expired
    }

    /// Ends all sessions: this manager is not the leader any more.
    pub(crate) fn clear(&self) {
        for (_, entry) in std::mem::take(&mut self.table().nodes) {
            if let Some(session) = entry.session {
                session.ended.cancel();
            }
        }
    }

    /// Waits until the earliest deadline has passed.
    pub(crate) async fn next_expiry(&self) {
        loop {
            let earliest = {
                let mut table = self.table();
                table.watched = table.nodes.values().map(|entry| entry.deadline).min();
                table.watched
            };
            let due = async {
                match earliest {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    // Heartbeats move deadlines without a signal.
                    if self.table().nodes.values().any(|entry| entry.deadline <= Instant::now()) {
                        return;
                    }
                }
                () = self.changed.notified() => {}
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Nobody waits for a deadline as early as this.
    fn is_earliest(&self, deadline: Instant) -> bool {
        self.watched.is_none_or(|watched| deadline < watched)
    }
}

impl Entry {
    fn is(&self, session_id: &str) -> bool {
        self.session.as_ref().is_some_and(|session| session.id == session_id)
    }
}

fn unknown() -> Status {
    Status::not_found("the session is not known: open a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    fn node(id: &str) -> NodeId {
        NodeId::from(id)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn silence_for_three_periods_ends_a_session() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let session = sessions.open(&node("a"), "", PERIOD, start);
        sessions.beat(&node("a"), &session.id, PERIOD, after(start, 14)).unwrap();
        assert!(sessions.expire(after(start, 28)).is_empty());
        assert_eq!(sessions.expire(after(start, 29)), [node("a")]);
        assert!(session.ended.is_cancelled());
        assert!(sessions.beat(&node("a"), &session.id, PERIOD, after(start, 30)).is_err());
    }

    #[test]
    fn a_second_session_ends_the_first_and_a_resumed_one_keeps_its_id() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.open(&node("a"), "", PERIOD, start);
        let resumed = sessions.open(&node("a"), &first.id, PERIOD, start);
        assert_eq!(resumed.id, first.id);
        assert!(first.ended.is_cancelled() && !resumed.ended.is_cancelled());
        let other = sessions.open(&node("a"), "unknown", PERIOD, start);
        assert_ne!(other.id, first.id);
        assert!(sessions.get(&node("a"), &first.id).is_err());
        assert!(sessions.get(&node("a"), &other.id).is_ok());
    }

    #[test]
    fn a_closed_session_is_not_there_until_it_goes_on() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.open(&node("a"), "", PERIOD, start);
        assert!(sessions.close(&node("a"), &first) && !sessions.is_open(&node("a")));
        let resumed = sessions.open(&node("a"), &first.id, PERIOD, start);
        assert!(!sessions.close(&node("a"), &first) && sessions.is_open(&node("a")));
        assert!(sessions.close(&node("a"), &resumed));
        assert_eq!(sessions.expire(after(start, 15)), [node("a")]);
        assert!(!sessions.close(&node("a"), &resumed));
    }

    #[test]
    fn expected_nodes_get_six_periods() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        sessions.open(&node("here"), "", PERIOD, start);
        let missing = sessions.expect(vec![node("here"), node("away")], PERIOD, start);
        assert_eq!(missing, [node("away")]);
        assert!(sessions.is_open(&node("here")) && !sessions.is_open(&node("away")));
        assert_eq!(sessions.expire(after(start, 29)), [node("here")]);
        assert_eq!(sessions.expire(after(start, 30)), [node("away")]);
    }

    #[tokio::test]
    async fn the_earliest_deadline_wakes_the_watcher() {
        let sessions = Sessions::default();
        sessions.open(&node("late"), "", PERIOD, Instant::now());
        sessions.open(&node("early"), "", Duration::from_millis(5), Instant::now());
        tokio::time::timeout(PERIOD, sessions.next_expiry()).await.unwrap();
        assert_eq!(sessions.expire(Instant::now()), [node("early")]);
    }
}
