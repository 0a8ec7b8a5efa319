//! Keeps the log short: a snapshot each so many entries, as the swarm's settings say, and the
//! newest entries before it for followers that lag behind.

use super::Replicator;
use super::types::TypeConfig;
use crate::blocking::blocking;
use crate::store_handle::Changes;
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use skep_cluster::command::Kind;
use skep_model::Error;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// A snapshot that takes longer is not waited for; the next round looks again.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How the log is kept, by the swarm's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    interval: u64,
    entries_kept: u64,
    snapshots_kept: usize,
}

impl Replicator {
    /// Runs until `stop`, or until Raft fails.
    pub(crate) async fn tend_log(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut version = self.store.version();
        let mut changes = self.store.changes();
        loop {
            let policy = self.policy();
            let goal = next_snapshot(policy.interval, index_of(&self.raft.metrics().borrow_watched().snapshot));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = settings_change(&mut changes) => continue,
                reached = version.wait_for(|applied| *applied >= goal) => drop(reached),
            }
            self.snapshot(policy, goal).await?;
        }
    }

    async fn snapshot(&self, policy: Policy, goal: u64) -> Result<(), Error> {
        let stopped = |e: &dyn std::fmt::Display| Error::internal(format!("Raft has stopped: {e}"));
        self.raft.trigger().snapshot().await.map_err(|e| stopped(&e))?;
        let waiting = self.raft.wait(Some(SNAPSHOT_TIMEOUT));
        let is_new = |m: &RaftMetrics<TypeConfig>| index_of(&m.snapshot) >= goal;
        let Ok(seen) = waiting.metrics(is_new, "a snapshot").await else {
            tracing::warn!(index = goal, "the snapshot is not finished in time");
            return Ok(());
        };
        let index = index_of(&seen.snapshot);
        tracing::debug!(index, "snapshot taken");
        let file = self.snapshot_file.clone();
        let kept = blocking(move || file.keep_copies(index, policy.snapshots_kept)).await;
        if let Err(error) = kept.map_err(std::io::Error::other).and_then(|kept| kept) {
            tracing::warn!(%error, "cannot keep a copy of the snapshot");
        }
        let upto = index.saturating_sub(policy.entries_kept);
        if upto > index_of(&seen.purged) {
            self.raft.trigger().purge_log(upto).await.map_err(|e| stopped(&e))?;
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        let store = self.store.snapshot();
        let spec = store.cluster().map(|cluster| cluster.spec.clone()).unwrap_or_default();
        Policy {
            interval: spec.snapshot_interval,
            entries_kept: spec.log_entries_for_slow_followers,
            snapshots_kept: usize::try_from(spec.keep_old_snapshots).unwrap_or(usize::MAX),
        }
    }
}

async fn settings_change(changes: &mut broadcast::Receiver<Changes>) {
    loop {
        match changes.recv().await {
            Ok(Changes::Keys(_, keys, _)) if !keys.iter().any(|key| key.kind == Kind::Cluster) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// The index whose application is the time for the next snapshot; an interval of 0 is never.
fn next_snapshot(interval: u64, last: u64) -> u64 {
    if interval == 0 { u64::MAX } else { last.saturating_add(interval) }
}

fn index_of(log_id: &Option<super::types::LogId>) -> u64 {
    log_id.as_ref().map_or(0, |id| id.index)
}
