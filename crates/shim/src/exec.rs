//! Runs one more process inside a running container.
//!
//! Ours rather than libcontainer's tenant builder, which looks every namespace up through
//! procfs and forks twice; here a single fork enters what the init is in.

use crate::cgroup::Groups;
use crate::confine::Confinement;
use crate::error::LaunchError;
use crate::files::read_json;
use crate::launch::{execute, read_status, write_status};
use crate::start::start_ticks;
use crate::stdio::{self, ChildEnds, ShimEnds};
use crate::sys;
use libcontainer::oci_spec::runtime::{PosixRlimitType, Process};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::{ForkResult, Pid, pipe2};
use skep_model::shim::{ShimConfig, Started};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// In the order in which they are entered: the mount namespace last, because the paths
/// of the others are seen from outside.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Everything the child needs, opened before the fork.
struct Plan<'a> {
    namespaces: Vec<(File, CloneFlags)>,
    groups: Vec<File>,
    process: &'a Process,
    confinement: Confinement,
    streams: Streams,
    status: OwnedFd,
    console_size: (u16, u16),
}

enum Streams {
    Pipes(ChildEnds),
    /// The child opens a terminal inside the container and sends its master back.
    Terminal(OwnedFd),
}

/// Starts `process` in the container whose run directory is `container_root`.
pub(crate) fn start(
    config: &ShimConfig,
    container_root: &Path,
    process: &Process,
) -> Result<(Pid, ShimEnds), LaunchError> {
    let started: Started = read_json(&container_root.join("started.json")).map_err(LaunchError::runtime)?;
    let stopped = || LaunchError::runtime("cannot exec in a stopped container");
    // Opened first, compared after: the descriptors then are the init's, not a successor's.
    let process_namespace = open_namespace(started.pid, "pid").map_err(|_| stopped())?;
    let namespaces = foreign_namespaces(started.pid).map_err(|_| stopped())?;
    if start_ticks(started.pid) != Some(started.pid_start_ticks) {
        return Err(stopped());
    }
    let open = |path| OpenOptions::new().write(true).open(path).ok();
    let groups = Groups::of_process(started.pid).member_files().filter_map(open).collect();
    let (status_read, status) = pipe2(OFlag::O_CLOEXEC).map_err(runtime("pipe"))?;
    let (streams, ends, terminal) = make_streams(config, process)?;
    let confinement = Confinement::prepare(config, process.no_new_privileges().unwrap_or(false))?;
    let plan = Plan { namespaces, groups, process, confinement, streams, status, console_size: config.console_size };
    // Affects only children, and this process has just one.
    if let Some(namespace) = process_namespace {
        setns(&namespace, CloneFlags::CLONE_NEWPID).map_err(|_| stopped())?;
    }
    // No process of the container may look into ours on the way.
    let _ = nix::sys::prctl::set_dumpable(false);
    let pid = match sys::fork_single_threaded().map_err(|_| stopped())? {
        ForkResult::Child => become_process(plan),
        ForkResult::Parent { child } => child,
    };
    drop(plan);
    let ends = match terminal {
        // One that did not come is explained by the status.
        Some(socket) => receive_terminal(&socket, config).unwrap_or_default(),
        None => ends,
    };
    match read_status(status_read)? {
        None => Ok((pid, ends)),
        Some(failure) => {
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(failure)
        }
    }
}

fn runtime<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError::runtime(format!("{step}: {error}"))
}

/// `None` if this process is in the same one already.
fn open_namespace(pid: u32, name: &str) -> std::io::Result<Option<File>> {
    let file = File::open(format!("/proc/{pid}/ns/{name}"))?;
    let ours = std::fs::metadata(format!("/proc/self/ns/{name}"))?;
    Ok((file.metadata()?.ino() != ours.ino()).then_some(file))
}

fn foreign_namespaces(pid: u32) -> std::io::Result<Vec<(File, CloneFlags)>> {
    let mut found = Vec::new();
    for (name, flag) in NAMESPACES {
        if let Some(file) = open_namespace(pid, name)? {
            found.push((file, flag));
        }
    }
    Ok(found)
}

type MadeStreams = (Streams, ShimEnds, Option<UnixStream>);

fn make_streams(config: &ShimConfig, process: &Process) -> Result<MadeStreams, LaunchError> {
    if config.terminal {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(runtime("socket pair"))?;
        return Ok((Streams::Terminal(theirs), ShimEnds::default(), Some(ours.into())));
    }
    let (child, ends) = stdio::make_pipes(config.open_stdin).map_err(LaunchError::runtime)?;
    child.give_to(process.user().uid());
    Ok((Streams::Pipes(child), ends, None))
}

