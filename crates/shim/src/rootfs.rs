//! Mounts the container's root filesystem in the shim's own mount namespace.

use crate::error::ShimError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};
use skep_model::shim::{OverlayMount, takes_layers_one_by_one};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The kernel takes at most 256 bytes for one string option, its final zero included.
const OPTION_LENGTH_MAX: usize = 255;

/// Options that make a writable layer a plain set of files: a renamed directory is
/// copied instead of redirected, so that `commit` can store it as a layer.
const PLAIN_LAYER_OPTIONS: [(&str, &str); 2] = [("index", "off"), ("redirect_dir", "off")];

/// Leaves the host's mount namespace. Mounts of the host still arrive (and, what
/// matters more, unmounts do, so that a shim pins no disk), ours never leave.
pub(crate) fn enter_mount_namespace() -> Result<(), ShimError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(ShimError::at("unshare mount namespace"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(ShimError::at("make mounts slaves"))
}

/// Mounts `overlay` on `target`, which exists.
pub(crate) fn mount_overlay(overlay: &OverlayMount, target: &Path) -> Result<(), ShimError> {
    let release = rustix::system::uname();
    if !takes_layers_one_by_one(&release.release().to_string_lossy()) {
        return mount_classic(overlay, target);
    }
    match mount_with_layers_one_by_one(overlay, target) {
        // A kernel that only calls itself new.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => mount_classic(overlay, target),
        other => other.map_err(ShimError::at("mount root filesystem")),
    }
}

fn mount_with_layers_one_by_one(overlay: &OverlayMount, target: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut kept_open = Vec::new();
    let mut set = |key: &str, path: &Path| -> rustix::io::Result<()> {
        if path.as_os_str().len() <= OPTION_LENGTH_MAX {
            return fsconfig_set_string(&context, key, path);
        }
        let fd = open_directory(path)?;
        let result = fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", fd.as_raw_fd()));
        kept_open.push(fd);
        result
    };
    for lower in &overlay.lower {
        set("lowerdir+", lower)?;
    }
    set("upperdir", &overlay.upper)?;
    set("workdir", &overlay.work)?;
    for (key, value) in PLAIN_LAYER_OPTIONS {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// All options in one page: layers are named by descriptors, which are short.
fn mount_classic(overlay: &OverlayMount, target: &Path) -> Result<(), ShimError> {
    let mut kept_open = Vec::new();
    let mut name = |path: &Path| -> rustix::io::Result<String> {
        let fd = open_directory(path)?;
        let text = fd.as_raw_fd().to_string();
        kept_open.push(fd);
        Ok(text)
    };
    let lower = overlay
        .lower
        .iter()
        .map(|path| name(path))
        .collect::<rustix::io::Result<Vec<_>>>()
        .map_err(ShimError::at("open image layer"))?;
    let upper = name(&overlay.upper).map_err(ShimError::at("open writable layer"))?;
    let work = name(&overlay.work).map_err(ShimError::at("open work directory"))?;
    let mut options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
    for (key, value) in PLAIN_LAYER_OPTIONS {
        options.push_str(&format!(",{key}={value}"));
    }
    // Relative names are looked up from the working directory.
    std::env::set_current_dir("/proc/self/fd").map_err(ShimError::at("enter /proc/self/fd"))?;
    let mounted = mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    std::env::set_current_dir("/").map_err(ShimError::at("leave /proc/self/fd"))?;
    mounted.map_err(|errno: Errno| ShimError::System { step: "mount root filesystem", source: errno.into() })
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
