//! Mounts that never appear in the file system: made, used through a descriptor, and
//! gone with it, whatever becomes of us.

use crate::sys::resolve::openat2;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use skep_model::shim::takes_layers_one_by_one;
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
        Ok(openat2(&self.root, relative, flags | OFlags::CLOEXEC, resolve)?)
    }

    /// Reads a small text file.
    pub(crate) fn read_text(&self, path: &str) -> std::io::Result<String> {
        let fd = self.open(path, OFlags::RDONLY)?;
        std::io::read_to_string(std::fs::File::from(fd))
    }

    /// The part of this tree below an open directory of it. Links still resolve from the
    /// tree's own root, as they do for a process inside.
    pub(crate) fn below(tree: &Self, directory: &OwnedFd) -> std::io::Result<Below> {
        Ok(Below { root: tree.root.try_clone()?, directory: directory.try_clone()? })
    }
}

/// A directory of a tree.
pub(crate) struct Below {
    root: OwnedFd,
    directory: OwnedFd,
}

impl Below {
    /// Opens `path` below the directory, making what is missing.
    pub(crate) fn make_directories(&self, path: &Path) -> std::io::Result<OwnedFd> {
        let mut current = self.directory.try_clone()?;
        for part in path.components() {
            let name = Path::new(part.as_os_str());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = match rustix::fs::openat(&current, name, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(&current, name, flags, Mode::empty())?
                }
                // A link to a directory of the container is one, seen from its root.
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => self.follow(&current, name)?,
                other => other?,
            };
            current = next;
        }
        Ok(current)
    }

    fn follow(&self, parent: &OwnedFd, name: &Path) -> std::io::Result<OwnedFd> {
        let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
        let target = target.to_string_lossy();
        let (from, relative) = match target.strip_prefix('/') {
            Some(rest) => (&self.root, rest),
            // Relative links could climb; only those that stay below are followed.
            None => (parent, target.as_ref()),
        };
        let resolve = if target.starts_with('/') { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        let relative = if relative.is_empty() { "." } else { relative };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(from, relative, flags, resolve | ResolveFlags::NO_MAGICLINKS)?)
    }
}

/// A path by which the standard library can use an open directory.
pub(crate) fn fd_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn overlay(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> std::io::Result<Tree> {
    let release = rustix::system::uname();
    if takes_layers_one_by_one(&release.release().to_string_lossy()) {
        overlay_by_layer(lower, writable)
    } else {
        super::old_overlay::mount(lower, writable).map(|root| Tree { root })
    }
}

fn overlay_by_layer(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> std::io::Result<Tree> {
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
