//! Removed nodes keep a valid certificate for a while; the managers remember not to take it.

use crate::command::{Object, Write};
use crate::store::Store;
use skep_model::Timestamp;
use skep_model::cluster::Cluster;
use skep_model::id::NodeId;
use std::time::Duration;

/// How much longer than its certificate a node is remembered: clocks may differ.
const REMEMBERED_LONGER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Locks out a node that is being removed, and forgets those whose certificates are over.
/// To be proposed in one command with the removal.
pub fn lock_out(store: &Store, id: &NodeId, now: Timestamp) -> Vec<Write> {
    let (Some(cluster), Some(node)) = (store.cluster(), store.node(id.as_str())) else { return Vec::new() };
    let newest = now.plus(cluster.spec.node_cert_expiry);
    let until = node.certificate.not_after.max(newest).plus(REMEMBERED_LONGER);
    let mut cluster = Cluster::clone(cluster);
    cluster.removed_nodes.retain(|_, until| *until > now);
    cluster.removed_nodes.insert(id.clone(), until);
    vec![Write::put(Object::Cluster(cluster))]
}

/// Whether a certificate of that node is worthless, however valid. A store that is behind
/// may say no too long, never yes too early.
pub fn is_locked_out(store: &Store, id: &NodeId) -> bool {
    store.cluster().is_some_and(|cluster| cluster.removed_nodes.contains_key(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use skep_model::node::{Node, NodeCertificate};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn days(count: u64) -> Duration {
        Duration::from_secs(count * 24 * 3600)
    }

    fn store_of(node: Node, cluster: Cluster) -> Store {
        let mut store = Store::default();
        let objects = [Object::Cluster(cluster), Object::Node(Box::new(node))];
        let writes = objects.into_iter().map(Write::put).collect();
        store.apply(1, &Command { id: "1".into(), at: NOW, writes, independent: false }).unwrap();
        store
    }

    #[test]
    fn a_removed_node_is_remembered_until_its_certificate_is_over() {
        let certificate = NodeCertificate { not_after: NOW.plus(days(200)), ..NodeCertificate::default() };
        let node = Node { id: "n".into(), certificate, ..Node::default() };
        let removed_nodes = [("old".into(), NOW), ("recent".into(), NOW.plus(days(1)))].into();
        let store = store_of(node, Cluster { id: "c".into(), removed_nodes, ..Cluster::default() });
        assert!(!is_locked_out(&store, &"n".into()));
        let mut after = store.clone();
        let writes = lock_out(&store, &"n".into(), NOW);
        after.apply(2, &Command { id: "2".into(), at: NOW, writes, independent: false }).unwrap();
        let locked_out = |id: &str| is_locked_out(&after, &id.into());
        assert!(locked_out("n") && locked_out("recent") && !locked_out("old"));
        assert_eq!(after.cluster().unwrap().removed_nodes[&NodeId::from("n")], NOW.plus(days(207)));
    }

    #[test]
    fn a_certificate_of_a_root_that_does_not_sign_any_more_is_refused() {
        let mut cluster = Cluster { id: "c".into(), ..Cluster::default() };
        cluster.root_ca.digest = "present".into();
        let mut store = store_of(Node { id: "n".into(), ..Node::default() }, cluster);
        let mut take = |issuer: &str, index: u64| {
            let mut node = Node::clone(store.node("n").unwrap());
            node.certificate.issuer = issuer.into();
            let writes = vec![Write::put(Object::Node(Box::new(node)))];
            store.apply(index, &Command { id: index.to_string(), at: NOW, writes, independent: false }).is_ok()
        };
        assert!(!take("former", 2));
        assert!(take("present", 3));
    }
}
