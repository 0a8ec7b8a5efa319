//! Writing into an image's tree. Runs with the tree as root directory, so plain paths
//! mean paths of the image, symbolic links included.

use super::super::context::Limited;
use super::super::error::{BuildError, BuildResult};
use super::Request;
use super::owner::Owner;
use super::source::{Entry, Item, Kind, SourceTree, plain};
use crate::image::unpack;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use skep_model::Error;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of directories that nobody described.
const IMPLIED_DIRECTORY_MODE: u32 = 0o755;
/// Permissions of files given in the Dockerfile.
const INLINE_FILE_MODE: u32 = 0o644;
/// Bytes an archive may have after decompression.
const ARCHIVE_BYTES_MAX: u64 = 64 << 30;
/// The one attribute a copy keeps, as Docker does: file capabilities.
const CAPABILITY_XATTR: &str = "security.capability";

/// Copies all items.
pub(crate) fn write(tree: &SourceTree, items: &[Item], request: &Request, owner: Owner) -> BuildResult<()> {
    let destination = Path::new(&request.destination);
    let is_directory =
        request.destination.ends_with('/') || request.destination.ends_with("/.") || destination.is_dir();
    let writer = Writer { tree, owner, chmod: request.chmod };
    for item in items {
        match item {
            Item::Directory(entries) => writer.directory(entries, destination)?,
            Item::File { name, entry } => {
                let path = place(destination, name, is_directory, owner)?;
                writer.entry(entry, &path)?;
            }
            Item::Other { tree, name, entry } => {
                let path = place(destination, name, is_directory, owner)?;
                Writer { tree, ..writer }.entry(entry, &path)?;
            }
            Item::Inline { name, content } => {
                let path = place(destination, OsStr::new(name), is_directory, owner)?;
                writer.inline(content, &path)?;
            }
            Item::Archive { entry, .. } => {
                make_directories(destination, owner)?;
                unpack(tree, entry, destination)?;
            }
            Item::OtherArchive { tree, entry } => {
                make_directories(destination, owner)?;
                unpack(tree, entry, destination)?;
            }
            Item::OtherDirectory { tree, entries } => Writer { tree, ..writer }.directory(entries, destination)?,
        }
    }
    Ok(())
}

/// Where a single file goes; its parents are made.
fn place(destination: &Path, name: &OsStr, is_directory: bool, owner: Owner) -> BuildResult<PathBuf> {
    let path = if is_directory { destination.join(name) } else { destination.to_owned() };
    make_directories(path.parent().unwrap_or_else(|| Path::new("/")), owner)?;
    // A link that leads to a file stands for the file, as for `cp`.
    let is_link = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
    Ok(if is_link { path.canonicalize().unwrap_or(path) } else { path })
}

/// `mkdir -p`; new directories get the owner.
pub(crate) fn make_directories(path: &Path, owner: Owner) -> BuildResult<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(not_a_directory(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(not_a_directory(path)),
        Err(error) => return Err(BuildError::io(format!("stat {}", path.display()))(error)),
    }
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    // A dangling link stands for the directory it names. A loop of links ended above.
    if let Ok(link) = std::fs::read_link(path) {
        return make_directories(&parent.join(link), owner);
    }
    make_directories(parent, owner)?;
    make_directory(path, IMPLIED_DIRECTORY_MODE)?;
    chown(path, owner)
}

fn not_a_directory(path: &Path) -> BuildError {
    BuildError::Instruction(format!("cannot copy to non-directory: {}", path.display()))
}

fn make_directory(path: &Path, mode: u32) -> BuildResult<()> {
    let doing = || format!("create the directory {}", path.display());
    DirBuilder::new().mode(mode).create(path).map_err(BuildError::io(doing()))?;
    // The umask took bits off.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(BuildError::io(doing()))
}

fn chown(path: &Path, owner: Owner) -> BuildResult<()> {
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(BuildError::io(format!("set the owner of {}", path.display())))
}

/// An archive's content into a directory, with the archive's owners.
fn unpack(tree: &SourceTree, entry: &Entry, destination: &Path) -> BuildResult<()> {
    let name = entry.source.display();
    let limited = Limited::new(plain(tree, &entry.source)?, ARCHIVE_BYTES_MAX);
    unpack::unpack(limited, destination)
        .map(drop)
        .map_err(|error| BuildError::Instruction(format!("unpacking {name}: {}", Error::from(error))))
}

#[derive(Clone, Copy)]
struct Writer<'a> {
    tree: &'a SourceTree,
    owner: Owner,
    chmod: Option<u32>,
}

