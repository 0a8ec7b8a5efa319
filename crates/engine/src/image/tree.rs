//! Walking and removing directory trees whose content is not trusted: everything goes
//! through directory descriptors, nothing follows a symbolic link, nothing recurses.

use super::error::{ImageError, ImageResult};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Entries of one tree; more is an attack or a mistake.
pub(crate) const TREE_ENTRIES_MAX: u64 = 20_000_000;

/// One name in a directory being walked.
pub(crate) struct Node<'a> {
    /// Relative to the walked root.
    pub(crate) path: &'a Path,
    /// The directory that holds it.
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    pub(crate) stat: Stat,
}

impl Node<'_> {
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// overlayfs's mark for "this name is deleted": a character device 0/0.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }
}

/// Opens a directory to work in.
pub(crate) fn open_root(path: &Path) -> ImageResult<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ImageError::file("opening", path)(e.into()))
}

/// Opens a directory below `root` without following any symbolic link.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    crate::sys::resolve::openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, how)
}

/// Calls `visit` for every name below `root`, parents before their children, in an order
/// that depends on names only. `enter` sees each directory before its content.
pub(crate) fn walk<E: From<ImageError>>(
    root: BorrowedFd<'_>,
    mut enter: impl FnMut(&Path, BorrowedFd<'_>) -> Result<(), E>,
    mut visit: impl FnMut(&Node<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending = vec![PathBuf::new()];
    let mut count = 0_u64;
    while let Some(directory) = pending.pop() {
        let fd = match open_dir(root, &directory) {
            Ok(fd) => fd,
            // Removed or replaced while we walked: a running container may do that.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !directory.as_os_str().is_empty() => continue,
            Err(e) => return Err(ImageError::file("opening", &directory)(e.into()).into()),
        };
        enter(&directory, fd.as_fd())?;
        let mut children = Vec::new();
        for name in sorted_names(&fd, &directory)? {
            count += 1;
            if count > TREE_ENTRIES_MAX {
                return Err(ImageError::Limit(format!("more than {TREE_ENTRIES_MAX} files")).into());
            }
            let stat = match rustix::fs::statat(&fd, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(ImageError::file("reading", &directory.join(&name))(e.into()).into()),
            };
            let path = directory.join(&name);
            let node = Node { path: &path, parent: fd.as_fd(), name: &name, stat };
            visit(&node)?;
            if node.file_type() == FileType::Directory {
                children.push(path);
            }
        }
        pending.extend(children.into_iter().rev());
    }
    Ok(())
}

fn sorted_names(directory: &OwnedFd, path: &Path) -> ImageResult<Vec<OsString>> {
    let mut names = names(directory).map_err(|e| ImageError::file("listing", path)(e.into()))?;
    names.sort_unstable();
    Ok(names)
}

/// All names in a directory, collected before anything changes it.
pub(crate) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Removes `name` in `parent` and all below it. A missing name is no error.
///
/// Nested directories are first moved next to the tree and then emptied one by one, so
/// neither the stack nor the number of open files grows with the depth of the tree.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let mut pending = vec![name.to_owned()];
    let mut moved = 0_u64;
    while let Some(directory) = pending.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, directory.as_os_str(), flags, Mode::empty())?;
        for child in names(&fd)? {
            match rustix::fs::unlinkat(&fd, child.as_os_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => pending.push(move_aside(&fd, &child, parent, &mut moved)?),
                Err(e) => return Err(e),
            }
        }
        rustix::fs::unlinkat(parent, directory.as_os_str(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Renames `child` of `from` to a free name in `to`.
fn move_aside(from: &OwnedFd, child: &OsStr, to: BorrowedFd<'_>, moved: &mut u64) -> rustix::io::Result<OsString> {
    loop {
        *moved += 1;
        let target = OsString::from(format!(".removing-{moved}"));
        match rustix::fs::renameat_with(from, child, to, target.as_os_str(), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(target),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
}

/// [`remove_tree`] for a path of our own.
pub(crate) fn remove_path(path: &Path) -> ImageResult<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ImageError::Limit(format!("refusing to remove {}", path.display())));
    };
    match rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => remove_tree(fd.as_fd(), name).map_err(|e| ImageError::file("removing", path)(e.into())),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(ImageError::file("opening", parent)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_shows_parents_first_and_never_leaves_through_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/c")).unwrap();
        std::fs::write(dir.path().join("b/c/x"), "1").unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("b/etc")).unwrap();
        let root = open_root(dir.path()).unwrap();
        let mut seen = Vec::new();
        walk(
            root.as_fd(),
            |_, _| Ok::<_, ImageError>(()),
            |node| {
                seen.push(node.path.display().to_string());
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, ["a", "b", "b/c", "b/etc", "b/c/x"]);
        assert!(open_dir(root.as_fd(), Path::new("b/etc")).is_err());
        assert!(open_dir(root.as_fd(), Path::new("../..")).is_err());
    }

    #[test]
    fn very_deep_trees_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_root(dir.path()).unwrap();
        let mut at = rustix::io::dup(&top).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(top.as_fd(), OsStr::new("d")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        remove_tree(top.as_fd(), OsStr::new("d")).unwrap();
    }
}
