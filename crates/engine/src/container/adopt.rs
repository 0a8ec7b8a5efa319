//! Opening: what lives is adopted, what ended meanwhile is recorded, what nobody knows
//! is removed.

use crate::attach::Attach;
use crate::config::EngineConfig;
use crate::container::inner::Inner;
use crate::container::registry::{Container, Registry};
use crate::container::remove::delete_tree;
use crate::container::{monitor, record, shim};
use crate::events::Events;
use crate::image::ImageStore;
use crate::network::Networks;
use crate::sys::kernel::Kernel;
use crate::sys::process::{self, Program};
use crate::volume::Volumes;
use skep_model::Result;
use skep_model::container::{ContainerInfo, ContainerStatus, Health, HealthStatus, RestartMode};
use skep_model::shim::Started;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

impl Inner {
    pub(crate) async fn open(config: EngineConfig, attach: Arc<dyn Attach>) -> Result<Arc<Self>> {
        for dir in ["containers", "overlay", "volumes", "network"] {
            std::fs::create_dir_all(config.data_root.join(dir))?;
        }
        std::fs::create_dir_all(config.exec_root.join("c"))?;
        std::fs::set_permissions(&config.exec_root, std::fs::Permissions::from_mode(0o711))?;
        let images = ImageStore::open(&config).await?;
        let inner = Arc::new(Self {
            program: Program::open(&config.program),
            kernel: Kernel::probe(),
            images,
            events: Arc::new(Events::default()),
            attach,
            registry: Registry::default(),
            execs: super::exec::Execs::default(),
            networks: Networks::open(&config)?,
            volumes: Volumes::open(&config.data_root.join("volumes"))?,
            builds: crate::build::Builds::open(&config.data_root),
            verbs: TaskTracker::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            config,
        });
        let waiting = inner.load_containers().await;
        inner.sweep();
        inner.sync_network().await?;
        inner.apply_policies(waiting).await;
        Ok(inner)
    }

    /// Returns the containers whose process is not running.
    async fn load_containers(self: &Arc<Self>) -> Vec<Arc<Container>> {
        let mut idle = Vec::new();
        for id in subdirectories(&self.config.data_root.join("containers")) {
            let dir = self.config.data_root.join("containers").join(&id);
            let info = match record::load(&dir) {
                Ok(info) if info.id.0 == id => info,
                // Half made or half removed: it was acknowledged to nobody.
                Ok(_) | Err(_) => continue,
            };
            let container = Container::new(info, Vec::new());
            self.registry.insert(container.clone());
            if !self.adopt(&container).await {
                idle.push(container);
            }
        }
        idle
    }

    /// Takes over a container whose shim lives; settles one that ended. Returns whether it runs.
    async fn adopt(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let info = container.info();
        let run_dir = self.run_dir(&info.id);
        let started = shim::read_started(&run_dir);
        let alive = started.as_ref().is_some_and(|s| process::is_alive(s.shim_pid, s.shim_start_ticks));
        // A shim writes the record and then hands over the last output: it may live on for a moment.
        let record = shim::read_exit(&run_dir);
        match started {
            Some(started) if alive && record.is_none() => {
                self.take_over(container, started).await;
                true
            }
            started => {
                let claims_to_run = info.state.status.is_running() || info.state.status == ContainerStatus::Removing;
                if claims_to_run || started.is_some() {
                    let exit = record.unwrap_or_else(shim::lost);
                    if let Some(started) = started.as_ref().filter(|_| alive) {
                        container.lock().await.last_shim = Some((started.shim_pid, started.shim_start_ticks));
                    }
                    if let Some(started) = started
                        && process::is_alive(started.pid, started.pid_start_ticks)
                    {
                        process::kill(started.pid);
                    }
                    self.settle(container, &exit, false).await;
                }
                false
            }
        }
    }

