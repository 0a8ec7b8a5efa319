//! Network namespaces: opening, making, removing, and running code inside one.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The calling thread's.
pub const OWN: &str = "/proc/thread-self/ns/net";
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// An open network namespace. Holding it keeps the namespace alive, so it is never
/// kept longer than one operation for containers.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// `None` when the path is gone, is no namespace any more (a bind mount that was
    /// unmounted leaves a plain file) or leads to the namespace we are in.
    ///
    /// # Errors
    /// Other failures to open the path.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // /proc/PID/ns/net of a process that just ended.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kind = nix::sys::statfs::fstatfs(&file)?.filesystem_type().0;
        let namespace = Self { file };
        let is_foreign = kind == NSFS_MAGIC && namespace.inode()? != std::fs::metadata(OWN)?.ino();
        // A path of a process that ended may lead to another one's namespace, in the
        // worst case to our own, where a container's leg would do harm.
        Ok(is_foreign.then_some(namespace))
    }

    /// What tells namespaces apart.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Makes a namespace that lives as long as the mount at `path`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        File::create(path)?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let source = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
            mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        })?;
        Self::open(path)?.ok_or_else(|| io::Error::other("the namespace vanished while it was made"))
    }

    /// Unmounts and removes `path`; absent is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(path: &Path) -> io::Result<()> {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `work` inside the namespace, on the calling thread: a thread for each would
    /// cost more than the work. Must not be nested.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and whatever `work` returns.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _home = Home(File::open(OWN)?);
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        work()
    }

    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Whether two paths lead to one namespace.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()));
    file(one).is_some_and(|found| Some(found) == file(other))
}

/// Gives a namespace one more name.
///
/// # Errors
/// What the kernel says.
pub fn bind(namespace: &Path, path: &Path) -> io::Result<()> {
    File::create(path)?;
    mount(Some(namespace), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Brings the thread back to where it was, also when the work panics.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        if setns(&self.0, CloneFlags::CLONE_NEWNET).is_err() {
            // Going on in a container's namespace would wreck it; the next netd starts clean.
            tracing::error!("cannot return to the host's network namespace");
            std::process::abort();
        }
    }
}

/// A namespace belongs to a thread: one that changed its own must not go on with other work.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked")))
    })
}
