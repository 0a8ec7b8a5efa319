//! The runtime makes empty files and directories where it mounts something. They are not
//! what the command changed, so they do not become part of its layer.

use crate::build::error::{BuildError, BuildResult};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where every container has a mount; parents after what is in them.
const ALWAYS: [&str; 7] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc"];

/// Removes mount points from `upper` that are empty and were made for the mount.
/// `layers` are the image's, topmost first; `mounts` further mount points, absolute.
pub(super) fn remove(upper: &Path, layers: &[PathBuf], mounts: &[String]) -> BuildResult<()> {
    for path in with_parents(mounts).iter().map(String::as_str).chain(ALWAYS) {
        let made = upper.join(path);
        let Ok(found) = made.symlink_metadata() else { continue };
        let removed = match below(layers, path) {
            // It is there without this layer too, so only a real difference counts.
            Some(below) if found.is_dir() && same_directory(&found, &below) => std::fs::remove_dir(&made),
            Some(_) => continue,
            None if found.is_dir() => std::fs::remove_dir(&made),
            None if found.is_file() && found.len() == 0 => std::fs::remove_file(&made),
            None => continue,
        };
        match removed {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {}
            Err(error) => return Err(BuildError::io(format!("remove the mount point /{path}"))(error)),
        }
    }
    Ok(())
}

/// The mount points and the directories above them, deepest first.
fn with_parents(mounts: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    for mount in mounts {
        let mut path = mount.trim_matches('/');
        while !path.is_empty() {
            paths.push(path.to_owned());
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    paths.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    paths.dedup();
    paths
}

/// What the image has at a path.
fn below(layers: &[PathBuf], path: &str) -> Option<Metadata> {
    let found = layers.iter().find_map(|layer| layer.join(path).symlink_metadata().ok())?;
    let is_whiteout = found.file_type().is_char_device() && found.rdev() == 0;
    (!is_whiteout).then_some(found)
}

fn same_directory(one: &Metadata, other: &Metadata) -> bool {
    other.is_dir() && (one.mode(), one.uid(), one.gid()) == (other.mode(), other.uid(), other.gid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_what_was_made_for_a_mount_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, layer) = (dir.path().join("upper"), dir.path().join("layer"));
        for path in ["proc", "dev", "etc", "data/deep/er", "keep"] {
            fs::create_dir_all(upper.join(path)).unwrap();
        }
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(upper.join("etc/hosts"), "").unwrap();
        fs::write(upper.join("etc/resolv.conf"), "written by the command").unwrap();
        fs::write(upper.join("dev/node"), "").unwrap();
        remove(&upper, std::slice::from_ref(&layer), &["/data/deep/er".to_owned()]).unwrap();
        let left = |path: &str| upper.join(path).exists();
        assert!(!left("proc") && !left("data") && !left("etc/hosts"));
        assert!(left("dev/node") && left("etc/resolv.conf") && left("keep"));

        fs::remove_file(upper.join("etc/resolv.conf")).unwrap();
        fs::set_permissions(upper.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
        remove(&upper, std::slice::from_ref(&layer), &[]).unwrap();
        assert!(left("etc"), "its mode was changed by the command");
        fs::set_permissions(layer.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
        remove(&upper, &[layer], &[]).unwrap();
        assert!(!left("etc"));
    }
}