    async fn take_over(self: &Arc<Self>, container: &Arc<Container>, started: Started) {
        let mut owned = container.lock().await;
        owned.last_shim = Some((started.shim_pid, started.shim_start_ticks));
        owned.running = Some(started.clone());
        self.note_unrecorded_start(container, &started);
        let health = super::health::probe_of(&container.info().config);
        let paused = container.info().state.status == ContainerStatus::Paused;
        let info = container.change(|info| {
            info.state.status = if paused { ContainerStatus::Paused } else { ContainerStatus::Running };
            info.state.pid = started.pid;
            info.state.started_at = started.at;
            // Nobody is left to whom they belong.
            info.exec_ids.clear();
            if health.is_some() && info.state.health.is_none() {
                info.state.health = Some(Health { status: HealthStatus::Starting, ..Health::default() });
            }
        });
        self.adopt_network(&info);
        self.watch_process(container.clone(), started);
        self.watch_health(container, &owned.run_ended);
    }

    /// Removes directories and control groups no record refers to.
    fn sweep(&self) {
        let known: BTreeSet<String> = self.registry.all().iter().map(|c| c.info().id.0.clone()).collect();
        let running: BTreeSet<String> = self
            .registry
            .all()
            .iter()
            .map(|container| container.info())
            .filter(|info| info.state.status.is_running())
            .map(|info| self.run_dir(&info.id).file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        for name in subdirectories(&self.run_root()) {
            if !running.contains(&name) {
                let dir = self.run_root().join(&name);
                end_shim(&dir);
                self.clear_run_dir(&dir);
            }
        }
        for root in ["containers", "overlay"] {
            let root = self.config.data_root.join(root);
            for name in subdirectories(&root) {
                if !known.contains(&name)
                    && is_ours(&name)
                    && let Err(error) = delete_tree(&root.join(&name))
                {
                    tracing::warn!(%name, %error, "cannot remove what no record refers to");
                }
            }
        }
        for volume in self.volumes.list() {
            if !volume.made_for.is_empty() && !known.contains(volume.made_for.as_str()) {
                self.remove_if_anonymous(&volume.name);
            }
        }
        self.sweep_groups(&running);
    }

    /// Only groups below our own parent, and only those that are empty.
    fn sweep_groups(&self, running: &BTreeSet<String>) {
        let parent = self.config.cgroup_parent.trim_matches('/');
        if parent.is_empty() {
            return;
        }
        for root in self.kernel.cgroup_roots() {
            let dir = root.join(parent);
            for name in subdirectories(&dir) {
                if is_ours(&name) && !running.contains(&name[..16]) {
                    let _ = std::fs::remove_dir(dir.join(name));
                }
            }
        }
    }

    /// Containers that are to run whenever the engine does.
    async fn apply_policies(self: &Arc<Self>, idle: Vec<Arc<Container>>) {
        for container in idle {
            let info = container.info();
            if info.host.auto_remove {
                self.remove_after_exit(&container).await;
            } else if wants_start(&info) {
                let (inner, id) = (self.clone(), info.id.clone());
                self.verbs.spawn(async move {
                    if let Err(error) = inner.start(&id.0).await {
                        tracing::warn!(%id, %error, "cannot start container at engine start");
                    }
                });
            }
        }
    }
}

fn wants_start(info: &ContainerInfo) -> bool {
    if info.state.status == ContainerStatus::Created {
        return false;
    }
    match info.host.restart_policy.mode {
        RestartMode::Always => true,
        RestartMode::No | RestartMode::UnlessStopped | RestartMode::OnFailure => {
            monitor::wants_restart(info, info.state.exit_code)
        }
    }
}

/// A shim nobody has a record of: it ends with its container.
fn end_shim(run_dir: &Path) {
    let Some(started) = shim::read_started(run_dir) else { return };
    if process::is_alive(started.pid, started.pid_start_ticks) {
        process::kill(started.pid);
    }
}

fn is_ours(name: &str) -> bool {
    let id = name.strip_suffix(".removing").unwrap_or(name);
    id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit())
}

fn subdirectories(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
