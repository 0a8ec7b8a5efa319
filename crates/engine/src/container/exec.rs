//! More processes inside a running container.

use crate::container::attach::{PendingAttach, bridge, channels, resize_process};
use crate::container::inner::{Inner, new_id};
use crate::container::registry::{Container, lock};
use crate::container::shim::{self, Outcome};
use crate::container::spec::confinement;
use crate::container::{AttachOptions, Attached, spec, user};
use crate::sys::mounts::Tree;
use skep_model::container::{ContainerInfo, ContainerStatus, ExecConfig, ExecInfo};
use skep_model::id::ContainerId;
use skep_model::shim::{ExitRecord, ShimConfig, ShimTarget};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Ended execs that can still be inspected.
const ENDED_MAX: usize = 512;

/// All execs since the engine opened.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    table: Mutex<BTreeMap<String, ExecInfo>>,
    ended: Mutex<std::collections::VecDeque<String>>,
}

impl Execs {
    fn find(&self, id: &str) -> Result<ExecInfo> {
        lock(&self.table).get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    fn change(&self, id: &str, edit: impl FnOnce(&mut ExecInfo)) {
        if let Some(info) = lock(&self.table).get_mut(id) {
            edit(info);
        }
    }

    /// Keeps an ended exec for those who ask for its exit code, the newest ones.
    fn retire(&self, id: &str) {
        let mut ended = lock(&self.ended);
        ended.push_back(id.to_owned());
        if ended.len() > ENDED_MAX
            && let Some(oldest) = ended.pop_front()
        {
            lock(&self.table).remove(&oldest);
        }
    }
}

impl Inner {
    pub(crate) fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String> {
        let container = self.registry.find(name)?;
        let info = running(&container)?;
        if config.cmd.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        let id = new_id();
        let line = config.cmd.join(" ");
        let exec = ExecInfo {
            id: id.clone(),
            container_id: info.id.clone(),
            config,
            running: false,
            exit_code: None,
            pid: 0,
            can_remove: false,
        };
        lock(&self.execs.table).insert(id.clone(), exec);
        let info = container.change(|info| info.exec_ids.push(id.clone()));
        self.emit(&info, &format!("exec_create: {line}"), &[("execID", &id)]);
        Ok(id)
    }

    pub(crate) fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        self.execs.find(id)
    }

    pub(crate) async fn exec_start(
        self: &Arc<Self>,
        id: &str,
        detach: bool,
        console_size: (u16, u16),
    ) -> Result<Option<Attached>> {
        let exec = self.execs.find(id)?;
        let container = self.registry.find(&exec.container_id.0)?;
        let info = running(&container)?;
        if exec.exit_code.is_some() || exec.running {
            return Err(Error::conflict(format!("exec: '{id}' has already run")));
        }
        let ExecConfig { tty, attach_stdin, attach_stdout, attach_stderr, .. } = exec.config;
        let options = AttachOptions {
            stdin: attach_stdin && !detach,
            stdout: attach_stdout && !detach,
            stderr: attach_stderr && !detach,
            logs: false,
            stream: true,
        };
        let (attached, pending) = channels(tty, options);
        self.emit(&info, &format!("exec_start: {}", exec.config.cmd.join(" ")), &[("execID", id)]);
        self.execs.change(id, |exec| exec.running = true);
        let client = if detach { None } else { Some((pending, options)) };
        let size = if console_size == (0, 0) { exec.config.console_size } else { console_size };
        if let Err(failure) = self.spawn_exec(&container, &info, &exec, client, size).await {
            self.exec_ended(&container, id, failure.exit_code);
            return Err(Error { kind: failure_kind(failure.exit_code), message: failure.error });
        }
        Ok((!detach).then_some(attached))
    }

