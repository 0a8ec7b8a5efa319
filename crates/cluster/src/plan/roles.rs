//! Lets the role a node's certificate may say follow the role its spec asks for.

use super::draft::Draft;
use skep_model::node::Role;
use std::collections::BTreeSet;

/// A promotion holds at once: the node asks for a new certificate and joins Raft with it.
/// A demotion holds once the node is out of Raft, for until then its vote is needed.
pub(super) fn run(draft: &mut Draft<'_>, nodes: &BTreeSet<String>) {
    for id in nodes {
        if draft.store.node(id).is_none_or(|node| node.role == node.spec.role) {
            continue;
        }
        draft.edit_node(id, |node| match node.spec.role {
            Role::Manager => node.role = Role::Manager,
            Role::Worker if node.manager_status.is_none() => node.role = Role::Worker,
            Role::Worker => {}
        });
    }
}
