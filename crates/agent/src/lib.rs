//! The agent: makes the tasks that a manager assigns to this node true, and tells what
//! became of them.
//!
//! Owns the node's session, the assigned set with its generation, one loop per task, and
//! the database of task records. Spawns the session loop, the worker, the network keeper,
//! the renewal loop and the task loops; all end with [`Agent::shutdown`], and no container
//! with them. Never decides what should run; never reads the replicated store.

mod assigned;
mod backoff;
mod executor;
mod files;
mod join;
mod local_db;
mod managers;
mod network;
mod renew;
mod report;
mod session;
mod spec;
mod step;
mod task_loop;
mod template;
#[cfg(test)]
mod testing;
mod tunnel;
mod worker;

pub use executor::{EngineExecutor, Executor, Seen, Until};
pub use join::join;
pub use session::SwarmView;
pub use spec::{TASK_ID_LABEL, TASK_LABEL};
pub use step::Started;
pub use template::NodeFacts;
pub use tunnel::TaskApi;

use local_db::LocalDb;
use managers::Managers;
use network::NetworkKeeper;
use report::Reporter;
use session::{Apply, Dial, Sessions};
use skep_identity::{CertStore, Identity};
use skep_model::node::NodeDescription;
use skep_model::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use task_loop::Shared;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tunnel::Tunnels;
use worker::Worker;

/// Messages of a session on their way to the worker; the session waits for each anyway.
const WORKER_QUEUE: usize = 1;
/// How long the last reports may take when the agent stops.
const LAST_REPORTS_MAX: Duration = Duration::from_secs(1);

/// What an agent needs.
pub struct AgentConfig {
    /// Its own directory, for the task database.
    pub state_dir: PathBuf,
    pub identity: Identity,
    /// Where renewed certificates go.
    pub certificates: CertStore,
    /// `host:port` of managers to begin with; those last heard of are known besides.
    pub managers: Vec<String>,
    pub description: NodeDescription,
    /// `host` peers reach this node's data path at.
    pub data_path_address: String,
    pub executor: Arc<dyn Executor>,
    /// Answers managers that look into the containers of tasks.
    pub task_api: Arc<dyn TaskApi>,
}

/// A running agent.
pub struct Agent {
    stop: CancellationToken,
    loops: TaskTracker,
    worker: JoinHandle<Worker>,
    reporter: Arc<Reporter>,
    network: Arc<NetworkKeeper>,
    executor: Arc<dyn Executor>,
    db: LocalDb,
    view: watch::Receiver<SwarmView>,
}

impl Agent {
    /// Takes up the node's tasks, then looks for a manager. Answers without waiting for one.
    ///
    /// # Errors
    /// When the task database cannot be opened.
    pub async fn start(config: AgentConfig) -> Result<Self> {
        let dial: Arc<dyn Dial> = Arc::new(config.identity.clone());
        let agent = Self::start_with(&config, dial).await?;
        let (identity, store) = (config.identity, config.certificates);
        agent.loops.spawn(renew::run(identity, store, agent.view.clone(), agent.stop.clone()));
        Ok(agent)
    }

    async fn start_with(config: &AgentConfig, dial: Arc<dyn Dial>) -> Result<Self> {
        let directory = config.state_dir.clone();
        let opened = tokio::task::spawn_blocking(move || LocalDb::open(&directory)).await;
        let db = opened.map_err(|e| Error::internal(e.to_string()))??;
        let reporter = Arc::new(Reporter::default());
        let network = Arc::new(NetworkKeeper::new());
        let shared = Arc::new(Shared {
            executor: config.executor.clone(),
            db: db.clone(),
            reporter: reporter.clone(),
            network: network.clone(),
            dependencies: std::sync::RwLock::default(),
            told: watch::Sender::new(false),
        });
        let worker = Worker::open(shared)?;
        let (sender, receiver) = mpsc::channel(WORKER_QUEUE);
        let (view_sender, view) = watch::channel(SwarmView::default());
        let stop = CancellationToken::new();
        let loops = TaskTracker::new();
        let tunnels = Tunnels::new(dial.clone(), config.task_api.clone(), loops.clone(), stop.clone());
        let sessions = Sessions {
            dial,
            managers: Managers::new(config.managers.iter().cloned().chain(db.managers()?)),
            description: config.description.clone(),
            data_path_address: config.data_path_address.clone(),
            worker: sender,
            reporter: reporter.clone(),
            network: network.clone(),
            db: db.clone(),
            view: view_sender,
            tunnels: Arc::new(tunnels),
        };
        let keeper = network.clone();
        let (executor, keeper_stop) = (config.executor.clone(), stop.clone());
        loops.spawn(async move { keeper.run(executor, keeper_stop).await });
        loops.spawn(sessions.run(stop.clone()));
        let worker = tokio::spawn(work(worker, receiver, stop.clone()));
        Ok(Self { stop, loops, worker, reporter, network, executor: config.executor.clone(), db, view })
    }

    /// What is known of the swarm.
    pub fn view(&self) -> SwarmView {
        self.view.borrow().clone()
    }

    /// Follows what is known of the swarm.
    pub fn watch(&self) -> watch::Receiver<SwarmView> {
        self.view.clone()
    }

    /// netd has started anew and must be told the swarm's networks again.
    pub fn resync_network(&self) {
        self.network.resync();
    }

    /// Ends the agent. Containers go on, and the next start finds them.
    pub async fn shutdown(self) {
        if let Some(mut worker) = self.end().await {
            worker.end_loops().await;
        }
    }

    /// Ends the agent, removes every container of a task, the swarm's networks and the
    /// task database.
    ///
    /// # Errors
    /// Says what could not be removed; everything else is.
    pub async fn leave(self) -> Result<()> {
        let (executor, network_db) = (self.executor.clone(), self.db.clone());
        let removed = match self.end().await {
            Some(mut worker) => worker.remove_all().await,
            None => Err(Error::internal("the agent's worker did not end")),
        };
        let cleared = executor.clear_network().await;
        network_db.clear().await?;
        removed.and(cleared)
    }

    async fn end(self) -> Option<Worker> {
        if self.view.borrow().connected && !self.reporter.is_empty() {
            // The session is still up: what was queued a moment ago may leave with it.
            let _ = tokio::time::timeout(LAST_REPORTS_MAX, self.reporter.wait_empty()).await;
        }
        self.stop.cancel();
        self.loops.close();
        self.loops.wait().await;
        self.worker.await.ok()
    }
}

/// The worker's loop; gives the worker back at the end.
async fn work(mut worker: Worker, mut messages: mpsc::Receiver<Apply>, stop: CancellationToken) -> Worker {
    loop {
        tokio::select! {
            () = stop.cancelled() => return worker,
            message = messages.recv() => match message {
                Some(apply) => {
                    let taken = worker.apply(&apply.message).await;
                    // The session may have ended meanwhile; the set is taken all the same.
                    let _ = apply.answer.send(taken);
                }
                None => stop.cancelled().await,
            },
        }
    }
}
