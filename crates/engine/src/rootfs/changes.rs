//! What a writable layer changed, as `docker diff` lists it.

use crate::image::tree;
use crate::image::{ImageError, ImageResult, is_opaque};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How a path differs. The numbers are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute inside the container.
    pub path: String,
    pub kind: ChangeKind,
}

pub(super) fn changes(upper: &Path, lower: &[PathBuf]) -> ImageResult<Vec<Change>> {
    let lower = Lower::open(lower)?;
    let root = tree::open_root(upper)?;
    let changes = std::cell::RefCell::new(Vec::new());
    let add = |path: &Path, kind| changes.borrow_mut().push(Change { path: format!("/{}", path.display()), kind });
    tree::walk(
        root.as_fd(),
        |directory, fd| {
            if is_opaque(fd) && !directory.as_os_str().is_empty() {
                let here: BTreeSet<OsString> = names(fd.try_clone_to_owned(), directory)?.into_iter().collect();
                for name in lower.names(directory)? {
                    if !here.contains(&name) {
                        add(&directory.join(name), ChangeKind::Deleted);
                    }
                }
            }
            Ok::<(), ImageError>(())
        },
        |node| {
            let below = lower.contains(node.path)?;
            match (node.is_whiteout(), below) {
                (true, true) => add(node.path, ChangeKind::Deleted),
                // Made and deleted again by the container, or already absent.
                (true, false) => {}
                (false, true) => add(node.path, ChangeKind::Modified),
                (false, false) => add(node.path, ChangeKind::Added),
            }
            Ok(())
        },
    )?;
    let mut changes = changes.into_inner();
    changes.sort();
    Ok(changes)
}

fn names(directory: std::io::Result<OwnedFd>, path: &Path) -> ImageResult<Vec<OsString>> {
    let directory = directory.map_err(ImageError::file("listing", path))?;
    tree::names(&directory).map_err(|e| ImageError::file("listing", path)(e.into()))
}

/// The layers below, seen as one.
struct Lower {
    /// Topmost first.
    roots: Vec<OwnedFd>,
}

/// What one layer says of a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It has it. `merges`: a directory that the layers below add to.
    Here { merges: bool },
    /// Nothing; ask the next layer.
    No,
    /// Nothing, and it hides the layers below.
    Hidden,
}

impl Lower {
    fn open(layers: &[PathBuf]) -> ImageResult<Self> {
        Ok(Self { roots: layers.iter().map(|path| tree::open_root(path)).collect::<ImageResult<_>>()? })
    }

    fn contains(&self, path: &Path) -> ImageResult<bool> {
        for root in &self.roots {
            match look(root, path)? {
                Found::Here { .. } => return Ok(true),
                Found::Hidden => return Ok(false),
                Found::No => {}
            }
        }
        Ok(false)
    }

    /// The names a directory has in all layers together.
    fn names(&self, path: &Path) -> ImageResult<BTreeSet<OsString>> {
        let mut seen = BTreeSet::new();
        let mut hidden = BTreeSet::new();
        for root in &self.roots {
            match look(root, path)? {
                Found::No => continue,
                Found::Hidden => break,
                Found::Here { merges } => {
                    if let Ok(directory) = tree::open_dir(root.as_fd(), path) {
                        for name in names(Ok(directory), path)? {
                            let is_new = !hidden.contains(&name);
                            if is_new && matches!(look(root, &path.join(&name))?, Found::Here { .. }) {
                                seen.insert(name);
                            } else {
                                hidden.insert(name);
                            }
                        }
                    }
                    if !merges {
                        break;
                    }
                }
            }
        }
        Ok(seen)
    }
}

/// Looks for `path` in one layer, minding whiteouts and opaque directories on the way.
fn look(root: &OwnedFd, path: &Path) -> ImageResult<Found> {
    let failed = |e: Errno| ImageError::file("looking at", path)(e.into());
    let mut directory = tree::open_dir(root.as_fd(), Path::new("")).map_err(failed)?;
    let mut hides = false;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let name = component.as_os_str();
        let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(if hides { Found::Hidden } else { Found::No }),
            Err(e) => return Err(failed(e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return Ok(Found::Hidden);
        }
        let is_last = components.peek().is_none();
        if kind != FileType::Directory {
            // A file where a directory is asked for hides the directories below it.
            return Ok(if is_last { Found::Here { merges: false } } else { Found::Hidden });
        }
        directory = tree::open_dir(directory.as_fd(), Path::new(name)).map_err(failed)?;
        hides |= is_opaque(directory.as_fd());
    }
    Ok(Found::Here { merges: !hides })
}
