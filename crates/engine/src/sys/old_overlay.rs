//! Overlays on kernels before 6.5, which take all options in one page and mount on a
//! directory only: a thread mounts in a mount namespace of its own, and the descriptor
//! outlives both.

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Small: the thread does a handful of system calls.
const STACK_BYTES: usize = 128 * 1024;

/// Mounts image layers (topmost first), with a writable layer and its work directory or
/// read-only, and returns the root.
///
/// # Errors
/// What the kernel says.
pub(super) fn mount(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    let first = lower.first().ok_or(io::ErrorKind::NotFound)?;
    std::thread::scope(|scope| {
        let work = || mount_in_own_namespace(first, lower, writable);
        let thread = std::thread::Builder::new().name("overlay".into()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work)?.join().unwrap_or_else(|_| Err(io::Error::other("a mounting thread panicked")))
    })
}

/// Ends the calling thread's ties to the process's directories and mounts.
fn mount_in_own_namespace(at: &Path, lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    // SAFETY: the thread runs nothing but this function, and no descriptor changes hands.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let mut kept_open = Vec::new();
    // Layers are named by descriptors, which are short, relative to the working directory.
    let mut name = |path: &Path| -> io::Result<String> {
        let fd = open_directory(path)?;
        let text = fd.as_raw_fd().to_string();
        kept_open.push(fd);
        Ok(text)
    };
    let layers = lower.iter().map(|path| name(path)).collect::<io::Result<Vec<_>>>()?;
    let mut options = format!("lowerdir={},index=off,redirect_dir=off", layers.join(":"));
    if let Some((upper, work)) = writable {
        options.push_str(&format!(",upperdir={},workdir={}", name(upper)?, name(work)?));
    }
    let options = CString::new(options)?;
    rustix::process::chdir("/proc/self/fd")?;
    let flags = if writable.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str())?;
    open_directory(at)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn layers_are_seen_through_the_descriptor_and_nowhere_else() {
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b", "upper", "work"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("a/top"), "top").unwrap();
        fs::write(at("b/base"), "base").unwrap();
        let layers = [at("a"), at("b")];
        let read =
            |root: &OwnedFd, name: &str| fs::read_to_string(format!("/proc/self/fd/{}/{name}", root.as_raw_fd()));
        let root = mount(&layers, None).unwrap();
        assert_eq!((read(&root, "top").unwrap(), read(&root, "base").unwrap()), ("top".into(), "base".into()));
        assert!(!at("a/base").exists(), "the mount is in nobody's view");
        let root = mount(&layers, Some((&at("upper"), &at("work")))).unwrap();
        fs::write(format!("/proc/self/fd/{}/new", root.as_raw_fd()), "new").unwrap();
        assert_eq!(fs::read_to_string(at("upper/new")).unwrap(), "new");
    }
}