impl Writer<'_> {
    /// A directory's content into the destination.
    fn directory(&self, entries: &[Entry], destination: &Path) -> BuildResult<()> {
        let mut made = Vec::new();
        for entry in entries {
            if entry.target.as_os_str().is_empty() {
                if destination.is_dir() {
                    continue;
                }
                make_directories(destination, self.owner)?;
                self.attributes(entry, destination)?;
                made.push((entry, destination.to_owned()));
                continue;
            }
            let path = destination.join(&entry.target);
            self.entry(entry, &path)?;
            if entry.kind == Kind::Directory {
                made.push((entry, path));
            }
        }
        // Filling a directory changed its time.
        made.iter().rev().try_for_each(|(entry, path)| set_times(entry, path))
    }

    /// One entry; what is in its way is replaced, but a directory only by a directory.
    fn entry(&self, entry: &Entry, path: &Path) -> BuildResult<()> {
        let present = match std::fs::symlink_metadata(path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(BuildError::io(format!("stat {}", path.display()))(error)),
        };
        let doing = || format!("create {}", path.display());
        if entry.kind == Kind::Directory {
            return self.subdirectory(entry, path, present.as_ref());
        }
        remove_present(path, present.as_ref())?;
        match &entry.kind {
            Kind::Directory => {}
            Kind::File => self.file(entry, path)?,
            Kind::Link(target) => std::os::unix::fs::symlink(target, path).map_err(BuildError::io(doing()))?,
            Kind::Fifo => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(entry.mode), 0)
                .map_err(BuildError::io(doing()))?,
            Kind::Device(is_character, number) => {
                let kind = if *is_character { FileType::CharacterDevice } else { FileType::BlockDevice };
                rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(entry.mode), *number)
                    .map_err(BuildError::io(doing()))?;
            }
        }
        self.attributes(entry, path)?;
        set_times(entry, path)
    }

    fn subdirectory(&self, entry: &Entry, path: &Path, present: Option<&Metadata>) -> BuildResult<()> {
        match present {
            Some(found) if found.is_dir() => {}
            // A link to a directory keeps being one.
            Some(found) if found.is_symlink() && path.is_dir() => return Ok(()),
            Some(_) => {
                remove_present(path, present)?;
                make_directory(path, entry.mode)?;
            }
            None => make_directory(path, entry.mode)?,
        }
        self.attributes(entry, path)
    }

    fn file(&self, entry: &Entry, path: &Path) -> BuildResult<()> {
        let mut from = self.tree.open_file(&entry.source)?;
        let mut to = create_file(path)?;
        std::io::copy(&mut from, &mut to).map_err(BuildError::io(format!("write {}", path.display())))?;
        let capability = xattr::FileExt::get_xattr(&from, CAPABILITY_XATTR).ok().flatten();
        // A change of owner clears capabilities, so they come last.
        self.attributes(entry, path)?;
        if let Some(value) = capability {
            xattr::FileExt::set_xattr(&to, CAPABILITY_XATTR, &value)
                .map_err(BuildError::io(format!("set the capabilities of {}", path.display())))?;
        }
        Ok(())
    }

    fn inline(&self, content: &str, path: &Path) -> BuildResult<()> {
        let present = std::fs::symlink_metadata(path).ok();
        remove_present(path, present.as_ref())?;
        let doing = || format!("write {}", path.display());
        let mut file = create_file(path)?;
        file.write_all(content.as_bytes()).map_err(BuildError::io(doing()))?;
        let mode = Permissions::from_mode(self.chmod.unwrap_or(INLINE_FILE_MODE));
        file.set_permissions(mode).map_err(BuildError::io(doing()))?;
        chown(path, self.owner)
    }

    /// Owner, then permissions: changing the owner clears set-id bits.
    fn attributes(&self, entry: &Entry, path: &Path) -> BuildResult<()> {
        if entry.kind == Kind::File && xattr::get(path, CAPABILITY_XATTR).is_ok_and(|value| value.is_some()) {
            return Ok(());
        }
        chown(path, self.owner)?;
        if matches!(entry.kind, Kind::Link(_)) {
            return Ok(());
        }
        let mode = Permissions::from_mode(self.chmod.unwrap_or(entry.mode));
        std::fs::set_permissions(path, mode).map_err(BuildError::io(format!("set the mode of {}", path.display())))
    }
}

fn create_file(path: &Path) -> BuildResult<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BuildError::io(format!("create {}", path.display())))
}

fn remove_present(path: &Path, present: Option<&Metadata>) -> BuildResult<()> {
    match present {
        None => Ok(()),
        Some(found) if found.is_dir() => {
            let message = format!("cannot overwrite directory {} with non-directory", path.display());
            Err(BuildError::Instruction(message))
        }
        Some(_) => std::fs::remove_file(path).map_err(BuildError::io(format!("replace {}", path.display()))),
    }
}

fn set_times(entry: &Entry, path: &Path) -> BuildResult<()> {
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: entry.modified.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(BuildError::io(format!("set the time of {}", path.display())))
}
