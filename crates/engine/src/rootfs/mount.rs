//! Short-lived overlay mounts of our own.

use super::{failed, refuse_overlay};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use skep_model::shim::OverlayMount;
use skep_model::{Error, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kernel takes one page of mount options.
const OPTIONS_BYTES_MAX: usize = 4095;

/// A root filesystem that is mounted nowhere: only this value holds it.
#[derive(Debug)]
pub struct Mounted {
    // Held for its life: closing the last descriptor of a detached mount ends it.
    _root: OwnedFd,
    path: PathBuf,
}

impl Mounted {
    /// A path to its root, valid inside this process while the value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Mounts layers (topmost first) to be read only. `at` must be an empty directory. Blocking.
///
/// # Errors
/// When there is no layer, or the kernel refuses.
pub fn mount_layers(lower: &[PathBuf], at: &Path) -> Result<Mounted> {
    match lower {
        [] => Err(Error::internal("no layers to mount")),
        // overlayfs wants two layers; one is its own view.
        [only] => open_mounted(only),
        _ => mount(lower, String::new(), at),
    }
}

pub(super) fn mount_overlay(overlay: &OverlayMount, at: &Path) -> Result<Mounted> {
    let (upper, work) = (escaped(&overlay.upper)?, escaped(&overlay.work)?);
    refuse_overlay(&overlay.upper)?;
    mount(&overlay.lower, format!(",upperdir={upper},workdir={work}"), at)
}

/// Mounts on `at` and takes the mount out of the tree again at once; the descriptor keeps it alive.
fn mount(lower: &[PathBuf], more: String, at: &Path) -> Result<Mounted> {
    let opened: Vec<OwnedFd>;
    let mut options = options(lower.iter().map(|path| escaped(path)).collect::<Result<Vec<_>>>()?, &more);
    if options.len() > OPTIONS_BYTES_MAX {
        // Many layers: their descriptors have short names.
        opened = lower.iter().map(|path| open_path(path)).collect::<Result<_>>()?;
        options = self::options(opened.iter().map(|fd| fd_path(fd).display().to_string()).collect(), &more);
    }
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(Error::invalid(format!("{} layers are more than can be mounted", lower.len())));
    }
    let data = CString::new(options).map_err(|_| Error::invalid("a path contains a zero byte"))?;
    let refused = |e: Errno| failed("mounting overlayfs on", at, &e.into());
    rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), data.as_c_str()).map_err(refused)?;
    let mounted = open_mounted(at);
    detach(at)?;
    mounted
}

/// Renames of directories must copy (`redirect_dir=off`), so that the upper directory is a whole layer.
fn options(lower: Vec<String>, more: &str) -> String {
    format!("lowerdir={}{more},redirect_dir=off,metacopy=off,index=off", lower.join(":"))
}

/// Takes a mount of ours out of the tree. No error when there is none.
pub(super) fn detach(at: &Path) -> Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("unmounting", at, &e.into())),
    }
}

fn open_mounted(path: &Path) -> Result<Mounted> {
    let root = open_path(path)?;
    let path = fd_path(&root);
    Ok(Mounted { _root: root, path })
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed("opening", path, &e.into()))
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Commas and colons separate options and layers.
fn escaped(path: &Path) -> Result<String> {
    let text = std::str::from_utf8(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("{} is not valid text", path.display())))?;
    Ok(text.replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:"))
}
