//! `start`: run directory, shim, network, go. What was done is undone if a step fails.

use crate::container::inner::Inner;
use crate::container::log_driver;
use crate::container::record;
use crate::container::registry::{Container, Owned};
use crate::container::shim::{self, Outcome, now};
use crate::container::spec::{self, BindFile, Namespace, Namespaces, confinement};
use crate::container::user::{self, User};
use crate::network::endpoints::Plan;
use crate::sys::mounts::Tree;
use skep_model::container::{ContainerInfo, ContainerStatus, Health, HealthStatus, MountKind};
use skep_model::shim::{ExitRecord, OverlayMount, SeccompProfile, ShimConfig, ShimLog, ShimTarget, Started};
use skep_model::{Error, ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the shim of the last run may take to let go of the root filesystem.
const LAST_SHIM_MAX: Duration = Duration::from_secs(10);
const EXIT_CODE_NOT_STARTED: i32 = 128;
/// What a start was given of the network, in its run directory.
const PLAN: &str = "network.json";

impl Inner {
    pub(crate) async fn start(self: &Arc<Self>, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let mut owned = container.lock().await;
        let info = container.info();
        match info.state.status {
            ContainerStatus::Running => return Err(Error::not_modified("container already started")),
            ContainerStatus::Paused => {
                return Err(Error::conflict("cannot start a paused container, try unpause instead"));
            }
            ContainerStatus::Removing | ContainerStatus::Dead => {
                return Err(Error::conflict("container is marked for removal and cannot be started"));
            }
            ContainerStatus::Restarting => container.cancel_restart(),
            ContainerStatus::Created | ContainerStatus::Exited => {}
        }
        owned.backoff = None;
        container.change(|info| info.manually_stopped = false);
        let result = self.start_locked(&container, &mut owned).await;
        if result.is_err() && container.info().host.auto_remove {
            drop(owned);
            self.remove_after_exit(&container).await;
        }
        result
    }

    /// Starts a container whose turn it is.
    pub(crate) async fn start_locked(self: &Arc<Self>, container: &Arc<Container>, owned: &mut Owned) -> Result<()> {
        if let Some((pid, ticks)) = owned.last_shim.take() {
            let _ = tokio::time::timeout(LAST_SHIM_MAX, shim::wait_gone(pid, ticks)).await;
        }
        let info = container.info();
        let result = self.try_start(container, &info).await;
        let started = match result {
            Ok(started) => started,
            Err(failure) => return Err(self.record_failure(container, failure)),
        };
        owned.last_shim = Some((started.shim_pid, started.shim_start_ticks));
        owned.running = Some(started.clone());
        owned.run_ended = tokio_util::sync::CancellationToken::new();
        let info = note_start(container, &started);
        record::save(&self.container_dir(&info.id), &info, false)?;
        for point in info.mounts.iter().filter(|point| !point.name.is_empty()) {
            let access = if point.rw { "true" } else { "false" };
            let attributes = [
                ("container", info.id.0.as_str()),
                ("destination", point.destination.as_str()),
                ("driver", "local"),
                ("read/write", access),
            ];
            self.emit_object("volume", "mount", &point.name, &attributes);
        }
        self.emit(&info, "start", &[]);
        self.watch_process(container.clone(), started);
        self.watch_health(container, &owned.run_ended);
        Ok(())
    }

    /// Makes up for a record that an engine did not live to write: its shim had started the
    /// process by then. The record of a start says when it was.
    pub(crate) fn note_unrecorded_start(&self, container: &Container, started: &Started) {
        let info = container.info();
        if info.state.started_at == started.at {
            return;
        }
        match read_plan(&self.run_dir(&info.id)) {
            Ok(plan) => self.adopt_plan(container, &plan, started.shim_pid),
            Err(error) => tracing::error!(id = %info.id, %error, "a container that was being started has no network"),
        }
        container.change(|info| info.manually_stopped = false);
        let info = note_start(container, started);
        if let Err(error) = record::save(&self.container_dir(&info.id), &info, false) {
            tracing::error!(id = %info.id, %error, "cannot record a start");
        }
    }

    fn record_failure(&self, container: &Container, failure: ExitRecord) -> Error {
        drop(container.take_pending());
        let info = container.change_at_exit(|info| {
            // Docker leaves a container that never ran as created, one that did as exited.
            if info.state.started_at.is_set() {
                info.state.status = ContainerStatus::Exited;
            } else {
                info.state.status = ContainerStatus::Created;
            }
            info.state.exit_code = failure.exit_code;
            info.state.error.clone_from(&failure.error);
            info.state.pid = 0;
        });
        if let Err(error) = record::save(&self.container_dir(&info.id), &info, false) {
            tracing::error!(id = %info.id, %error, "cannot record a failed start");
        }
        let kind =
            if matches!(failure.exit_code, 126 | 127) { ErrorKind::InvalidArgument } else { ErrorKind::Internal };
        Error { kind, message: failure.error }
    }

    async fn try_start(self: &Arc<Self>, container: &Container, info: &ContainerInfo) -> Result<Started, ExitRecord> {
        let run_dir = self.run_dir(&info.id);
        let plan = self.plan_network(info).map_err(not_started)?;
        let result = self.try_start_with(container, info, &plan, &run_dir).await;
        if result.is_err() {
            self.undo_network(info, &plan).await;
            self.clear_run_dir(&run_dir);
        }
        result.inspect(|started| self.adopt_plan(container, &plan, started.shim_pid))
    }

    async fn try_start_with(
        self: &Arc<Self>,
        container: &Container,
        info: &ContainerInfo,
        plan: &Plan,
        run_dir: &Path,
    ) -> Result<Started, ExitRecord> {
        self.clear_run_dir(run_dir);
        self.prepare_run_dir(container, info, plan, run_dir).map_err(not_started)?;
        let config = self.shim_config(info, plan).await.map_err(not_started)?;
        let starting = shim::spawn(&self.program, run_dir, &config).await.map_err(not_started)?;
        self.attach_network(info, plan, starting.pid).await.map_err(not_started)?;
        self.connect_pending(container, run_dir).await.map_err(not_started)?;
        match starting.go(run_dir).await.map_err(not_started)? {
            Outcome::Started(started) => Ok(started),
            Outcome::Failed(mut record) => {
                record.error = format!("failed to create shim task: {}", record.error);
                Err(record)
            }
        }
    }

    /// Bundle, files given by value, and the network's files in the container's directory.
    fn prepare_run_dir(&self, container: &Container, info: &ContainerInfo, plan: &Plan, run_dir: &Path) -> Result<()> {
        std::fs::create_dir_all(run_dir.join("rootfs"))?;
        std::fs::set_permissions(run_dir, std::fs::Permissions::from_mode(0o700))?;
        std::fs::create_dir_all(self.runtime_root())?;
        let mut files = self.write_network_files(info, plan)?;
        files.extend(super::files::inject(run_dir, &container.files()?)?);
        let user = self.user_of(info)?;
        let namespaces = self.namespaces_of(info)?;
        let hostname = &info.config.hostname;
        let (spec, _) = spec::build(&spec::Input {
            info,
            user: &user,
            kernel: &self.kernel,
            namespaces: &namespaces,
            files: &files,
            cgroup_path: &self.cgroup_path(info),
            hostname,
        })?;
        self.check_sources(info)?;
        shim::write_json(&run_dir.join(PLAN), plan)?;
        shim::write_json(&run_dir.join("config.json"), &spec)
    }

    /// A bind source that vanished since create is told by name, not by errno.
    fn check_sources(&self, info: &ContainerInfo) -> Result<()> {
        for point in &info.mounts {
            if point.kind != MountKind::Tmpfs && !Path::new(&point.source).exists() {
                return Err(Error::internal(format!(
                    "error while mounting volume '{}': no such file or directory",
                    point.source
                )));
            }
        }
        Ok(())
    }

    async fn shim_config(&self, info: &ContainerInfo, plan: &Plan) -> Result<ShimConfig> {
        let log = if info.host.log_config.driver == "none" {
            None
        } else {
            let (max_size_bytes, max_files) = log_driver::limits(&info.host.log_config)?;
            let forward = log_driver::forward(info).await?;
            Some(ShimLog { path: self.log_path(info), max_size_bytes, max_files, forward })
        };
        let confinement = confinement::of_container(&info.host, &self.kernel)?;
        let network_sysctls =
            info.host.sysctls.iter().filter(|(name, _)| name.starts_with("net.")).map(|(k, v)| (k.clone(), v.clone()));
        Ok(ShimConfig {
            container_id: info.id.0.clone(),
            target: ShimTarget::Init,
            runtime_root: self.runtime_root(),
            terminal: info.config.tty,
            console_size: info.host.console_size,
            open_stdin: info.config.open_stdin,
            stdin_once: info.config.stdin_once,
            log,
            rootfs: Some(self.overlay_of(info)?),
            new_network_namespace: plan.new_namespace,
            init: info.host.init.unwrap_or(false),
            shared_process_namespace: !info.host.pid_mode.is_empty() && info.host.pid_mode != "private",
            network_sysctls: network_sysctls.collect(),
            capabilities: confinement.capabilities,
            seccomp: self.seccomp_profile(confinement.seccomp.as_ref())?,
        })
    }

    /// Where the shim finds the profile.
    pub(crate) fn seccomp_profile(&self, profile: Option<&serde_json::Value>) -> Result<Option<SeccompProfile>> {
        let directory = self.config.exec_root.join("seccomp");
        profile.map(|profile| confinement::store_profile(&directory, profile)).transpose()
    }

    /// The file the shim logs to; other parts know it only if the driver is json-file.
    pub(crate) fn log_path(&self, info: &ContainerInfo) -> PathBuf {
        self.container_dir(&info.id).join(format!("{}-json.log", info.id))
    }

    /// Layers are asked for anew: the record's are for people.
    pub(crate) fn overlay_of(&self, info: &ContainerInfo) -> Result<OverlayMount> {
        let mut lower = self.images.layer_dirs(&info.image_id)?;
        let overlay = self.overlay_dir(&info.id);
        if lower.is_empty() {
            // overlayfs wants at least one; an image from scratch has none.
            let empty = overlay.join("empty");
            std::fs::create_dir_all(&empty)?;
            lower.push(empty);
        }
        Ok(OverlayMount { lower, upper: overlay.join("diff"), work: overlay.join("work") })
    }

    /// The container's files while it does not run.
    pub(crate) fn tree_of(&self, info: &ContainerInfo) -> Result<Tree> {
        if info.state.status.is_running() && info.state.pid != 0 {
            return Ok(Tree::of_directory(Path::new(&format!("/proc/{}/root", info.state.pid)))?);
        }
        let overlay = self.overlay_of(info)?;
        Ok(Tree::of_overlay(&overlay.lower, &overlay.upper, &overlay.work)?)
    }

    fn user_of(&self, info: &ContainerInfo) -> Result<User> {
        let overlay = self.overlay_of(info)?;
        let mut layers = vec![overlay.upper];
        layers.extend(overlay.lower);
        let tree = Tree::of_layers(&layers)?;
        let passwd = tree.read_text("etc/passwd").unwrap_or_default();
        let group = tree.read_text("etc/group").unwrap_or_default();
        user::resolve(&info.config.user, &info.host.group_add, &passwd, &group)
    }

    fn namespaces_of(&self, info: &ContainerInfo) -> Result<Namespaces> {
        let of_other = |mode: &str, kind: &str| -> Result<Namespace> {
            let Some(other) = mode.strip_prefix("container:") else {
                return Ok(if mode == "host" { Namespace::Inherited } else { Namespace::Own });
            };
            let other = self.registry.find(other)?.info();
            if other.state.pid == 0 {
                return Err(Error::conflict(format!("cannot join {kind} of a non running container: {}", other.id)));
            }
            Ok(Namespace::Of(format!("/proc/{}/ns/{kind}", other.state.pid)))
        };
        let network = match of_other(&info.host.network_mode, "net")? {
            // The shim has made it already.
            Namespace::Own => Namespace::Inherited,
            other => other,
        };
        Ok(Namespaces {
            network,
            pid: of_other(&info.host.pid_mode, "pid")?,
            ipc: {
                self.check_shareable(&info.host.ipc_mode)?;
                of_other(&info.host.ipc_mode, "ipc")?
            },
            uts: of_other(&info.host.uts_mode, "uts")?,
            cgroup: of_other(&info.host.cgroupns_mode, "cgroup")?,
        })
    }

    /// Only who offers it has its IPC namespace joined.
    fn check_shareable(&self, mode: &str) -> Result<()> {
        let Some(other) = mode.strip_prefix("container:") else { return Ok(()) };
        let other = self.registry.find(other)?.info();
        if matches!(other.host.ipc_mode.as_str(), "private" | "none") {
            let hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)";
            return Err(Error::conflict(format!("cannot join IPC of container {}: {hint}", other.id)));
        }
        Ok(())
    }

    /// Removes a run directory, and the mount that may be in it.
    pub(crate) fn clear_run_dir(&self, run_dir: &Path) {
        super::files::unmount(run_dir);
        if let Err(error) = std::fs::remove_dir_all(run_dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %run_dir.display(), %error, "cannot remove run directory");
        }
    }

    /// Writes `hostname`, `hosts` and `resolv.conf`, and says where they go.
    fn write_network_files(&self, info: &ContainerInfo, plan: &Plan) -> Result<Vec<BindFile>> {
        let readonly = info.host.readonly_rootfs;
        let hostname = format!("{}\n", info.config.hostname);
        let files = [
            (&info.resolv_conf_path, "/etc/resolv.conf", &plan.resolv_conf),
            (&info.hostname_path, "/etc/hostname", &hostname),
            (&info.hosts_path, "/etc/hosts", &plan.hosts),
        ];
        let mut out = Vec::new();
        for (path, target, text) in files {
            std::fs::write(path, text)?;
            out.push(BindFile { source: path.clone(), target: target.into(), readonly });
        }
        Ok(out)
    }
}

/// A container's state from here on.
fn note_start(container: &Container, started: &Started) -> Arc<ContainerInfo> {
    container.change(|info| {
        info.state.status = ContainerStatus::Running;
        info.state.pid = started.pid;
        info.state.exit_code = 0;
        info.state.oom_killed = false;
        info.state.error = String::new();
        info.state.started_at = started.at;
        info.state.health = super::health::probe_of(&info.config)
            .map(|_| Health { status: HealthStatus::Starting, ..Health::default() });
    })
}

fn read_plan(run_dir: &Path) -> Result<Plan> {
    let bytes = std::fs::read(run_dir.join(PLAN))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::internal(format!("{PLAN}: {error}")))
}

fn not_started(error: Error) -> ExitRecord {
    ExitRecord { exit_code: EXIT_CODE_NOT_STARTED, at: now(), oom_killed: false, error: error.message, started: false }
}
