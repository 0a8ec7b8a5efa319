//! Makes the process's working directory if the image has none, as Docker does.

use crate::error::LaunchError;
use libcontainer::oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes `cwd` of `spec` below the mounted root, or below the mount it lies in.
pub(crate) fn ensure(rootfs: &Path, spec: &Spec) -> Result<(), LaunchError> {
    let Some(cwd) = spec.process().as_ref().map(|process| process.cwd().clone()) else { return Ok(()) };
    if cwd == Path::new("/") {
        return Ok(());
    }
    let made = match covering_mount(&cwd, spec) {
        Some((source, rest)) => make_below(&source, &rest),
        None => make_below(rootfs, &cwd),
    };
    made.map_err(|errno| LaunchError::runtime(format!("mkdir {}: {errno}", cwd.display())))
}

/// The deepest bind mount above `cwd`: its source, and the path below it.
fn covering_mount(cwd: &Path, spec: &Spec) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let mounts = spec.mounts().iter().flatten();
    let above = mounts.filter(|mount| mount.destination() != Path::new("/") && cwd.starts_with(mount.destination()));
    let deepest = above.max_by_key(|mount| mount.destination().components().count())?;
    let rest = cwd.strip_prefix(deepest.destination()).ok()?.to_owned();
    Some((deepest.source().clone().filter(|source| source.is_dir())?, rest))
}

fn make_below(root: &Path, path: &Path) -> Result<(), Errno> {
    let root = rustix::fs::open(root, DIRECTORY, Mode::empty())?;
    let mut so_far = std::path::PathBuf::new();
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = open_inside(&root, &so_far)?;
        so_far.push(part);
        match open_inside(&root, &so_far) {
            Ok(_) => {}
            Err(Errno::NOENT) => mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The kernel answers EAGAIN when anything on the machine was renamed or mounted while it
/// walked a `..`; so often at most is it asked again.
const ATTEMPTS_MAX: u32 = 64;

fn open_inside(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..ATTEMPTS_MAX {
        match openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    openat2(root, path, DIRECTORY, Mode::empty(), resolve)
}
