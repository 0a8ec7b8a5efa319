//! How far each node's kernel follows the store, as the present leader has heard. In memory
//! only: a new leader hears it anew, and who waits for it meanwhile gives up after a time.

use skep_model::id::NodeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The table; has at most one entry a node.
#[derive(Default)]
pub(crate) struct Progress {
    table: Mutex<BTreeMap<NodeId, Entry>>,
    /// Counts what came in.
    reports: watch::Sender<u64>,
}

#[derive(Default)]
struct Entry {
    session_id: String,
    /// Up to this Raft index nothing is left that the node has not been sent.
    looked_at: u64,
    /// Generation of the last network state that was sent.
    sent: u64,
    /// Generation of the last one that the node's kernel had.
    applied: u64,
}

impl Progress {
    /// A network state of that generation is on its way to the node.
    pub(crate) fn sent(&self, node: &NodeId, session_id: &str, generation: u64) {
        self.update(node, session_id, |entry| entry.sent = generation);
    }

    /// Nothing that changed up to an index concerns the node's network beyond what was sent.
    pub(crate) fn looked_at(&self, node: &NodeId, session_id: &str, index: u64) {
        self.update(node, session_id, |entry| entry.looked_at = entry.looked_at.max(index));
    }

    /// The node's kernel has the state of that generation.
    pub(crate) fn applied(&self, node: &NodeId, session_id: &str, generation: u64) {
        self.update(node, session_id, |entry| entry.applied = generation);
    }

    /// Whether the node's kernel is what the store says at an index or later.
    pub(crate) fn has(&self, node: &NodeId, index: u64) -> bool {
        let table = self.table();
        table.get(node).is_some_and(|entry| entry.looked_at >= index && entry.sent > 0 && entry.applied >= entry.sent)
    }

    /// Changes whenever anything above may answer differently.
    pub(crate) fn reports(&self) -> watch::Receiver<u64> {
        self.reports.subscribe()
    }

    fn update(&self, node: &NodeId, session_id: &str, change: impl FnOnce(&mut Entry)) {
        let mut table = self.table();
        let entry = table.entry(node.clone()).or_default();
        if entry.session_id != session_id {
            *entry = Entry { session_id: session_id.to_owned(), ..Entry::default() };
        }
        change(entry);
        drop(table);
        self.reports.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_what_it_was_sent_and_acknowledged() {
        let (progress, node) = (Progress::default(), NodeId::from("n"));
        assert!(!progress.has(&node, 0), "nothing is known of it");
        progress.sent(&node, "s", 5);
        progress.looked_at(&node, "s", 5);
        assert!(!progress.has(&node, 5), "sent is not applied");
        progress.applied(&node, "s", 5);
        assert!(progress.has(&node, 5) && !progress.has(&node, 6));
        // A change that does not concern it.
        progress.looked_at(&node, "s", 8);
        assert!(progress.has(&node, 8));
        progress.sent(&node, "s", 9);
        progress.looked_at(&node, "s", 9);
        assert!(!progress.has(&node, 8), "the later state is not there yet");
        progress.applied(&node, "s", 9);
        assert!(progress.has(&node, 9));
        progress.looked_at(&node, "another session", 9);
        assert!(!progress.has(&node, 9), "what an earlier session said counts no more");
    }
}
