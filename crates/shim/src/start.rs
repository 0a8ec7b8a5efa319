//! From the engine's order to the exit record.

use crate::cgroup::Groups;
use crate::error::{LaunchError, ShimError};
use crate::files::{now, read_json, write_json};
use crate::forward::Forwarder;
use crate::log::LogFile;
use crate::serve::Server;
use crate::stdio::ShimEnds;
use crate::{devices, exec, launch, rootfs, sys, workdir};
use libcontainer::oci_spec::runtime::{Process, Spec};
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use skep_model::shim::{ExitRecord, ShimConfig, ShimTarget, StartCommand, StartReport, Started};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const START_COMMAND_LENGTH_MAX: usize = 4096;

/// What is to be started, read from the run directory.
enum Work {
    Init { spec: Box<Spec> },
    Exec { container_root: PathBuf, process: Box<Process> },
}

/// The whole life of a shim.
pub(crate) fn run(run_dir: &Path) -> Result<(), ShimError> {
    let channel = UnixStream::from(sys::take_start_channel().map_err(ShimError::at("take start channel"))?);
    // Fails only for a process that leads a group already, which a spawned one does not.
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"skep-shim");
    std::env::set_current_dir("/").map_err(ShimError::at("change to /"))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(ShimError::at("become subreaper"))?;
    let config: ShimConfig = read_json(&run_dir.join("shim.json"))?;
    let work = read_work(&config, run_dir)?;
    // Its socket belongs to the host's network, which is left next.
    let forwarder = config.log.as_ref().and_then(|log| log.forward.as_ref()).map(Forwarder::open).transpose()?;
    prepare_namespaces(&config, run_dir)?;
    let listener = UnixListener::bind(run_dir.join("shim.sock")).map_err(ShimError::at("listen on shim.sock"))?;
    let log = config.log.as_ref().map(|log| LogFile::open(log, forwarder)).transpose()?;
    let mut server = Server::new(listener, log, config.terminal, config.stdin_once)?;
    report(&channel, &StartReport::Ready { pid: std::process::id() })?;
    wait_for_go(&mut server, &channel)?;
    match start(&config, run_dir, &work) {
        Ok((pid, ends)) => {
            server.started(pid, ends);
            let started = describe(pid);
            write_json(run_dir, "started.json", &started)?;
            // An engine that died meanwhile will find the file.
            let _ = report(&channel, &StartReport::Started(started));
        }
        Err(failure) => {
            let record = failed(failure);
            write_json(run_dir, "exit.json", &record)?;
            if let Work::Init { spec } = &work {
                groups_of(spec).remove();
            }
            let _ = report(&channel, &StartReport::Failed(record));
            return Ok(());
        }
    }
    drop(channel);
    let end = End::of(&config, work);
    sys::trim_heap();
    let (exit_code, at) = server.run_to_exit()?;
    let oom_killed = end.clean_up();
    let record = ExitRecord { exit_code, at, oom_killed, error: String::new(), started: true };
    write_json(run_dir, "exit.json", &record)?;
    server.finish(record)
}

fn read_work(config: &ShimConfig, run_dir: &Path) -> Result<Work, ShimError> {
    Ok(match &config.target {
        ShimTarget::Init => Work::Init { spec: read_json(&run_dir.join("config.json"))? },
        ShimTarget::Exec { container_root } => {
            Work::Exec { process: read_json(&run_dir.join("process.json"))?, container_root: container_root.clone() }
        }
    })
}

fn prepare_namespaces(config: &ShimConfig, run_dir: &Path) -> Result<(), ShimError> {
    if config.target != ShimTarget::Init {
        return Ok(());
    }
    rootfs::enter_mount_namespace()?;
    if let Some(overlay) = &config.rootfs {
        rootfs::mount_overlay(overlay, &run_dir.join("rootfs"))?;
    }
    if config.new_network_namespace {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(ShimError::at("unshare network namespace"))?;
        sys::bring_loopback_up().map_err(ShimError::at("bring loopback up"))?;
    }
    Ok(())
}

fn report(mut channel: &UnixStream, report: &StartReport) -> Result<(), ShimError> {
    let mut line = serde_json::to_vec(report).map_err(|source| ShimError::Json { path: PathBuf::new(), source })?;
    line.push(b'\n');
    channel.write_all(&line).map_err(ShimError::at("report to the engine"))
}

