//! Files given to a container by value. They may be secrets, so they live in memory that
//! is never swapped out: a tmpfs that says so, or a ramfs where the kernel has no such tmpfs.

use crate::container::spec::BindFile;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use skep_model::container::InjectedFile;
use skep_model::{Error, Result};
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

const DIRECTORY: &str = "files";

/// Writes `files` below `run_dir` and says where in the container they go.
pub(crate) fn inject(run_dir: &Path, files: &[InjectedFile]) -> Result<Vec<BindFile>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let dir = run_dir.join(DIRECTORY);
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    mount_memory(&dir)?;
    let mut out = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let path = dir.join(number.to_string());
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        open.write_all(&file.data)?;
        fchown(&open, Some(file.uid), Some(file.gid))?;
        open.set_permissions(Permissions::from_mode(file.mode))?;
        let source = path.to_string_lossy().into_owned();
        out.push(BindFile { source, target: super::mounts::clean(&file.target), readonly: true });
    }
    Ok(out)
}

/// Takes the mount away again, if there is one.
pub(crate) fn unmount(run_dir: &Path) {
    let dir = run_dir.join(DIRECTORY);
    if dir.is_dir() {
        // Not a mount point where mounting it failed.
        let _ = umount2(&dir, MntFlags::MNT_DETACH);
    }
}

fn mount_memory(dir: &Path) -> Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // Since Linux 6.4; before that the option is unknown.
    let mounted = mount(Some("skep-files"), dir, Some("tmpfs"), flags, Some("mode=700,noswap"));
    let mounted = mounted.or_else(|_| mount(Some("skep-files"), dir, Some("ramfs"), flags, Some("mode=700")));
    mounted.map_err(|errno| Error::internal(format!("mount memory for secrets: {errno}")))
}
