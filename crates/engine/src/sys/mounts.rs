//! Mounts that never appear in the file system: made, used through a descriptor, and
//! gone with it, whatever becomes of us.

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const OPTION_LENGTH_MAX: usize = 255;

/// A tree to look into: image layers, possibly with a container's changes on top, or
/// the root of a running process.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Image layers (topmost first), read-only.
    pub(crate) fn of_layers(lower: &[PathBuf]) -> std::io::Result<Self> {
        match lower {
            [] => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the image has no layers")),
            [only] => Self::of_directory(only),
            many => overlay(many, None),
        }
    }

    /// A stopped container's root, writable.
    pub(crate) fn of_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> std::io::Result<Self> {
        overlay(lower, Some((upper, work)))
    }

    /// A directory as it is (also `/proc/<pid>/root`).
    pub(crate) fn of_directory(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens `path` as a process with this root would, so that no symbolic link leads out.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Reads a small text file.
    pub(crate) fn read_text(&self, path: &str) -> std::io::Result<String> {
        let fd = self.open(path, OFlags::RDONLY)?;
        std::io::read_to_string(std::fs::File::from(fd))
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }
}

/// A path by which the standard library can use an open directory.
pub(crate) fn fd_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn overlay(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> std::io::Result<Tree> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut kept_open = Vec::new();
    let mut set = |key: &str, path: &Path| -> std::io::Result<()> {
        if path.as_os_str().len() <= OPTION_LENGTH_MAX {
            return Ok(fsconfig_set_string(&context, key, path)?);
        }
        let fd = Tree::of_directory(path)?.root;
        let result = fsconfig_set_string(&context, key, fd_path(&fd));
        kept_open.push(fd);
        Ok(result?)
    };
    for layer in lower {
        set("lowerdir+", layer)?;
    }
    if let Some((upper, work)) = writable {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    fsconfig_set_string(&context, "index", "off")?;
    fsconfig_set_string(&context, "redirect_dir", "off")?;
    fsconfig_create(&context)?;
    let attributes = if writable.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(Tree { root })
}
