//! Who is inside, so that they can be put out.

use skep_model::id::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The open connections of members, by node and a serial number.
#[derive(Clone, Default)]
pub(super) struct Connections {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    serial: u64,
    open: BTreeMap<(NodeId, u64), CancellationToken>,
}

/// One open connection; leaves the table when dropped.
pub(crate) struct Entry {
    connections: Connections,
    key: (NodeId, u64),
    /// Cancelled when the connection is to end.
    pub(super) cut: CancellationToken,
}

impl Connections {
    pub(super) fn enter(&self, node: &NodeId) -> Entry {
        let mut table = self.table();
        table.serial += 1;
        let key = (node.clone(), table.serial);
        let cut = CancellationToken::new();
        table.open.insert(key.clone(), cut.clone());
        Entry { connections: self.clone(), key, cut }
    }

    /// Ends all connections of these nodes.
    pub(super) fn cut<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) {
        let table = self.table();
        for node in nodes {
            for (_, cut) in table.open.range((node.clone(), 0)..=(node.clone(), u64::MAX)) {
                cut.cancel();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_nodes_are_put_out() {
        let connections = Connections::default();
        let names = ["a", "b", "b", "c"];
        let entries: Vec<Entry> = names.iter().map(|name| connections.enter(&(*name).into())).collect();
        connections.cut([NodeId::from("b"), NodeId::from("x")].iter());
        let cut: Vec<bool> = entries.iter().map(|entry| entry.cut.is_cancelled()).collect();
        assert_eq!(cut, [false, true, true, false]);
        drop(entries);
        assert!(connections.table().open.is_empty());
    }
}
