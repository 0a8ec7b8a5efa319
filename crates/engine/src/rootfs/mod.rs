//! Writable root filesystems on top of image layers: directories for the shim to
//! mount as overlayfs, and short-lived mounts of our own for `cp`, `diff`, build steps.
//!
//! Below `<data root>/overlay/<container id>`: `diff/` (upper), `work/`, `merged/`.

mod changes;
mod mount;

pub use changes::{Change, ChangeKind};
pub use mount::{Mounted, mount_layers};

use crate::image::tree;
use rustix::fd::AsFd;
use rustix::fs::FileType;
use skep_model::shim::OverlayMount;
use skep_model::{Error, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `statfs` says so for overlayfs.
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// The directories of one container's writable layer. Plain paths: making a value does no IO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// What the container wrote.
    pub upper: PathBuf,
    /// overlayfs's own.
    pub work: PathBuf,
    /// Where our own mounts pass through; empty otherwise.
    pub merged: PathBuf,
}

impl Rootfs {
    /// Where the container's directories are or will be.
    pub fn at(data_root: &Path, container_id: &str) -> Self {
        let base = base(data_root, container_id);
        Self { upper: base.join("diff"), work: base.join("work"), merged: base.join("merged") }
    }

    /// Makes the directories. Blocking.
    ///
    /// # Errors
    /// When they exist, or when the data root is on overlayfs, which cannot carry another overlay.
    pub fn create(data_root: &Path, container_id: &str) -> Result<Self> {
        let rootfs = Self::at(data_root, container_id);
        let base = base(data_root, container_id);
        let make = |path: &Path, mode: u32| {
            std::fs::DirBuilder::new().mode(mode).create(path).map_err(|e| failed("making", path, &e))
        };
        let all = base.parent().unwrap_or(data_root);
        std::fs::create_dir_all(all).map_err(|e| failed("making", all, &e))?;
        refuse_overlay(all)?;
        make(&base, 0o710)?;
        make(&rootfs.upper, 0o755)?;
        // The root of the container; the daemon's umask must not decide who may enter it.
        std::fs::set_permissions(&rootfs.upper, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| failed("setting the mode of", &rootfs.upper, &e))?;
        make(&rootfs.work, 0o700)?;
        make(&rootfs.merged, 0o700)?;
        Ok(rootfs)
    }

    /// Removes the directories, and a mount of ours that a crash left. No error when they
    /// are gone already. Blocking.
    pub fn remove(data_root: &Path, container_id: &str) -> Result<()> {
        mount::detach(&Self::at(data_root, container_id).merged)?;
        tree::remove_path(&base(data_root, container_id)).map_err(Error::from)
    }

    /// What the shim mounts. `lower`: topmost first.
    pub fn overlay(&self, lower: Vec<PathBuf>) -> OverlayMount {
        OverlayMount { lower, upper: self.upper.clone(), work: self.work.clone() }
    }

    /// Runs `work` with the root filesystem mounted; its argument is the path of the root.
    /// The mount is in no one's view and ends with this call, even when the process dies.
    ///
    /// Not for a running container: its own mount already has the upper directory; go
    /// through `/proc/<pid>/root` instead. Blocking.
    pub fn with_mounted<T>(&self, lower: &[PathBuf], work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let mounted = mount::mount_overlay(&self.overlay(lower.to_vec()), &self.merged)?;
        work(mounted.path())
    }

    /// What differs from the layers below, sorted by path: `docker diff`. Blocking.
    pub fn changes(&self, lower: &[PathBuf]) -> Result<Vec<Change>> {
        changes::changes(&self.upper, lower).map_err(Error::from)
    }

    /// Bytes in files of the writable layer. Blocking.
    pub fn size(&self) -> Result<u64> {
        size(&self.upper)
    }
}

/// Bytes in files below a directory; a file with several names counts once. Blocking.
pub fn size(directory: &Path) -> Result<u64> {
    let root = tree::open_root(directory)?;
    let mut seen = BTreeSet::new();
    let mut total = 0_u64;
    tree::walk(
        root.as_fd(),
        |_, _| Ok::<(), Error>(()),
        |node| {
            let counts = matches!(node.file_type(), FileType::RegularFile | FileType::Symlink);
            if counts && (node.stat.st_nlink == 1 || seen.insert((node.stat.st_dev, node.stat.st_ino))) {
                total += u64::try_from(node.stat.st_size).unwrap_or(0);
            }
            Ok(())
        },
    )?;
    Ok(total)
}

fn base(data_root: &Path, container_id: &str) -> PathBuf {
    data_root.join("overlay").join(container_id)
}

fn refuse_overlay(directory: &Path) -> Result<()> {
    let stat = rustix::fs::statfs(directory).map_err(|e| failed("looking at", directory, &e.into()))?;
    if stat.f_type == OVERLAYFS_MAGIC {
        return Err(Error::internal(format!(
            "{} is on overlayfs, which cannot hold the writable layers of containers: \
             put the data root on another file system, such as ext4, xfs or tmpfs",
            directory.display()
        )));
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::internal(format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
