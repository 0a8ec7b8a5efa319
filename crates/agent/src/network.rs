//! Keeps the node's network equal to what the swarm last asked for, and tells tasks when
//! the networks they need are there.

use crate::executor::Executor;
use skep_model::netstate::ClusterNetState;
use skep_model::service::PublishMode;
use skep_model::task::Task;
use skep_model::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(8);
/// A task that waits longer for its networks fails for a passing reason and asks again.
const NETWORKS_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a stop waits for all nodes' balancers to send nothing new to the task.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What the kernel was last made to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Applied {
    generation: Option<u64>,
    networks: BTreeSet<String>,
}

/// Handle to the keeper; `run` is its loop.
#[derive(Debug)]
pub(crate) struct NetworkKeeper {
    wanted: watch::Sender<Option<Arc<ClusterNetState>>>,
    applied: watch::Sender<Applied>,
    /// The newest assignments.
    assigned: watch::Sender<u64>,
    /// The generation that some task waits for all nodes to have.
    awaited: watch::Sender<u64>,
    /// The generation that all nodes have, by a manager's word.
    everywhere: watch::Sender<u64>,
    resync: Notify,
}

impl NetworkKeeper {
    pub(crate) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            applied: watch::Sender::default(),
            assigned: watch::Sender::default(),
            awaited: watch::Sender::default(),
            everywhere: watch::Sender::default(),
            resync: Notify::new(),
        }
    }

    /// Assignments of a generation were taken; tasks that stop wait for the others to follow it.
    pub(crate) fn note_assigned(&self, generation: u64) {
        self.assigned.send_replace(generation);
    }

    /// The next generation that this node's kernel has, other than `told`.
    pub(crate) async fn next_applied(&self, told: Option<u64>) -> u64 {
        let mut applied = self.applied.subscribe();
        let next = applied.wait_for(|applied| applied.generation.is_some() && applied.generation != told).await;
        match next.map(|applied| applied.generation) {
            Ok(Some(generation)) => generation,
            // The sender lives as long as this.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The next generation to ask a manager for.
    pub(crate) async fn next_awaited(&self) -> u64 {
        let mut awaited = self.awaited.subscribe();
        let next = awaited.wait_for(|awaited| *awaited > *self.everywhere.borrow()).await;
        match next.map(|awaited| *awaited) {
            Ok(generation) => generation,
            Err(_) => std::future::pending().await,
        }
    }

    /// All nodes have the network state of a generation.
    pub(crate) fn note_everywhere(&self, generation: u64) {
        self.everywhere.send_if_modified(|known| {
            let newer = generation > *known;
            *known = generation.max(*known);
            newer
        });
    }

    /// Waits until no node's balancer sends anything new to a task that was told to stop,
    /// but not for long: nodes and managers may be away.
    pub(crate) async fn drain(&self, task: &Task) {
        self.drain_within(task, DRAIN_MAX).await;
    }

    async fn drain_within(&self, task: &Task, max: Duration) {
        if !takes_connections(task) {
            return;
        }
        let generation = *self.assigned.borrow();
        self.awaited.send_if_modified(|awaited| {
            let later = generation > *awaited;
            *awaited = generation.max(*awaited);
            later
        });
        let mut everywhere = self.everywhere.subscribe();
        let known = everywhere.wait_for(|known| *known >= generation);
        if tokio::time::timeout(max, known).await.is_err() {
            tracing::warn!(task = %task.id, "stopping a task although not all nodes' balancers have let go of it");
        }
    }

    /// Replaces what is wanted.
    pub(crate) fn want(&self, state: ClusterNetState) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_deref() != Some(&state);
            if changed {
                *wanted = Some(Arc::new(state));
            }
            changed
        });
    }

    /// netd has started anew and knows nothing: tell it again.
    pub(crate) fn resync(&self) {
        self.resync.notify_one();
    }

    /// Waits until every overlay of the task is on this node.
    pub(crate) async fn wait_for_networks(&self, task: &Task) -> Result<()> {
        self.wait_for_networks_within(task, NETWORKS_WAIT_MAX).await
    }

    async fn wait_for_networks_within(&self, task: &Task, max: Duration) -> Result<()> {
        let missing = |applied: &Applied| {
            let attached = task.attachments.iter().filter(|leg| !leg.addresses.is_empty());
            attached.map(|leg| &leg.network.0).find(|id| !applied.networks.contains(*id)).cloned()
        };
        let mut applied = self.applied.subscribe();
        let waited = tokio::time::timeout(max, applied.wait_for(|applied| missing(applied).is_none()));
        if waited.await.is_ok_and(|outcome| outcome.is_ok()) {
            return Ok(());
        }
        let missing = missing(&self.applied.borrow()).unwrap_or_default();
        Err(Error::unavailable(format!("network {missing} has not reached this node yet")))
    }

    /// Applies every new wish until `stop`.
    pub(crate) async fn run(&self, executor: Arc<dyn Executor>, stop: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let state = wanted.borrow_and_update().clone();
            let failed = match state {
                Some(state) => !self.apply(executor.as_ref(), &state).await,
                None => false,
            };
            let pause = if failed { delay } else { Duration::MAX };
            delay = if failed { (delay * 2).min(RETRY_DELAY_MAX) } else { RETRY_DELAY_MIN };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                () = self.resync.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn apply(&self, executor: &dyn Executor, state: &ClusterNetState) -> bool {
        match executor.apply_network(state).await {
            Ok(()) => {
                let networks = state.networks.iter().map(|network| network.id.0.clone()).collect();
                self.applied.send_replace(Applied { generation: Some(state.generation), networks });
                true
            }
            Err(error) => {
                tracing::warn!(generation = state.generation, %error, "cannot apply the swarm's network state");
                false
            }
        }
    }
}

