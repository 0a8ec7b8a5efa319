//! One agent's session stream: what it must know of itself and of its managers, again
//! whenever that changes.

use super::Inner;
use super::sessions::Session;
use crate::store_handle::Changes;
use skep_cluster::Store;
use skep_cluster::command::Kind;
use skep_model::id::NodeId;
use skep_model::node::ManagerStatus;
use skep_proto::codec::encode;
use skep_proto::dispatcher::{Manager, SessionMessage};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

/// Only the leader serves agents; the others are there for when it is gone.
const LEADER_WEIGHT: u32 = 100;
const FOLLOWER_WEIGHT: u32 = 10;
const UNREACHABLE_WEIGHT: u32 = 1;

/// Feeds the stream until the agent goes away or the session ends.
pub(crate) async fn stream(
    inner: &Inner,
    node: &NodeId,
    session: &Session,
    sender: mpsc::Sender<Result<SessionMessage, Status>>,
) {
    let mut changes = inner.replicator.store().changes();
    let mut last = None;
    loop {
        let message = message(inner, &inner.replicator.store().snapshot(), node, session);
        if message.is_none() {
            // Removed from the swarm.
            session.ended.cancel();
        }
        if message.is_some() && message != last {
            last = message.clone();
            let sent = tokio::select! {
                sent = sender.send(Ok(message.unwrap_or_default())) => sent.is_ok(),
                () = ended(inner, session) => false,
            };
            if !sent {
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            () = ended(inner, session) => return,
            () = async {
                loop {
                    match changes.recv().await {
                        Ok(change) if !matters(&change, &inner.replicator.store().snapshot(), node) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => return,
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            } => {}
        }
    }
}

/// The session is over, for whatever reason.
pub(crate) async fn ended(inner: &Inner, session: &Session) {
    tokio::select! {
        () = session.ended.cancelled() => {}
        () = inner.stop.cancelled() => {}
    }
}

/// The cluster, this node, a manager, or a node that is gone and may have been one.
fn matters(change: &Changes, store: &Store, node: &NodeId) -> bool {
    let Changes::Keys(_, keys) = change else { return true };
    keys.iter().any(|key| match key.kind {
        Kind::Cluster => true,
        Kind::Node if key.id == node.as_str() => true,
        Kind::Node => store.node(&key.id).is_none_or(|other| other.manager_status.is_some()),
        Kind::Service | Kind::Task | Kind::Network | Kind::Secret | Kind::Config => false,
    })
}

/// `None`: the node is not in the swarm any more.
fn message(inner: &Inner, store: &Store, node: &NodeId, session: &Session) -> Option<SessionMessage> {
    let node = store.node(node.as_str())?;
    let cluster = store.cluster()?;
    let mut managers: Vec<Manager> =
        store.nodes().filter_map(|node| node.manager_status.as_ref().map(|status| manager(&node.id, status))).collect();
    if managers.is_empty() {
        managers.push(Manager { node_id: String::new(), address: inner.own_address.clone(), weight: LEADER_WEIGHT });
    }
    Some(SessionMessage {
        session_id: session.id.clone(),
        node: encode(node.as_ref()),
        managers,
        root_ca_pem: cluster.root_ca.trust_pem(),
        heartbeat_period_ms: u64::try_from(cluster.spec.heartbeat_period.as_millis()).unwrap_or(u64::MAX),
    })
}

fn manager(node: &NodeId, status: &ManagerStatus) -> Manager {
    let weight = match (status.leader, status.reachable) {
        (true, _) => LEADER_WEIGHT,
        (false, true) => FOLLOWER_WEIGHT,
        (false, false) => UNREACHABLE_WEIGHT,
    };
    Manager { node_id: node.0.clone(), address: status.address.clone(), weight }
}
