//! A path of stacked layers without mounting them: what to stack to see it alone.

use super::error::{BuildError, BuildResult};
use crate::image::is_opaque;
use crate::sys::mounts::{Tree, fd_path};
use crate::volume::copy::copy_tree;
use rustix::fs::OFlags;
use std::fs::Permissions;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// What a path of stacked layers is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Directories to be stacked, topmost first.
    Directories(Vec<PathBuf>),
    File(PathBuf),
}

/// What `path` is in the layers (topmost first). Links are followed as in the image.
///
/// # Errors
/// It is not there.
pub(crate) fn find(layers: &[PathBuf], path: &str) -> BuildResult<Part> {
    let real = real_path(layers, path)?;
    let mut directories = Vec::new();
    for layer in layers {
        match look(layer, &real)? {
            Look::Nothing => {}
            Look::Hidden => break,
            Look::File(path) if directories.is_empty() => return Ok(Part::File(path)),
            // A file below a directory is covered by it.
            Look::File(_) => break,
            Look::Directory { path, is_bottom } => {
                directories.push(path);
                if is_bottom {
                    break;
                }
            }
        }
    }
    if directories.is_empty() && !real.as_os_str().is_empty() {
        return Err(missing(path));
    }
    Ok(Part::Directories(directories))
}

/// Copies what the layers (topmost first) show as one into an empty directory.
pub(crate) fn copy(layers: &[PathBuf], to: &Path) -> BuildResult<()> {
    let doing = || "copy layers of an image";
    let tree = Tree::of_layers(layers).map_err(BuildError::io(doing()))?;
    let root = tree.open("/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(BuildError::io(doing()))?;
    copy_tree(&fd_path(&root), to).map_err(BuildError::io(doing()))
}

/// Gives a new directory the owner and permissions of another.
pub(crate) fn like(new: &Path, other: &Path) -> BuildResult<()> {
    let doing = || format!("prepare {}", new.display());
    let found = std::fs::metadata(other).map_err(BuildError::io(doing()))?;
    std::os::unix::fs::chown(new, Some(found.uid()), Some(found.gid())).map_err(BuildError::io(doing()))?;
    std::fs::set_permissions(new, Permissions::from_mode(found.mode() & 0o7777)).map_err(BuildError::io(doing()))
}

/// The path below the root, without links on the way.
fn real_path(layers: &[PathBuf], path: &str) -> BuildResult<PathBuf> {
    let names = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    if layers.is_empty() || names.count() == 0 {
        return Ok(PathBuf::new());
    }
    let tree = Tree::of_layers(layers).map_err(BuildError::io("look into an image"))?;
    let root = tree.open("/", OFlags::PATH).map_err(BuildError::io("look into an image"))?;
    let found = tree.open(path, OFlags::PATH).map_err(|_| missing(path))?;
    let name = |fd| std::fs::read_link(fd_path(fd)).map_err(BuildError::io(format!("find {path}")));
    let (root, found) = (name(&root)?, name(&found)?);
    found.strip_prefix(&root).map(Path::to_owned).map_err(|_| missing(path))
}

fn missing(path: &str) -> BuildError {
    BuildError::Instruction(format!("the source of a mount is not there: {path}"))
}

/// What one layer says of a path.
enum Look {
    Nothing,
    /// Gone in this layer: those below do not count.
    Hidden,
    File(PathBuf),
    /// `is_bottom`: layers below do not show through.
    Directory {
        path: PathBuf,
        is_bottom: bool,
    },
}

fn look(layer: &Path, path: &Path) -> BuildResult<Look> {
    let mut at = layer.to_owned();
    let mut is_bottom = false;
    for part in std::iter::once(Path::new("")).chain(path.components().map(|part| Path::new(part.as_os_str()))) {
        if !part.as_os_str().is_empty() {
            at.push(part);
        }
        let found = match at.symlink_metadata() {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(if is_bottom { Look::Hidden } else { Look::Nothing });
            }
            Err(error) => return Err(BuildError::io(format!("look at {}", at.display()))(error)),
        };
        if found.file_type().is_char_device() && found.rdev() == 0 {
            return Ok(Look::Hidden);
        }
        if !found.is_dir() {
            return Ok(if at == layer.join(path) { Look::File(at) } else { Look::Hidden });
        }
        let directory = std::fs::File::open(&at).map_err(BuildError::io(format!("open {}", at.display())))?;
        is_bottom |= is_opaque(directory.as_fd());
    }
    Ok(Look::Directory { path: at, is_bottom })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_is_what_its_layers_say() {
        let dir = tempfile::tempdir().unwrap();
        let [top, middle, bottom] = ["top", "middle", "bottom"].map(|name| dir.path().join(name));
        for path in [top.join("a/b"), middle.join("a/b"), bottom.join("a/b"), bottom.join("gone"), bottom.join("deep")]
        {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(bottom.join("a/file"), "x").unwrap();
        symlink("a/b", top.join("link")).unwrap();
        rustix::fs::mknodat(CWD, top.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        rustix::fs::setxattr(middle.join("a"), crate::image::whiteout::OPAQUE_XATTR, b"y", XattrFlags::empty())
            .unwrap();
        let layers = [top.clone(), middle.clone(), bottom.clone()];
        let stacked = |path: &str| find(&layers, path);
        assert_eq!(stacked("/a/b").unwrap(), Part::Directories(vec![top.join("a/b"), middle.join("a/b")]));
        assert_eq!(stacked("link").unwrap(), stacked("a/b").unwrap());
        assert_eq!(stacked("").unwrap(), Part::Directories(layers.to_vec()));
        assert_eq!(stacked("deep").unwrap(), Part::Directories(vec![bottom.join("deep")]));
        for gone in ["gone", "a/file", "nope", "../../etc/passwd"] {
            assert!(stacked(gone).is_err(), "{gone}");
        }
        assert_eq!(find(std::slice::from_ref(&bottom), "a/file").unwrap(), Part::File(bottom.join("a/file")));
        assert_eq!(find(&[], "/").unwrap(), Part::Directories(Vec::new()));
    }
}