    /// Starts the shim of an exec, and watches it to its end.
    async fn spawn_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        info: &Arc<ContainerInfo>,
        exec: &ExecInfo,
        client: Option<(PendingAttach, AttachOptions)>,
        console_size: (u16, u16),
    ) -> Result<(), ExitRecord> {
        let run_dir = self.exec_run_dir(&info.id, &exec.id);
        // A client asks for the exit code as soon as the output ends: it must be known by then.
        let hold = client.as_ref().map(|(pending, _)| pending.hold());
        let outcome = self.try_exec(info, exec, client, console_size, &run_dir).await;
        let started = match outcome {
            Ok(Outcome::Started(started)) => started,
            Ok(Outcome::Failed(record)) => {
                let _ = std::fs::remove_dir_all(&run_dir);
                return Err(record);
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&run_dir);
                return Err(ExitRecord { exit_code: 126, started: false, error: error.message, ..shim::lost() });
            }
        };
        self.execs.change(&exec.id, |exec| exec.pid = started.pid);
        let (inner, container, id) = (self.clone(), container.clone(), exec.id.clone());
        self.watch(async move {
            let record = shim::wait_exit(&run_dir, &started).await;
            inner.exec_ended(&container, &id, record.exit_code);
            drop(hold);
            let _ = std::fs::remove_dir_all(&run_dir);
        });
        Ok(())
    }

    async fn try_exec(
        self: &Arc<Self>,
        info: &ContainerInfo,
        exec: &ExecInfo,
        client: Option<(PendingAttach, AttachOptions)>,
        console_size: (u16, u16),
        run_dir: &Path,
    ) -> Result<Outcome> {
        std::fs::create_dir_all(run_dir)?;
        let tree = Tree::of_directory(Path::new(&format!("/proc/{}/root", info.state.pid)))?;
        let passwd = tree.read_text("etc/passwd").unwrap_or_default();
        let group = tree.read_text("etc/group").unwrap_or_default();
        let wanted = if exec.config.user.is_empty() { &info.config.user } else { &exec.config.user };
        let user = user::resolve(wanted, &info.host.group_add, &passwd, &group)?;
        let process = spec::exec_process(info, &exec.config, &user, &info.config.hostname, &self.kernel)?;
        shim::write_json(&run_dir.join("process.json"), &process)?;
        let confinement = confinement::of_exec(&info.host, exec.config.privileged, &self.kernel)?;
        let config = ShimConfig {
            container_id: info.id.0.clone(),
            target: ShimTarget::Exec { container_root: self.run_dir(&info.id) },
            runtime_root: self.runtime_root(),
            terminal: exec.config.tty,
            console_size,
            open_stdin: exec.config.attach_stdin,
            stdin_once: true,
            log: None,
            rootfs: None,
            new_network_namespace: false,
            init: false,
            shared_process_namespace: false,
            network_sysctls: BTreeMap::new(),
            capabilities: confinement.capabilities,
            seccomp: self.seccomp_profile(confinement.seccomp.as_ref())?,
        };
        let starting = shim::spawn(&self.program, run_dir, &config).await?;
        if let Some((pending, options)) = client {
            let stream = shim::attach(run_dir, options.stdin, options.stdout, options.stderr).await?;
            self.tasks.spawn(bridge(stream, pending));
        }
        starting.go(run_dir).await
    }

    fn exec_ended(&self, container: &Container, id: &str, exit_code: i32) {
        self.execs.change(id, |exec| {
            exec.running = false;
            exec.exit_code = Some(exit_code);
            exec.pid = 0;
            exec.can_remove = true;
        });
        self.execs.retire(id);
        let info = container.change(|info| info.exec_ids.retain(|known| known != id));
        self.emit(&info, "exec_die", &[("execID", id), ("exitCode", &exit_code.to_string())]);
    }

    pub(crate) async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let exec = self.execs.find(id)?;
        if !exec.running {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        resize_process(&self.exec_run_dir(&exec.container_id, id), height, width).await
    }

    /// The container ended, and all of its processes with it.
    pub(crate) fn forget_execs(&self, container: &ContainerId) {
        lock(&self.execs.table)
            .retain(|_, exec| exec.container_id != *container || exec.running || exec.exit_code.is_some());
    }

    /// Runs a command to its end and returns exit code and output, for health probes.
    pub(crate) async fn exec_probe(
        self: &Arc<Self>,
        container: &Arc<Container>,
        cmd: Vec<String>,
        output_max: usize,
    ) -> Result<(i32, String)> {
        let config = ExecConfig { cmd, attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
        let id = self.exec_create(&container.info().id.0, config)?;
        let guard = ProbeGuard { inner: self.clone(), id: id.clone() };
        let mut attached = match self.exec_start(&id, false, (0, 0)).await {
            Ok(Some(attached)) => attached,
            Ok(None) => return Err(Error::internal("probe without output")),
            Err(error) => return Err(error),
        };
        let mut output = Vec::new();
        while let Some(chunk) = attached.output.recv().await {
            let room = output_max.saturating_sub(output.len());
            output.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
        }
        // The output ends a moment before the exit is known.
        let mut snapshots = container.subscribe();
        let ended = |s: &super::registry::Snapshot| !s.info.exec_ids.contains(&id);
        let _ = snapshots.wait_for(ended).await;
        drop(guard);
        let exit_code = self.execs.find(&id)?.exit_code.unwrap_or(-1);
        Ok((exit_code, String::from_utf8_lossy(&output).into_owned()))
    }
}

/// Kills a probe that is given up.
struct ProbeGuard {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Ok(exec) = self.inner.execs.find(&self.id)
            && exec.running
            && exec.pid != 0
        {
            crate::sys::process::kill(exec.pid);
        }
    }
}

fn running(container: &Container) -> Result<Arc<ContainerInfo>> {
    let info = container.info();
    match info.state.status {
        ContainerStatus::Running => Ok(info),
        ContainerStatus::Paused => {
            Err(Error::conflict(format!("Container {} is paused, unpause the container before exec", info.id)))
        }
        ContainerStatus::Restarting => {
            Err(Error::conflict(format!("Container {} is restarting, wait until the container is running", info.id)))
        }
        _ => Err(Error::conflict(format!("Container {} is not running", info.id))),
    }
}

fn failure_kind(exit_code: i32) -> skep_model::ErrorKind {
    if matches!(exit_code, 126 | 127) {
        skep_model::ErrorKind::InvalidArgument
    } else {
        skep_model::ErrorKind::Internal
    }
}
