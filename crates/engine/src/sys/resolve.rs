//! `openat2(2)` that does not fail for a reason outside of the file system it walks.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A machine that renames without pause could otherwise hold us for ever.
const ATTEMPTS_MAX: u32 = 64;

/// Opens `path` below `root` as `resolve` allows.
///
/// The kernel answers EAGAIN when anything on the machine was renamed or mounted while it
/// walked a `..`, since it cannot tell then whether the walk stayed inside.
///
/// # Errors
/// Those of openat2(2); EAGAIN only after many attempts.
pub(crate) fn openat2(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let (root, path) = (root.as_fd(), path.as_ref());
    for _ in 1..ATTEMPTS_MAX {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}