/// Whether balancers anywhere may lead connections to the task.
fn takes_connections(task: &Task) -> bool {
    let published = task.endpoint.ports.iter().any(|port| port.publish_mode == PublishMode::Ingress);
    published || task.attachments.iter().any(|leg| !leg.addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeExecutor;
    use skep_model::netstate::{DesiredNetwork, NetworkKind};
    use skep_model::task::TaskAttachment;

    fn state(generation: u64, ids: &[&str]) -> ClusterNetState {
        let network = |id: &&str| DesiredNetwork {
            id: (*id).into(),
            name: (*id).to_owned(),
            kind: NetworkKind::Overlay { vni: 4097, vxlan_port: 4789 },
            subnets: Vec::new(),
            internal: false,
            mtu: 0,
            dns: true,
        };
        ClusterNetState { generation, networks: ids.iter().map(network).collect(), ..ClusterNetState::default() }
    }

    fn task(network: &str) -> Task {
        let addresses = vec!["10.0.1.2/24".parse().unwrap()];
        Task {
            attachments: vec![TaskAttachment { network: network.into(), addresses, ..TaskAttachment::default() }],
            ..Task::default()
        }
    }

    #[tokio::test]
    async fn tasks_wait_for_their_networks_and_failures_are_retried() {
        let executor = Arc::new(FakeExecutor::default());
        executor.fail_network(2);
        let keeper = Arc::new(NetworkKeeper::new());
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (keeper, executor, stop) = (keeper.clone(), executor.clone(), stop.clone());
            async move { keeper.run(executor, stop).await }
        });
        keeper.want(state(1, &["n1"]));
        keeper.wait_for_networks(&task("n1")).await.unwrap();
        let late = keeper.wait_for_networks_within(&task("n2"), Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(late.message, "network n2 has not reached this node yet");
        keeper.want(state(2, &["n1", "n2"]));
        assert_eq!(keeper.next_applied(Some(1)).await, 2);
        assert_eq!(executor.network_generations(), [1, 2]);
        keeper.want(state(2, &["n1", "n2"]));
        keeper.resync();
        keeper.want(state(3, &["n1"]));
        while keeper.next_applied(Some(2)).await != 3 {}
        let told = executor.network_generations();
        assert!(told == [1, 2, 3] || told == [1, 2, 2, 3] || told == [1, 2, 3, 3], "{told:?}");
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_in_balancers_waits_for_all_nodes_and_not_for_ever() {
        let keeper = NetworkKeeper::new();
        keeper.note_assigned(7);
        keeper.drain(&Task::default()).await;
        assert_eq!(*keeper.awaited.borrow(), 0, "nobody balances to a task without networks and ports");
        let task = task("n1");
        let drained = async {
            keeper.drain(&task).await;
            *keeper.everywhere.borrow()
        };
        let manager = async {
            assert_eq!(keeper.next_awaited().await, 7);
            keeper.note_everywhere(6);
            assert_eq!(keeper.next_awaited().await, 7, "older news is no answer");
            keeper.note_everywhere(8);
        };
        assert_eq!(tokio::join!(drained, manager).0, 8);
        keeper.drain(&task).await;
        keeper.note_assigned(9);
        keeper.drain_within(&task, Duration::from_millis(5)).await;
        assert_eq!(*keeper.everywhere.borrow(), 8, "given up");
    }
}
