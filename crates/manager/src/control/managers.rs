//! The managers as this one sees them now: what the store says of them was written by a
//! leader who may be gone.

use super::Control;
use crate::raft::{Leadership, NO_LEADER, RaftState};
use sha2::{Digest, Sha256};
use skep_model::id::NodeId;
use skep_model::node::{ManagerStatus, Node};
use skep_model::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who leads, and who answers where this manager must judge for itself.
pub(super) struct Seen {
    leader: Option<NodeId>,
    reachable: Option<BTreeSet<u64>>,
}

impl Seen {
    /// The node with its manager status as it is now.
    pub(super) fn correct(&self, node: &Arc<Node>) -> Arc<Node> {
        let Some(stored) = &node.manager_status else { return node.clone() };
        let leader = self.leader.as_ref() == Some(&node.id);
        let answers = self.reachable.as_ref().map_or(stored.reachable, |seen| seen.contains(&stored.raft_id));
        let status = ManagerStatus { leader, reachable: leader || answers, ..stored.clone() };
        if status == *stored {
            return node.clone();
        }
        Arc::new(Node { manager_status: Some(status), ..Node::clone(node) })
    }
}

impl Control {
    /// Id of the leader, if there is one.
    pub fn leader(&self) -> Option<NodeId> {
        self.replicator.leader().map(|leader| leader.node_id)
    }

    /// Says in the reference's words that there is no leader: reads may be stale and writes
    /// are refused.
    ///
    /// # Errors
    /// There is none.
    pub fn check_leader(&self) -> Result<()> {
        match *self.replicator.leadership().borrow() {
            Leadership::Us | Leadership::Other(_) => Ok(()),
            Leadership::Nobody { .. } => Err(Error::unavailable(NO_LEADER)),
        }
    }

    /// This node ceases to be a manager, before it leaves the swarm or is demoted by itself:
    /// another one leads, and Raft goes on without it.
    ///
    /// # Errors
    /// It is the last manager, or the others would be no majority, or nobody leads.
    pub async fn retire(&self) -> Result<()> {
        self.replicator.leave(self.own.clone()).await
    }

    /// What this manager's Raft says of itself.
    pub fn raft_state(&self) -> RaftState {
        self.replicator.raft_state()
    }

    /// The version of this manager's store and a digest of all that is in it. Stores of the
    /// same version have the same digest on every manager.
    pub fn digest(&self) -> (u64, String) {
        let store = self.store();
        (store.index(), hex::encode(Sha256::digest(store.to_bytes())))
    }

    pub(super) fn seen_managers(&self) -> Seen {
        let leader = self.replicator.leader().map(|leader| leader.node_id);
        Seen { leader, reachable: self.replicator.reachable_here() }
    }
}
