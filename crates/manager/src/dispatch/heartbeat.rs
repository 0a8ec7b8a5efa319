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
/// its way sees its old, good state and writes nothing.
pub(super) async fn record(
    replicator: &Replicator,
    sessions: &Sessions,
    nodes: &[NodeId],
    state: NodeState,
    message: &str,
) {
    write_states(replicator, nodes, state, message, |node, _| !sessions.is_open(node)).await;
    put_right(replicator, sessions, nodes).await;
}

/// Makes nodes ready that have a session, whatever is recorded of them. What was written of an
/// absence may be applied after its end, even when the write was answered with an error: so
/// this is repeated at every heartbeat.
pub(super) async fn put_right(replicator: &Replicator, sessions: &Sessions, nodes: &[NodeId]) {
    let is_wrong = |node: &NodeId, present| present != NodeState::Ready && sessions.is_open(node);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SwarmInit;
    use crate::manager::Manager;
    use crate::partition_tests::{admitted, config};
    use skep_proto::dispatcher::dispatcher_client::DispatcherClient;
    use skep_proto::dispatcher::{HeartbeatRequest, SessionRequest};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_absence_that_is_recorded_late_ends_with_the_next_heartbeat() {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::bootstrap(config(dir.path()), SwarmInit::default()).await.unwrap();
        let node = NodeId::from("late");
        let identity = admitted(&manager, node.as_str()).await;
        let state = || manager.replicator().store().snapshot().node(node.as_str()).unwrap().status.state;
        let mut client = DispatcherClient::new(identity.connect(manager.advertise_addr()).await.unwrap());
        let description = skep_proto::codec::encode(&skep_model::node::NodeDescription::default());
        let request = SessionRequest { description, ..SessionRequest::default() };
        let mut session = client.session(request).await.unwrap().into_inner();
        let session_id = session.message().await.unwrap().unwrap().session_id;
        assert_eq!(state(), NodeState::Ready);

        // The write was told as failed, and yet committed, after the node had come back.
        let nodes = std::slice::from_ref(&node);
        write_states(manager.replicator(), nodes, NodeState::Disconnected, "", |_, _| true).await;
        assert_eq!(state(), NodeState::Disconnected);
        client.heartbeat(HeartbeatRequest { session_id }).await.unwrap();
        assert_eq!(state(), NodeState::Ready);
        manager.shutdown().await;
    }
}
