//! File work inside an image's tree, in a mount namespace of its own.
//!
//! The work runs on one short-lived thread. Its mounts are visible to no other thread
//! or process and vanish with it, also when the daemon is killed; its root directory
//! may be changed into the tree, so that a symbolic link in the image cannot lead out.

use super::error::{BuildError, BuildResult};
use nix::sched::{CloneFlags, unshare};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Bytes of mount options the kernel takes in one page.
const MOUNT_OPTIONS_BYTES_MAX: usize = 4095;
/// Permissions of an image's root when nothing is below it.
const ROOT_MODE: u32 = 0o755;

/// What the work can do beyond plain file calls.
#[derive(Debug, Default)]
pub(crate) struct Space {
    is_private: bool,
    /// The root before [`Space::enter`].
    outside: Option<OwnedFd>,
    mounts: Vec<PathBuf>,
}

/// Runs the work on its own thread and undoes its mounts.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce(&mut Space) -> BuildResult<T> + Send + 'static,
) -> BuildResult<T> {
    let (done, result) = oneshot::channel();
    // The thread ends with the work; the channel tells when.
    std::thread::Builder::new()
        .name("build-files".into())
        .spawn(move || {
            let mut space = Space::default();
            let result = work(&mut space);
            space.close();
            let _ = done.send(result);
        })
        .map_err(BuildError::io("start a thread for build files"))?;
    result.await.map_err(|_| BuildError::Io {
        doing: "work on build files".into(),
        source: std::io::Error::other("the thread panicked"),
    })?
}

impl Space {
    /// The tree of stacked layers (topmost first), to be read only. `at` is an empty directory.
    pub(crate) fn mount_read_only(&mut self, layers: &[PathBuf], at: &Path) -> BuildResult<PathBuf> {
        match layers {
            [] => Ok(at.to_owned()),
            [only] => Ok(only.clone()),
            _ => {
                self.mount(layers, None, at, MountFlags::RDONLY)?;
                Ok(at.to_owned())
            }
        }
    }

    /// The tree of stacked layers with changes going to `upper`. Without layers that is `upper` itself.
    pub(crate) fn mount_writable(
        &mut self,
        layers: &[PathBuf],
        upper: &Path,
        work: &Path,
        at: &Path,
    ) -> BuildResult<PathBuf> {
        like_the_root_below(upper, layers.first().map(PathBuf::as_path))?;
        if layers.is_empty() {
            return Ok(upper.to_owned());
        }
        self.mount(layers, Some((upper, work)), at, MountFlags::empty())?;
        Ok(at.to_owned())
    }

    /// Makes the tree this thread's root directory.
    pub(crate) fn enter(&mut self, tree: &Path) -> BuildResult<()> {
        self.make_private()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let outside = rustix::fs::open("/", flags, Mode::empty()).map_err(BuildError::io("open the root directory"))?;
        rustix::process::chroot(tree).map_err(BuildError::io(format!("enter {}", tree.display())))?;
        self.outside = Some(outside);
        rustix::process::chdir("/").map_err(BuildError::io("enter the image's root directory"))
    }

    /// Undoes [`Space::enter`].
    pub(crate) fn leave(&mut self) -> BuildResult<()> {
        let Some(outside) = self.outside.take() else { return Ok(()) };
        let left = rustix::process::fchdir(&outside).and_then(|()| rustix::process::chroot("."));
        left.map_err(BuildError::io("leave an image's tree"))
    }

    fn mount(
        &mut self,
        layers: &[PathBuf],
        upper: Option<(&Path, &Path)>,
        at: &Path,
        flags: MountFlags,
    ) -> BuildResult<()> {
        self.make_private()?;
        let base = common_parent(layers);
        // Relative names are short: the options of an image with many layers must fit one page.
        rustix::process::chdir(&base).map_err(BuildError::io(format!("enter {}", base.display())))?;
        let options = overlay_options(&base, layers, upper);
        let doing = || format!("mount the layers of an image at {}", at.display());
        if options.len() > MOUNT_OPTIONS_BYTES_MAX {
            let source = std::io::Error::other(format!("{} layers are too many for overlayfs", layers.len()));
            return Err(BuildError::Io { doing: doing(), source });
        }
        let options = CString::new(options)
            .map_err(|_| BuildError::Context("the data root's path contains a zero byte".to_owned()))?;
        rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str()).map_err(BuildError::io(doing()))?;
        self.mounts.push(at.to_owned());
        Ok(())
    }

    fn make_private(&mut self) -> BuildResult<()> {
        if self.is_private {
            return Ok(());
        }
        // Also takes this thread's root and working directory away from the other threads.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
            .map_err(|errno| BuildError::io("make a mount namespace")(std::io::Error::from(errno)))?;
        self.is_private = true;
        // Ours never leave; the host's unmounts still arrive, so that no disk is held busy.
        rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(BuildError::io("make the mount namespace private"))
    }

    /// Leaves the tree and unmounts. What fails is undone by the end of the thread.
    fn close(&mut self) {
        if let Err(error) = self.leave() {
            tracing::debug!(%error, "could not leave an image's tree");
        }
        for mount in self.mounts.drain(..).rev() {
            if let Err(error) = rustix::mount::unmount(&mount, UnmountFlags::DETACH) {
                tracing::debug!(%error, mount = %mount.display(), "could not unmount an image's tree");
            }
        }
    }
}

/// The upper directory shows as the root, so it takes over what the root was below.
fn like_the_root_below(upper: &Path, top_layer: Option<&Path>) -> BuildResult<()> {
    let doing = || format!("prepare {}", upper.display());
    let below = top_layer.map(std::fs::metadata).transpose().map_err(BuildError::io(doing()))?;
    let mode = below.as_ref().map_or(ROOT_MODE, |below| below.mode() & 0o7777);
    if let Some(below) = &below {
        std::os::unix::fs::chown(upper, Some(below.uid()), Some(below.gid())).map_err(BuildError::io(doing()))?;
    }
    std::fs::set_permissions(upper, Permissions::from_mode(mode)).map_err(BuildError::io(doing()))
}

fn common_parent(paths: &[PathBuf]) -> PathBuf {
    let mut paths = paths.iter();
    let first = paths.next().and_then(|path| path.parent()).unwrap_or_else(|| Path::new("/"));
    paths.fold(first.to_owned(), |common, path| {
        common.components().zip(path.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    })
}

fn overlay_options(base: &Path, layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Vec<u8> {
    let mut options = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        let relative = layer.strip_prefix(base).ok().filter(|path| !path.as_os_str().is_empty());
        escape(relative.unwrap_or(layer), &mut options);
    }
    if let Some((upper, work)) = upper {
        options.extend(b",upperdir=");
        escape(upper, &mut options);
        options.extend(b",workdir=");
        escape(work, &mut options);
        // The upper directory is read as a layer afterwards: no overlayfs shorthands in it.
        options.extend(b",redirect_dir=off,metacopy=off,index=off");
    }
    options
}

/// A colon separates layers, a comma options.
fn escape(path: &Path, options: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_relative_to_what_they_share() {
        let layers = [PathBuf::from("/d/layers/b/diff"), PathBuf::from("/d/layers/a:1/diff")];
        let base = common_parent(&layers);
        assert_eq!(base, Path::new("/d/layers"));
        assert_eq!(overlay_options(&base, &layers, None), b"lowerdir=b/diff:a\\:1/diff");
    }
}
