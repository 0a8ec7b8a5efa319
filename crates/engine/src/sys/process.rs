//! Processes: how to run the shim without giving containers a way to our binary, and
//! how to tell a living process from its successor.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The program run as shim.
///
/// A process inside a container can open `/proc/1/exe` in the moment before the
/// container's own program is executed. The binary is therefore run from a detached,
/// read-only mount of its file: whoever gets hold of it cannot write to it.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    readonly: Option<OwnedFd>,
}

impl Program {
    /// Opens `path`; without the right to mount, the plain file is used.
    pub(crate) fn open(path: &Path) -> Self {
        let readonly = detach_readonly(path)
            .inspect_err(|error| tracing::warn!(%error, "cannot protect the shim's binary from containers"))
            .ok();
        Self { path: path.to_owned(), readonly }
    }

    /// What to execute.
    pub(crate) fn executable(&self) -> PathBuf {
        match &self.readonly {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => self.path.clone(),
        }
    }
}

fn detach_readonly(path: &Path) -> std::io::Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, path, flags)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a static C string, the attributes live to the end of the call
    // and their size is passed with them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(mount) }
}

/// Start time of a process in clock ticks since boot; `None` if there is none.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the fields follow its last one.
    let fields = text.rsplit_once(')')?.1;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether the very process that started at `ticks` still runs.
pub(crate) fn is_alive(pid: u32, ticks: u64) -> bool {
    pid != 0 && start_ticks(pid) == Some(ticks)
}

/// A handle that keeps its meaning when the number is reused.
pub(crate) fn open_pid(pid: u32) -> std::io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    // SAFETY: takes two integers and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
    // SAFETY: the descriptor is new and owned by no one else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Lets the runtime wait for events of a descriptor it comes to own.
pub(crate) fn watch(fd: OwnedFd, interest: tokio::io::Interest) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file until it is dropped, and it is
    // dropped only after it was taken off the runtime's list.
    let watched = unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(std::io::Error::from)
}
