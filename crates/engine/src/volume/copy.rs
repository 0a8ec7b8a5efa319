//! Copies a tree with owners, modes, times, links and attributes: what an image has
//! at the place of an empty volume.

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;

/// Makes `to` (an existing, empty directory) equal to `from`.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    // A trailing dot, because `from` may be a link to an open directory.
    let root = from.join(".");
    for entry in walkdir::WalkDir::new(&root).contents_first(false) {
        let entry = entry?;
        let relative = entry.path().strip_prefix(&root).unwrap_or_else(|_| Path::new(""));
        let target = if relative.as_os_str().is_empty() { to.to_owned() } else { to.join(relative) };
        let metadata = if entry.depth() == 0 { fs::metadata(&root)? } else { entry.path().symlink_metadata()? };
        copy_entry(entry.path(), &target, &metadata, entry.depth() == 0)?;
    }
    Ok(())
}

fn copy_entry(from: &Path, to: &Path, metadata: &Metadata, is_root: bool) -> std::io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        if !is_root {
            fs::create_dir(to)?;
        }
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        return lchown(to, Some(metadata.uid()), Some(metadata.gid()));
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        let flag = match kind {
            kind if kind.is_fifo() => SFlag::S_IFIFO,
            kind if kind.is_char_device() => SFlag::S_IFCHR,
            kind if kind.is_block_device() => SFlag::S_IFBLK,
            // A socket without its listener is of no use.
            _ => return Ok(()),
        };
        mknod(to, flag, Mode::from_bits_truncate(metadata.mode()), metadata.rdev())?;
    }
    if kind.is_file() || kind.is_dir() {
        fchown(fs::File::open(to)?, Some(metadata.uid()), Some(metadata.gid()))?;
    } else {
        lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    // After the owner: changing that clears set-user-id.
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(from, to);
    let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    utimensat(
        nix::fcntl::AT_FDCWD,
        to,
        &time(metadata.atime(), metadata.atime_nsec()),
        &time(metadata.mtime(), metadata.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

/// Attributes the target's file system does not know are left out.
fn copy_attributes(from: &Path, to: &Path) {
    for name in xattr::list(from).into_iter().flatten() {
        if let Ok(Some(value)) = xattr::get(from, &name) {
            let _ = xattr::set(to, &name, &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_links_and_contents_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/f"), "x").unwrap();
        fs::set_permissions(from.join("sub/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/f")).unwrap(), "x");
        assert_eq!(fs::metadata(to.join("sub/f")).unwrap().mode() & 0o7777, 0o4711);
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
    }
}
