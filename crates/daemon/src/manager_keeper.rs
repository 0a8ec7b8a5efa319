//! Keeps this node's manager as its certificate says: runs one while it is a manager's, opens
//! it again after a failure, ends it when the node is demoted. The agent beside it goes on.

use crate::role_rules::source_address_towards;
use skep_agent::SwarmView;
use skep_identity::Identity;
use skep_manager::{Control, Manager, ManagerConfig};
use skep_model::node::Role;
use skep_model::{Error, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// One order at a time: they come from a user, and others wait.
const ORDERS_MAX: usize = 1;

/// What is known of the manager.
#[derive(Clone, Default)]
pub(crate) struct ManagerState {
    /// This node is a manager, whether its manager is up or not.
    pub(crate) wanted: bool,
    /// `None` while it is down.
    pub(crate) control: Option<Control>,
    /// Why it is down.
    pub(crate) error: String,
}

/// What a manager is kept with.
pub(crate) struct Kept {
    pub(crate) config: ManagerConfig,
    pub(crate) identity: Identity,
    /// What the agent knows of the swarm: through whom to join.
    pub(crate) view: watch::Receiver<SwarmView>,
    /// Managers that were known before there was a session.
    pub(crate) managers: Vec<String>,
}

pub(crate) struct ManagerKeeper {
    state: watch::Receiver<ManagerState>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Go on alone, without the managers that are lost.
struct Order {
    done: oneshot::Sender<Result<()>>,
}

/// Why a manager that ran does not any more.
enum Ended {
    Failed(Error),
    Demoted,
    Ordered(Order),
    Stop,
}

impl ManagerKeeper {
    /// Keeps `manager`, or opens or joins the one that `kept` names once it is to be one.
    pub(crate) fn start(kept: Kept, manager: Option<Manager>) -> Self {
        let stop = CancellationToken::new();
        let control = manager.as_ref().map(Manager::control);
        let wanted = kept.identity.role() == Role::Manager;
        let (sender, state) = watch::channel(ManagerState { wanted, control, error: String::new() });
        let (orders, orders_in) = mpsc::channel(ORDERS_MAX);
        let task = tokio::spawn(keep(kept, manager, sender, orders_in, stop.clone()));
        Self { state, orders, stop, task }
    }

    pub(crate) fn state(&self) -> watch::Receiver<ManagerState> {
        self.state.clone()
    }

    /// Makes the swarm anew with this manager alone.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub(crate) async fn force_new_cluster(&self) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let gone = || Error::unavailable("the manager is being shut down");
        self.orders.send(Order { done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
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
    kept: Kept,
    mut manager: Option<Manager>,
    state: watch::Sender<ManagerState>,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) {
    let mut renewed = kept.identity.changed();
    let mut delay = RETRY_DELAY_MIN;
    loop {
        renewed.borrow_and_update();
        let error = if kept.identity.role() == Role::Worker {
            state.send_replace(ManagerState::default());
            match retire(&kept, manager.take()).await {
                Ok(()) => {
                    tokio::select! {
                        changed = renewed.changed() => if changed.is_err() { return },
                        () = stop.cancelled() => return,
                    }
                    continue;
                }
                Err(error) => error,
            }
        } else if let Some(running) = manager.take() {
            let ended = run(&running, &kept, &mut renewed, &mut orders, &stop).await;
            state.send_replace(ManagerState { wanted: true, ..ManagerState::default() });
            running.shutdown().await;
            match ended {
                Ended::Stop => return,
                Ended::Demoted => continue,
                Ended::Failed(error) => error,
                Ended::Ordered(order) => match force_new_cluster(&kept, &state, order).await {
                    Ok(anew) => {
                        manager = Some(anew);
                        continue;
                    }
                    Err(error) => error,
                },
            }
        } else {
            match open(&kept).await {
                Ok(opened) => {
                    announce(&state, &opened);
                    manager = Some(opened);
                    delay = RETRY_DELAY_MIN;
                    continue;
                }
                Err(error) => error,
            }
        };
        tracing::error!(%error, retry_in = ?delay, "the manager is down");
        state.send_replace(ManagerState { wanted: true, control: None, error: error.message });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = renewed.changed() => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
}

fn announce(state: &watch::Sender<ManagerState>, manager: &Manager) {
    state.send_replace(ManagerState { wanted: true, control: Some(manager.control()), error: String::new() });
}

/// Runs until something ends it.
async fn run(
    manager: &Manager,
    kept: &Kept,
    renewed: &mut watch::Receiver<u64>,
    orders: &mut mpsc::Receiver<Order>,
    stop: &CancellationToken,
) -> Ended {
    loop {
        tokio::select! {
            error = manager.failed() => return Ended::Failed(error),
            () = stop.cancelled() => return Ended::Stop,
            Some(order) = orders.recv() => return Ended::Ordered(order),
            changed = renewed.changed() => {
                if changed.is_ok() && kept.identity.role() == Role::Worker {
                    tracing::info!("this node is no manager any more");
                    return Ended::Demoted;
                }
            }
        }
    }
}

/// The node is a worker: whatever Raft had here is of a former life.
async fn retire(kept: &Kept, manager: Option<Manager>) -> Result<()> {
    if let Some(manager) = manager {
        manager.shutdown().await;
    }
    Manager::forget(&kept.config)
}

/// Opens the manager that ran here before, or becomes one more of the swarm's.
async fn open(kept: &Kept) -> Result<Manager> {
    if Manager::exists(&kept.config) {
        return Manager::open(kept.config.clone(), kept.identity.clone()).await;
    }
    let mut managers: Vec<String> = kept.view.borrow().managers.iter().map(|(_, address)| address.clone()).collect();
    managers.extend(kept.managers.iter().filter(|known| !managers.contains(known)).cloned().collect::<Vec<_>>());
    let config = ManagerConfig { advertise_addr: advertised(&kept.config, &managers), ..kept.config.clone() };
    Manager::join_through(config, kept.identity.clone(), &managers).await
}

/// A node that joined as a worker may never have been told its address.
fn advertised(config: &ManagerConfig, managers: &[String]) -> String {
    let known = &config.advertise_addr;
    if !known.is_empty() || !config.listen_addr.ip().is_unspecified() {
        return known.clone();
    }
    let towards = managers.iter().find_map(|manager| source_address_towards(manager));
    towards.map_or_else(String::new, |ip| SocketAddr::new(ip, config.listen_addr.port()).to_string())
}

async fn force_new_cluster(kept: &Kept, state: &watch::Sender<ManagerState>, order: Order) -> Result<Manager> {
    let anew = Manager::force_new_cluster(kept.config.clone(), kept.identity.clone()).await;
    let told = anew.as_ref().map(drop).map_err(Clone::clone);
    if let Ok(manager) = &anew {
        announce(state, manager);
    }
    // Whoever asked may have gone; the swarm is made anew all the same.
    let _ = order.done.send(told);
    anew
}
