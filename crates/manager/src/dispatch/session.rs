//! One agent's session stream: what it must know of itself and of its managers, again
//! whenever that changes.

use super::Inner;
use super::sessions::Session;
use skep_cluster::Store;
use skep_model::id::NodeId;
use skep_model::node::ManagerStatus;
use skep_proto::codec::encode;
use skep_proto::dispatcher::{Manager, SessionMessage};
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
    // Before the first look, so that nothing is missed after it.
    inner.routes.open(node, session);
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
            () = session.wakers.session.notified() => {}
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

/// `None`: the node is not in the swarm any more.
fn message(inner: &Inner, store: &Store, node: &NodeId, session: &Session) -> Option<SessionMessage> {
    let node = store.node(node.as_str())?;
    let cluster = store.cluster()?;
    let mut managers: Vec<Manager> = store
        .managers()
        .filter_map(|node| node.manager_status.as_ref().map(|status| manager(&node.id, status)))
        .collect();
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