/// Serves clients until the engine says go: they are to miss no output.
fn wait_for_go(server: &mut Server, mut channel: &UnixStream) -> Result<(), ShimError> {
    let mut line = Vec::new();
    loop {
        if !server.step(Some(channel.as_fd()))?.extra_ready {
            continue;
        }
        let mut buffer = [0; 256];
        let count = channel.read(&mut buffer).map_err(ShimError::at("read start command"))?;
        if count == 0 || line.len() > START_COMMAND_LENGTH_MAX {
            return Err(ShimError::Abandoned);
        }
        line.extend_from_slice(&buffer[..count]);
        if line.ends_with(b"\n") {
            return match serde_json::from_slice(&line) {
                Ok(StartCommand::Go) => Ok(()),
                Err(source) => Err(ShimError::Json { path: "start command".into(), source }),
            };
        }
    }
}

fn start(config: &ShimConfig, run_dir: &Path, work: &Work) -> Result<(Pid, ShimEnds), LaunchError> {
    match work {
        Work::Init { spec } => {
            set_network_sysctls(config)?;
            if config.rootfs.is_some() {
                workdir::ensure(&run_dir.join("rootfs"), spec)?;
            }
            let created = launch::create(config, run_dir, spec)?;
            if let Some(group) = groups_of(spec).unified()
                && let Err(error) = devices::restrict(group, spec)
            {
                created.abandon();
                return Err(LaunchError::runtime(format!("restrict devices: {error}")));
            }
            created.start()
        }
        Work::Exec { container_root, process } => {
            exec::start(config, container_root, process).map_err(|failure| LaunchError {
                text: failure
                    .text
                    .replace("OCI runtime create failed: runc create failed:", "OCI runtime exec failed: exec failed:")
                    .replace("OCI runtime create failed:", "OCI runtime exec failed: exec failed:"),
                ..failure
            })
        }
    }
}

/// `/proc/sys/net` is that of the reader's network namespace, which is the new one.
fn set_network_sysctls(config: &ShimConfig) -> Result<(), LaunchError> {
    for (name, value) in &config.network_sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let inside = path.starts_with("/proc/sys/net") && !name.contains("..");
        let written = if inside { std::fs::write(&path, value) } else { Err(std::io::ErrorKind::InvalidInput.into()) };
        written.map_err(|error| LaunchError::runtime(format!("set sysctl {name}: {error}")))?;
    }
    Ok(())
}

fn describe(pid: Pid) -> Started {
    let pid = pid.as_raw().unsigned_abs();
    Started {
        shim_pid: std::process::id(),
        shim_start_ticks: start_ticks(std::process::id()).unwrap_or(0),
        pid,
        // A process that ended already has no entry any more; nobody will take another for it.
        pid_start_ticks: start_ticks(pid).unwrap_or(0),
        at: now(),
    }
}

/// Field 22 of `/proc/<pid>/stat`; the name before it may contain anything.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn failed(failure: LaunchError) -> ExitRecord {
    ExitRecord { exit_code: failure.exit_code, at: now(), oom_killed: false, error: failure.text, started: false }
}

fn groups_of(spec: &Spec) -> Groups {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    Groups::of_path(&path.unwrap_or_default())
}

/// What is to be undone at the end; all else of the specification is forgotten while
/// the process runs.
enum End {
    Init { groups: PathBuf, state_dir: PathBuf, kill_rest: bool },
    Exec,
}

impl End {
    fn of(config: &ShimConfig, work: Work) -> Self {
        match work {
            Work::Exec { .. } => Self::Exec,
            Work::Init { spec } => Self::Init {
                groups: spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default(),
                state_dir: config.runtime_root.join(&config.container_id),
                kill_rest: config.shared_process_namespace,
            },
        }
    }

    /// Returns whether the container was killed for want of memory.
    fn clean_up(self) -> bool {
        let Self::Init { groups, state_dir, kill_rest } = self else { return false };
        let groups = Groups::of_path(&groups);
        let oom_killed = groups.oom_kills() > 0;
        if kill_rest {
            groups.kill_all();
        }
        groups.remove();
        let _ = std::fs::remove_dir_all(state_dir);
        oom_killed
    }
}
