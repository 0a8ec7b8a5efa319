//! Starting processes in the namespaces of a machine.
//!
//! A thread enters the namespaces and starts the process from there, so that the handle
//! is the process itself and no helper that stands between.

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::JoinHandle;

/// The namespaces of a machine that runs. The mount namespace comes last: after it the
/// files of the others would be looked for inside.
const KINDS: [(&str, CloneFlags); 6] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Starts `command` as process 1 of a new machine on the network namespace `netns`.
pub(crate) fn spawn_first(netns: &str, command: Command) -> Result<Child> {
    let network = File::open(netns_path(netns)).with_context(|| netns.to_owned())?;
    on_a_thread(command, move || {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        unshare(
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID,
        )
    })
}

/// Starts `command` on the machine whose process 1 is `first`.
pub(crate) fn spawn(first: u32, command: Command) -> Result<Child> {
    let mut namespaces = Vec::new();
    for (name, flag) in KINDS {
        let path = format!("/proc/{first}/ns/{name}");
        namespaces.push((File::open(&path).with_context(|| format!("the machine is off: {path}"))?, flag));
    }
    on_a_thread(command, move || {
        // A thread that shares its root and working directory may not change the mount namespace.
        unshare(CloneFlags::CLONE_FS)?;
        namespaces.into_iter().try_for_each(|(file, flag)| setns(file, flag))
    })
}

/// Starts `command` in a named network namespace and nothing else of it.
pub(crate) fn spawn_in_network(netns: &str, command: Command) -> Result<Child> {
    let network = File::open(netns_path(netns)).with_context(|| netns.to_owned())?;
    on_a_thread(command, move || setns(network, CloneFlags::CLONE_NEWNET))
}

/// Runs `work` on a thread in a named network namespace.
pub(crate) fn thread_in_network<T, F>(netns: &str, work: F) -> Result<JoinHandle<Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let network = File::open(netns_path(netns)).with_context(|| netns.to_owned())?;
    Ok(std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
        work()
    }))
}

fn netns_path(netns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(netns)
}

fn on_a_thread(mut command: Command, enter: impl FnOnce() -> nix::Result<()> + Send + 'static) -> Result<Child> {
    let thread = std::thread::spawn(move || -> Result<Child> {
        enter().context("cannot enter the namespaces")?;
        command.spawn().with_context(|| format!("{command:?}"))
    });
    thread.join().map_err(|_| anyhow!("the starting thread died"))?
}