fn receive_terminal(socket: &UnixStream, config: &ShimConfig) -> Result<ShimEnds, LaunchError> {
    let master = stdio::receive_descriptor(socket).map_err(LaunchError::runtime)?;
    ShimEnds::terminal(master, config.open_stdin).map_err(LaunchError::runtime)
}

/// The child's part: everything up to `execve`. Never returns.
fn become_process(plan: Plan<'_>) -> ! {
    let status = plan.status.as_raw_fd();
    if let Err(failure) = enter(&plan) {
        write_status(status, failure);
        sys::exit_now(crate::error::EXIT_NOT_STARTED);
    }
    let args = plan.process.args().as_deref().unwrap_or_default();
    let env = plan.process.env().as_deref().unwrap_or_default();
    sys::exit_now(execute(args, env, status))
}

fn enter(plan: &Plan<'_>) -> Result<(), LaunchError> {
    let _ = nix::unistd::setsid();
    for mut group in &plan.groups {
        group.write_all(b"0").map_err(runtime("enter control group"))?;
    }
    if let Some(score) = plan.process.oom_score_adj() {
        // Lowering it needs a right the engine may not have; the engine has warned.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    for (namespace, flag) in &plan.namespaces {
        setns(namespace, *flag).map_err(runtime("enter namespace"))?;
    }
    connect_streams(plan)?;
    set_limits(plan.process)?;
    let cwd = plan.process.cwd();
    nix::unistd::chdir(cwd).map_err(|errno| {
        LaunchError::process(
            crate::error::EXIT_NOT_EXECUTABLE,
            format!("chdir to cwd ({:?}) set in config.json failed: {}", cwd.display(), errno.desc().to_lowercase()),
        )
    })?;
    stay_inside()?;
    drop_rights(plan)?;
    sys::close_others_on_exec().map_err(runtime("close descriptors"))?;
    sys::reset_signals();
    Ok(())
}

/// A working directory like `/proc/self/fd/7` may name a directory of the host's that is open here.
fn stay_inside() -> Result<(), LaunchError> {
    // The kernel itself is asked: it says `(unreachable)` before a path that is not below the root.
    let is_inside = rustix::process::getcwd(Vec::new()).is_ok_and(|cwd| cwd.to_bytes().starts_with(b"/"));
    is_inside.then_some(()).ok_or_else(|| {
        LaunchError::process(
            crate::error::EXIT_NOT_EXECUTABLE,
            "current working directory is outside of container mount namespace root -- possible container breakout \
             detected",
        )
    })
}

fn connect_streams(plan: &Plan<'_>) -> Result<(), LaunchError> {
    match &plan.streams {
        Streams::Pipes(ends) => {
            for (fd, standard) in [(&ends.stdin, 0), (&ends.stdout, 1), (&ends.stderr, 2)] {
                sys::replace_standard(fd.as_raw_fd(), standard).map_err(runtime("connect standard streams"))?;
            }
        }
        Streams::Terminal(socket) => {
            let master =
                OpenOptions::new().read(true).write(true).open("/dev/pts/ptmx").map_err(runtime("open terminal"))?;
            if plan.console_size != (0, 0) {
                let _ = sys::set_window_size(master.as_raw_fd(), plan.console_size.0, plan.console_size.1);
            }
            let slave = sys::open_terminal_peer(master.as_raw_fd()).map_err(runtime("open terminal"))?;
            let _ = nix::unistd::fchown(&slave, Some(plan.process.user().uid().into()), None);
            let fds = [master.as_raw_fd()];
            let message = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"t")], &message, MsgFlags::empty(), None)
                .map_err(runtime("send terminal"))?;
            sys::take_controlling_terminal(slave.as_raw_fd()).map_err(runtime("take terminal"))?;
            for standard in 0..=2 {
                sys::replace_standard(slave.as_raw_fd(), standard).map_err(runtime("connect terminal"))?;
            }
        }
    }
    Ok(())
}

fn set_limits(process: &Process) -> Result<(), LaunchError> {
    for limit in process.rlimits().iter().flatten() {
        sys::set_limit(limit_number(limit.typ()), limit.soft(), limit.hard()).map_err(runtime("set limit"))?;
    }
    Ok(())
}

fn limit_number(name: PosixRlimitType) -> u32 {
    match name {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn drop_rights(plan: &Plan<'_>) -> Result<(), LaunchError> {
    let user = plan.process.user();
    if let Some(umask) = user.umask() {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    sys::become_user(user.uid(), user.gid(), groups).map_err(runtime("set user"))?;
    plan.confinement.apply()
}
