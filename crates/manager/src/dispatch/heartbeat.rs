//! Watches for silence, and for changes of leadership: then nobody's state is known.

use super::sessions::Sessions;
use crate::edit::edit;
use crate::raft::Replicator;
use skep_cluster::command::WRITES_PER_COMMAND_MAX;
use skep_cluster::edit::node_state;
use skep_model::Error;
use skep_model::id::NodeId;
use skep_model::node::NodeState;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

enum Event {
    Leadership(bool),
    Expired,
    Stop,
}

/// Runs until `stop`, or until Raft fails.
pub(crate) async fn run(replicator: &Replicator, sessions: &Sessions, stop: &CancellationToken) -> Result<(), Error> {
    let mut leads = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => Event::Stop,
            change = replicator.leadership_change(leads) => Event::Leadership(change?),
            () = sessions.next_expiry() => Event::Expired,
        };
        match event {
            Event::Stop => {
                sessions.clear();
                return Ok(());
            }
            Event::Leadership(now_leads) => {
                leads = now_leads;
                if !leads {
                    sessions.clear();
                } else {
                    expect_nodes(replicator, sessions).await;
                }
            }
            Event::Expired => {
                let expired = sessions.expire(Instant::now());
                if leads {
                    record(replicator, sessions, &expired, NodeState::Down, "heartbeat failure").await;
                }
            }
        }
    }
}

/// All nodes that are not down must show up; until then they are not known to be well.
async fn expect_nodes(replicator: &Replicator, sessions: &Sessions) {
    let store = replicator.store().snapshot();
    let period = store.cluster().map_or(Duration::from_secs(5), |cluster| cluster.spec.heartbeat_period);
    let alive = store.nodes().filter(|node| node.status.state != NodeState::Down);
    let missing = sessions.expect(alive.map(|node| node.id.clone()).collect(), period, Instant::now());
    record(replicator, sessions, &missing, NodeState::Unknown, "").await;
}

/// Records that nodes are away, unless they are back. One that opens a session while that is on
/// its way sees its old, good state and writes nothing; it is put right afterwards.
pub(super) async fn record(
    replicator: &Replicator,
    sessions: &Sessions,
    nodes: &[NodeId],
    state: NodeState,
    message: &str,
) {
    write_states(replicator, nodes, state, message, |node, _| !sessions.is_open(node)).await;
    // What happened to it since, if anything, is newer.
    let is_wrong = |node: &NodeId, present| present == state && sessions.is_open(node);
    write_states(replicator, nodes, NodeState::Ready, "", is_wrong).await;
}

async fn write_states(
    replicator: &Replicator,
    nodes: &[NodeId],
    state: NodeState,
    message: &str,
    applies: impl Fn(&NodeId, NodeState) -> bool,
) {
    for chunk in nodes.chunks(WRITES_PER_COMMAND_MAX) {
        let recorded = edit(replicator, |store, _, _| {
            let mut writes = Vec::new();
            for node in chunk {
                // A node that was removed meanwhile has no state to record.
                if store.node(node.as_str()).is_some_and(|present| applies(node, present.status.state)) {
                    writes.extend(node_state(store, node, state, message)?);
                }
            }
            Ok(((), writes))
        });
        if let Err(error) = recorded.await {
            tracing::warn!(%error, ?state, "cannot record the state of nodes");
        }
    }
}
