//! Keeps the node's network equal to what the swarm last asked for, and tells tasks when
//! the networks they need are there.

use crate::executor::Executor;
use skep_model::netstate::ClusterNetState;
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
/// How long a stop waits for the balancer to send nothing new to the task.
const SETTLE_MAX: Duration = Duration::from_secs(2);

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
    resync: Notify,
}

impl NetworkKeeper {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(None), applied: watch::Sender::default(), resync: Notify::new() }
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

    /// Waits until the kernel agrees with what is wanted now, but not for long.
    pub(crate) async fn settle(&self) {
        let wanted = self.wanted.borrow().as_ref().map(|state| state.generation);
        let mut applied = self.applied.subscribe();
        let agrees = applied.wait_for(|applied| applied.generation >= wanted);
        if tokio::time::timeout(SETTLE_MAX, agrees).await.is_err() {
            tracing::warn!("stopping a task although the network has not settled");
        }
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
        keeper.settle().await;
        assert_eq!(executor.network_generations(), [1, 2]);
        keeper.want(state(2, &["n1", "n2"]));
        keeper.resync();
        keeper.want(state(3, &["n1"]));
        keeper.settle().await;
        let told = executor.network_generations();
        assert!(told == [1, 2, 3] || told == [1, 2, 2, 3] || told == [1, 2, 3, 3], "{told:?}");
        stop.cancel();
        running.await.unwrap();
    }
}
