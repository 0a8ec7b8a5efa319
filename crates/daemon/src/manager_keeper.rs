//! Keeps this node's manager running: opens it, and opens it again after a failure.

use skep_identity::Identity;
use skep_manager::{Control, Manager, ManagerConfig};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// What is known of the manager.
#[derive(Clone, Default)]
pub(crate) struct ManagerState {
    /// `None` while it is down.
    pub(crate) control: Option<Control>,
    /// Why it is down.
    pub(crate) error: String,
}

pub(crate) struct ManagerKeeper {
    state: watch::Receiver<ManagerState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ManagerKeeper {
    /// Keeps `manager`, or opens the one that `config` names.
    pub(crate) fn start(config: ManagerConfig, identity: Identity, manager: Option<Manager>) -> Self {
        let stop = CancellationToken::new();
        let control = manager.as_ref().map(Manager::control);
        let (sender, state) = watch::channel(ManagerState { control, error: String::new() });
        let task = tokio::spawn(keep(config, identity, manager, sender, stop.clone()));
        Self { state, stop, task }
    }

    pub(crate) fn state(&self) -> watch::Receiver<ManagerState> {
        self.state.clone()
    }

    /// Shuts the manager down.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the manager's keeper died");
        }
    }
}

async fn keep(
    config: ManagerConfig,
    identity: Identity,
    mut manager: Option<Manager>,
    state: watch::Sender<ManagerState>,
    stop: CancellationToken,
) {
    let mut delay = RETRY_DELAY_MIN;
    loop {
        let error = match manager.take() {
            Some(running) => {
                let failed = tokio::select! {
                    error = running.failed() => Some(error),
                    () = stop.cancelled() => None,
                };
                state.send_replace(ManagerState::default());
                running.shutdown().await;
                match failed {
                    Some(error) => error,
                    None => return,
                }
            }
            None => match Manager::open(config.clone(), identity.clone()).await {
                Ok(opened) => {
                    state.send_replace(ManagerState { control: Some(opened.control()), error: String::new() });
                    manager = Some(opened);
                    delay = RETRY_DELAY_MIN;
                    continue;
                }
                Err(error) => error,
            },
        };
        tracing::error!(%error, retry_in = ?delay, "the manager is down");
        state.send_replace(ManagerState { control: None, error: error.message });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
}
