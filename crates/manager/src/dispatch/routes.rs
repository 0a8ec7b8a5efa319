//! Which streams have to look at the store again, and how far each node's kernel follows it.
//! In memory only: a new leader hears it anew, and who waits for it meanwhile gives up after
//! a time.

use super::sessions::{Session, Wakers};
use crate::store_handle::{Changes, StoreHandle};
use skep_cluster::audience::Audience;
use skep_model::Error;
use skep_model::id::{NetworkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// The table; has at most one entry a node.
#[derive(Default)]
pub(crate) struct Routes {
    table: Mutex<Table>,
    /// Counts what came in.
    reports: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    /// Up to this Raft index everybody whom a change concerns was told.
    routed: u64,
    nodes: BTreeMap<NodeId, Entry>,
    /// Nodes with an interest in a network.
    users: BTreeMap<NetworkId, BTreeSet<NodeId>>,
}

#[derive(Default)]
struct Entry {
    /// Number of the session that all this is about.
    session: u64,
    wakers: Wakers,
    networks: BTreeSet<NetworkId>,
    /// Raft index of the last change that concerns the node's assignments.
    concerned: u64,
    /// Up to this Raft index nothing is left that the node has not been sent.
    looked_at: u64,
    /// Generation of the last network state that was sent.
    sent: u64,
    /// Generation of the last one that the node's kernel had.
    applied: u64,
}

/// Follows the store for as long as it is there.
pub(crate) async fn run(store: &StoreHandle, routes: &Routes) -> Result<(), Error> {
    let mut changes = store.changes();
    // What changed before somebody listened.
    routes.route(store.snapshot().index(), &Audience::all());
    loop {
        match changes.recv().await {
            Ok(Changes::Keys(index, _, audience)) => routes.route(index, &audience),
            Ok(Changes::All) | Err(RecvError::Lagged(_)) => routes.route(store.snapshot().index(), &Audience::all()),
            Err(RecvError::Closed) => return Err(Error::internal("the store is gone")),
        }
    }
}

impl Routes {
    /// From now on the streams of this session are woken; what was known of the node by an
    /// earlier one is forgotten.
    pub(crate) fn open(&self, node: &NodeId, session: &Session) {
        self.update(node, session, |_| {});
    }

    /// The streams look at a store at least as new as `index` next.
    fn route(&self, index: u64, audience: &Audience) {
        let mut table = self.table();
        table.routed = table.routed.max(index);
        let Table { nodes, users, .. } = &mut *table;
        let of_networks = audience.networks.iter().filter_map(|network| users.get(network)).flatten();
        let concerned: BTreeSet<&NodeId> = of_networks.chain(&audience.nodes).collect();
        if audience.everyone {
            nodes.values_mut().for_each(|entry| entry.concern(index));
        } else {
            for node in concerned {
                nodes.get_mut(node).into_iter().for_each(|entry| entry.concern(index));
            }
        }
        if audience.all_sessions {
            nodes.values().for_each(|entry| entry.wakers.session.notify_one());
        } else {
            let sessions = audience.sessions.iter().filter_map(|node| nodes.get(node));
            sessions.for_each(|entry| entry.wakers.session.notify_one());
        }
        drop(table);
        self.count();
    }

    /// The node has an interest in these networks as of a Raft index. Whether something may
    /// have happened on a new one since, so that it must be looked at again.
    #[must_use]
    pub(crate) fn interested(
        &self,
        node: &NodeId,
        session: &Session,
        networks: BTreeSet<NetworkId>,
        index: u64,
    ) -> bool {
        let mut table = self.table();
        let routed = table.routed;
        let Some(entry) = table.entry(node, session) else { return false };
        let before = std::mem::replace(&mut entry.networks, networks.clone());
        for gone in before.difference(&networks) {
            table.forget_user(gone, node);
        }
        let mut is_late = false;
        for new in networks.difference(&before) {
            is_late |= routed > index;
            table.users.entry(new.clone()).or_default().insert(node.clone());
        }
        is_late
    }

    /// A network state of that generation is on its way to the node.
    pub(crate) fn sent(&self, node: &NodeId, session: &Session, generation: u64) {
        self.update(node, session, |entry| entry.sent = generation);
    }

    /// Nothing that changed up to an index concerns the node beyond what was sent.
    pub(crate) fn looked_at(&self, node: &NodeId, session: &Session, index: u64) {
        self.update(node, session, |entry| entry.looked_at = entry.looked_at.max(index));
    }

    /// The node's kernel has the state of that generation.
    pub(crate) fn applied(&self, node: &NodeId, session: &Session, generation: u64) {
        self.update(node, session, |entry| entry.applied = generation);
    }

    /// Whether the kernels of all these nodes are what the store says at an index or later.
    pub(crate) fn all_have<'a>(&self, mut nodes: impl Iterator<Item = &'a NodeId>, index: u64) -> bool {
        let table = self.table();
        nodes.all(|node| table.nodes.get(node).is_some_and(|entry| entry.has(index, table.routed)))
    }

    /// Changes whenever anything above may answer differently.
    pub(crate) fn reports(&self) -> watch::Receiver<u64> {
        self.reports.subscribe()
    }

    fn update(&self, node: &NodeId, session: &Session, change: impl FnMut(&mut Entry)) {
        self.table().entry(node, session).into_iter().for_each(change);
        self.count();
    }

    fn count(&self) {
        self.reports.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Anew for a later session; `None` for one that was followed by another.
    fn entry(&mut self, node: &NodeId, session: &Session) -> Option<&mut Entry> {
        let known = self.nodes.get(node).map_or(0, |entry| entry.session);
        if known > session.number {
            return None;
        }
        if known < session.number {
            let fresh = Entry { session: session.number, wakers: session.wakers.clone(), ..Entry::default() };
            let before = self.nodes.insert(node.clone(), fresh).unwrap_or_default();
            for network in &before.networks {
                self.forget_user(network, node);
            }
        }
        self.nodes.get_mut(node)
    }

    fn forget_user(&mut self, network: &NetworkId, node: &NodeId) {
        if let Some(users) = self.users.get_mut(network) {
            users.remove(node);
            if users.is_empty() {
                self.users.remove(network);
            }
        }
    }
}

impl Entry {
    fn concern(&mut self, index: u64) {
        self.concerned = index;
        self.wakers.assignments.notify_one();
    }

    fn has(&self, index: u64, routed: u64) -> bool {
        let is_told = self.looked_at >= index || (routed >= index && self.concerned <= self.looked_at);
        is_told && self.sent > 0 && self.applied >= self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> Session {
        Session { number, ..Session::default() }
    }

    fn has(routes: &Routes, node: &NodeId, index: u64) -> bool {
        routes.all_have(std::iter::once(node), index)
    }

    fn concerning(node: &NodeId) -> Audience {
        Audience { nodes: [node.clone()].into(), ..Audience::default() }
    }

    #[test]
    fn a_node_has_what_it_was_sent_and_acknowledged() {
        let (routes, node) = (Routes::default(), NodeId::from("n"));
        assert!(!has(&routes, &node, 0), "nothing is known of it");
        routes.sent(&node, &session(1), 5);
        routes.looked_at(&node, &session(1), 5);
        assert!(!has(&routes, &node, 5), "sent is not applied");
        routes.applied(&node, &session(1), 5);
        assert!(has(&routes, &node, 5) && !has(&routes, &node, 6));
        // A change that does not concern it.
        routes.route(8, &concerning(&"other".into()));
        assert!(has(&routes, &node, 8));
        routes.route(9, &concerning(&node));
        assert!(!has(&routes, &node, 9) && has(&routes, &node, 5), "the later change was not looked at");
        routes.sent(&node, &session(1), 9);
        routes.looked_at(&node, &session(1), 9);
        assert!(!has(&routes, &node, 8), "the later state is not there yet");
        routes.applied(&node, &session(1), 9);
        assert!(has(&routes, &node, 9));
        routes.open(&node, &session(2));
        assert!(!has(&routes, &node, 9), "what an earlier session said counts no more");
        routes.sent(&node, &session(1), 9);
        routes.looked_at(&node, &session(1), 9);
        routes.applied(&node, &session(1), 9);
        assert!(!has(&routes, &node, 9), "nor what it says late");
    }

    #[tokio::test]
    async fn only_the_streams_that_a_change_concerns_are_woken() {
        let (routes, nodes) = (Routes::default(), ["a", "b", "c"].map(NodeId::from));
        let sessions = nodes.clone().map(|node| {
            let session = session(1);
            routes.open(&node, &session);
            session
        });
        let network = NetworkId::from("net");
        assert!(!routes.interested(&nodes[1], &sessions[1], [network.clone()].into(), 0));
        let woken = async |notify: &tokio::sync::Notify| {
            tokio::time::timeout(std::time::Duration::ZERO, notify.notified()).await.is_ok()
        };
        let check = async |audience: Audience, assignments: [bool; 3], members: [bool; 3]| {
            routes.route(1, &audience);
            for (at, session) in sessions.iter().enumerate() {
                let wakers = &session.wakers;
                assert_eq!(woken(&wakers.assignments).await, assignments[at], "{audience:?}: assignments of {at}");
                assert_eq!(woken(&wakers.session).await, members[at], "{audience:?}: session of {at}");
            }
        };
        check(Audience::default(), [false; 3], [false; 3]).await;
        check(concerning(&nodes[0]), [true, false, false], [false; 3]).await;
        let on_network = Audience { networks: [network.clone()].into(), ..Audience::default() };
        check(on_network.clone(), [false, true, false], [false; 3]).await;
        let itself = Audience { sessions: [nodes[2].clone()].into(), ..Audience::default() };
        check(itself, [false; 3], [false, false, true]).await;
        check(Audience::all(), [true; 3], [true; 3]).await;
        assert!(!routes.interested(&nodes[1], &sessions[1], BTreeSet::new(), 1));
        check(on_network, [false; 3], [false; 3]).await;
    }

    #[test]
    fn who_learns_of_a_network_late_looks_again() {
        let (routes, node) = (Routes::default(), NodeId::from("n"));
        routes.route(7, &Audience::default());
        let interests: BTreeSet<NetworkId> = [NetworkId::from("net")].into();
        assert!(routes.interested(&node, &session(1), interests.clone(), 6));
        assert!(!routes.interested(&node, &session(1), interests.clone(), 6), "it is registered by now");
        assert!(!routes.interested(&node, &session(2), interests, 7));
    }
}
