//! Waiting for what becomes of a container.

use crate::container::inner::Inner;
use crate::container::registry::Snapshot;
use crate::container::{WaitCondition, WaitResult};
use skep_model::Result;
use tokio::sync::watch;

impl Inner {
    /// Registers now, so that nothing between the call and the first poll is missed.
    pub(crate) fn wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + 'static + use<>> {
        let container = self.registry.find(name)?;
        let snapshots = container.subscribe();
        let exits = snapshots.borrow().exits;
        Ok(wait_for(snapshots, condition, exits))
    }
}

async fn wait_for(mut snapshots: watch::Receiver<Snapshot>, condition: WaitCondition, exits: u64) -> WaitResult {
    let met = |snapshot: &Snapshot| match condition {
        WaitCondition::NotRunning => snapshot.removed || !snapshot.info.state.status.is_running(),
        WaitCondition::NextExit => snapshot.removed || snapshot.exits > exits,
        WaitCondition::Removed => snapshot.removed,
    };
    let result = |snapshot: &Snapshot| WaitResult {
        exit_code: snapshot.info.state.exit_code,
        error: snapshot.info.state.error.clone(),
    };
    if let Ok(snapshot) = snapshots.wait_for(met).await {
        return result(&snapshot);
    }
    // The container is gone; what was last known of it holds.
    let last = snapshots.borrow();
    result(&last)
}
