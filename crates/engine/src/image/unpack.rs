//! Writes a layer's tar below one directory, and never anywhere else.
//!
//! The tar is not trusted. Names that climb out of the root are refused; parents are
//! opened with `openat2(RESOLVE_IN_ROOT)`, so a symbolic link planted by an earlier
//! entry resolves inside the root as it would for the container itself; the last
//! component of a name is never followed.

use super::error::{ImageError, ImageResult};
use super::meter::Metered;
use super::tree;
use super::whiteout::{self, Mark};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Unpacked bytes of one layer, holes included.
const LAYER_BYTES_MAX: u64 = 512 * 1024 * 1024 * 1024;
/// Bytes in sparse files of one layer. Their holes cost nothing in the tar, but are read as zeros.
const SPARSE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
const COPY_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes read after the end mark so that the digest covers them.
const TRAILER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Permissions of parents that no entry describes.
const IMPLIED_DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const DEFAULT_ACCESS_XATTR: &str = "system.posix_acl_default";
const PAX_XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unpacked {
    /// Content bytes of regular files.
    pub(crate) size: u64,
    pub(crate) entries: u64,
}

/// Unpacks all of `stream` below `root`, which should be an empty directory.
///
/// Whiteouts become overlayfs's: character devices 0/0 and the opaque attribute. Reads
/// to the end of the stream. On error the directory is left as far as it got: the
/// caller unpacks into a temporary one and removes it.
pub(crate) fn unpack(stream: impl Read, root: &Path) -> ImageResult<Unpacked> {
    let mut unpacker = Unpacker::new(root)?;
    let (stream, meter) = Metered::new(stream);
    let mut archive = tar::Archive::new(stream);
    meter.expect_metadata();
    for entry in archive.entries().map_err(ImageError::Tar)? {
        let mut entry = entry.map_err(ImageError::Tar)?;
        unpacker.entry(&mut entry, &meter.expect_content())?;
        drain(&mut entry, u64::MAX).map_err(ImageError::Tar)?;
        meter.expect_metadata();
    }
    meter.expect_content();
    drain(&mut archive.into_inner(), TRAILER_BYTES_MAX).map_err(ImageError::Tar)?;
    unpacker.finish()
}

/// Reads and forgets; more than `limit` bytes is an error.
fn drain(reader: &mut impl Read, limit: u64) -> io::Result<()> {
    let count = io::copy(&mut reader.take(limit), &mut io::sink())?;
    if count == limit {
        return Err(io::Error::other("too much data after the end of the archive"));
    }
    Ok(())
}

struct Unpacker {
    root: OwnedFd,
    /// The parent of the entry before: most entries share it.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Set last: writing into a directory changes its time, and its default access list
    /// would change the files that are made in it.
    directories: Vec<(PathBuf, Timespec, Option<Vec<u8>>)>,
    done: Unpacked,
    bytes: u64,
    sparse_bytes: u64,
    buffer: Vec<u8>,
}

/// What an entry's header and extensions say, checked.
struct Attributes {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    modified: Timespec,
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// Of a directory, for what is made in it.
    default_access: Option<Vec<u8>>,
}

impl Unpacker {
    fn new(root: &Path) -> ImageResult<Self> {
        Ok(Self {
            root: tree::open_root(root)?,
            parent: None,
            directories: Vec::new(),
            done: Unpacked::default(),
            bytes: 0,
            sparse_bytes: 0,
            buffer: vec![0; COPY_BUFFER_BYTES],
        })
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, extended: &[(Vec<u8>, Vec<u8>)]) -> ImageResult<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        self.done.entries += 1;
        if self.done.entries > tree::TREE_ENTRIES_MAX {
            return Err(ImageError::Limit(format!("the archive has more than {} entries", tree::TREE_ENTRIES_MAX)));
        }
        let path = clean_name(&entry.path_bytes())?;
        let name = display(&path);
        let attributes =
            attributes(entry.header(), extended).map_err(|source| ImageError::Entry { name: name.clone(), source })?;
        let Some(base) = path.file_name() else {
            return self.root_attributes(kind, &attributes).map_err(|source| ImageError::Entry { name, source });
        };
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        self.open_parent(directory).map_err(|source| ImageError::Entry { name: name.clone(), source })?;
        match whiteout::mark(base) {
            Some(Mark::Opaque) => self.make_opaque(),
            Some(Mark::Metadata) => Ok(()),
            Some(Mark::Illegal) => return Err(ImageError::BadEntry { name, why: "not a legal whiteout" }),
            Some(Mark::Whiteout(hidden)) => self.whiteout(hidden),
            None if kind.is_hard_link() => return self.hard_link(entry, base, name),
            None => self.create(entry, kind, &path, base, &attributes),
        }
        .map_err(|source| ImageError::Entry { name, source })
    }

    /// An entry for the root itself (`./`) sets its attributes.
    fn root_attributes(&mut self, kind: EntryType, attributes: &Attributes) -> io::Result<()> {
        if !kind.is_dir() {
            return Err(io::Error::other("the root must be a directory"));
        }
        let fd = rustix::io::dup(&self.root)?;
        apply(fd.as_fd(), attributes)?;
        self.directories.push((PathBuf::new(), attributes.modified, attributes.default_access.clone()));
        Ok(())
    }

    /// Makes `self.parent` the directory `path`, creating what is missing.
    fn open_parent(&mut self, path: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(cached, _)| cached == path) {
            return Ok(());
        }
        let fd = match open_in_root(&self.root, path) {
            Err(Errno::NOENT) => self.create_parents(path)?,
            other => other?,
        };
        self.parent = Some((path.to_owned(), fd));
        Ok(())
    }

    fn create_parents(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = PathBuf::new();
        let mut fd = open_in_root(&self.root, &at)?;
        for component in path.components() {
            at.push(component);
            fd = match open_in_root(&self.root, &at) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&fd, component.as_os_str(), IMPLIED_DIRECTORY_MODE)?;
                    let made = open_in_root(&self.root, &at)?;
                    // The daemon's umask must not decide what containers may read.
                    rustix::fs::fchmod(&made, IMPLIED_DIRECTORY_MODE)?;
                    made
                }
                other => other?,
            };
        }
        Ok(fd)
    }

    fn parent(&self) -> io::Result<BorrowedFd<'_>> {
        let (_, fd) = self.parent.as_ref().ok_or_else(|| io::Error::other("no directory is open"))?;
        Ok(fd.as_fd())
    }

    fn make_opaque(&self) -> io::Result<()> {
        set_opaque(self.parent()?)
    }

    /// Hides `hidden` of the layers below. What this layer itself has under that name stays.
    fn whiteout(&self, hidden: &OsStr) -> io::Result<()> {
        let parent = self.parent()?;
        match existing(parent, hidden)? {
            None => Ok(rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                set_opaque(open_nofollow(parent, hidden)?.as_fd())
            }
            Some(_) => Ok(()),
        }
    }

    fn hard_link(&self, entry: &tar::Entry<'_, impl Read>, base: &OsStr, name: String) -> ImageResult<()> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = clean_name(&target)?;
        let Some(target_base) = target.file_name() else {
            return Err(ImageError::BadEntry { name, why: "a hard link to the root" });
        };
        let link = || -> io::Result<()> {
            let from = open_in_root(&self.root, target.parent().unwrap_or_else(|| Path::new("")))?;
            // Looked at first, so that a bad link does not cost the file it would replace.
            rustix::fs::statat(&from, target_base, AtFlags::SYMLINK_NOFOLLOW)?;
            self.make_room(base, false)?;
            Ok(rustix::fs::linkat(&from, target_base, self.parent()?, base, AtFlags::empty())?)
        };
        link()
            .map_err(|source| ImageError::Entry { name: format!("{name}\", a link to \"{}", display(&target)), source })
    }

    fn create(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        base: &OsStr,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let room = self.make_room(base, kind.is_dir())?;
        match kind {
            EntryType::Directory => return self.directory(path, base, attributes, room),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(entry, base, attributes);
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(OsStr::from_bytes(&target), self.parent()?, base)?;
                return self.apply_to_name(base, attributes, false);
            }
            EntryType::Char => self.node(entry, FileType::CharacterDevice, base, attributes)?,
            EntryType::Block => self.node(entry, FileType::BlockDevice, base, attributes)?,
            EntryType::Fifo => self.node(entry, FileType::Fifo, base, attributes)?,
            other => return Err(io::Error::other(format!("unknown entry type {:?}", char::from(other.as_byte())))),
        }
        self.apply_to_name(base, attributes, true)
    }

    /// Removes what stands at `base`, except a directory that `keep_directory` merges with.
    fn make_room(&self, base: &OsStr, keep_directory: bool) -> io::Result<Room> {
        let parent = self.parent()?;
        let Some(stat) = existing(parent, base)? else { return Ok(Room::Free) };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && keep_directory {
            return Ok(Room::Directory);
        }
        tree::remove_tree(parent, base)?;
        let hidden = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
        Ok(if hidden { Room::Whiteout } else { Room::Free })
    }

    fn directory(&mut self, path: &Path, base: &OsStr, attributes: &Attributes, room: Room) -> io::Result<()> {
        let parent = self.parent()?;
        if room != Room::Directory {
            rustix::fs::mkdirat(parent, base, IMPLIED_DIRECTORY_MODE)?;
        }
        let fd = open_nofollow(parent, base)?;
        apply(fd.as_fd(), attributes)?;
        if room == Room::Whiteout {
            set_opaque(fd.as_fd())?;
        }
        self.directories.push((path.to_owned(), attributes.modified, attributes.default_access.clone()));
        Ok(())
    }

    fn file(&mut self, entry: &mut tar::Entry<'_, impl Read>, base: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let size = entry.size();
        let sparse = entry.header().entry_type() == EntryType::GNUSparse;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LAYER_BYTES_MAX {
            return Err(io::Error::other(format!("the layer is larger than {LAYER_BYTES_MAX} bytes")));
        }
        self.sparse_bytes = self.sparse_bytes.saturating_add(if sparse { size } else { 0 });
        if self.sparse_bytes > SPARSE_BYTES_MAX {
            return Err(io::Error::other(format!("sparse files are larger than {SPARSE_BYTES_MAX} bytes")));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.parent()?, base, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(fd);
        let written = copy(entry, &mut file, &mut self.buffer, sparse)?;
        if written != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of the file"));
        }
        self.done.size += size;
        apply(file.as_fd(), attributes)?;
        set_times(&file, attributes.modified)
    }

    fn node(
        &mut self,
        entry: &tar::Entry<'_, impl Read>,
        file_type: FileType,
        base: &OsStr,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let header = entry.header();
        let device = match file_type {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(
                header.device_major()?.unwrap_or_default(),
                header.device_minor()?.unwrap_or_default(),
            ),
        };
        Ok(rustix::fs::mknodat(self.parent()?, base, file_type, attributes.mode, device)?)
    }

    /// Owner, mode and time of a name that cannot be opened.
    fn apply_to_name(&self, base: &OsStr, attributes: &Attributes, with_mode: bool) -> io::Result<()> {
        let parent = self.parent()?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, base, Some(attributes.uid), Some(attributes.gid), nofollow)?;
        if with_mode {
            // Just made by us and not a link, so following is not possible.
            rustix::fs::chmodat(parent, base, attributes.mode, AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(parent, base, &times(attributes.modified), nofollow)?)
    }

    fn finish(self) -> ImageResult<Unpacked> {
        for (path, modified, default_access) in self.directories.iter().rev() {
            // A later entry may have replaced the directory.
            if let Ok(fd) = open_in_root(&self.root, path) {
                if let Some(list) = default_access {
                    set_xattr(fd.as_fd(), OsStr::new(DEFAULT_ACCESS_XATTR), list)
                        .map_err(|e| ImageError::file("setting the default access of", path)(e))?;
                }
                set_times(&fd, *modified).map_err(|e| ImageError::file("setting the time of", path)(e))?;
            }
        }
        Ok(self.done)
    }
}

/// What was at a name before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Free,
    Directory,
    Whiteout,
}

/// Resolves a name's `.` and `..` and drops a leading `/`. A name that climbs out is an error.
fn clean_name(name: &[u8]) -> ImageResult<PathBuf> {
    let climbs = || ImageError::Climbs(String::from_utf8_lossy(name).into_owned());
    if name.contains(&0) {
        return Err(climbs());
    }
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir if !clean.pop() => return Err(climbs()),
            Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn open_in_root(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    crate::sys::resolve::openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, how)
}

fn open_nofollow(parent: BorrowedFd<'_>, base: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, base, flags, Mode::empty())?)
}

fn existing(parent: BorrowedFd<'_>, base: &OsStr) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn set_opaque(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, whiteout::OPAQUE_XATTR, b"y", XattrFlags::empty())?)
}

/// Owner first: changing it clears set-user-id bits and file capabilities.
fn apply(fd: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(attributes.uid), Some(attributes.gid))?;
    rustix::fs::fchmod(fd, attributes.mode)?;
    attributes.xattrs.iter().try_for_each(|(name, value)| set_xattr(fd, name, value))
}

fn set_xattr(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        // The file system cannot hold it; Docker goes on as well.
        Err(Errno::NOTSUP) => {
            tracing::warn!(name = %name.display(), "extended attribute not supported here");
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

fn set_times(fd: impl AsFd, modified: Timespec) -> io::Result<()> {
    Ok(rustix::fs::futimens(fd, &times(modified))?)
}

fn attributes(header: &tar::Header, extended: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Attributes> {
    let id = |value: u64, what: &str| {
        // The all-ones id means "leave unchanged" to chown.
        u32::try_from(value).ok().filter(|v| *v != u32::MAX).ok_or_else(|| io::Error::other(format!("{what} {value}")))
    };
    let fields = header.as_old();
    let mode = Mode::from_raw_mode(number(&fields.mode, || header.mode().map(u64::from))? as u32 & 0o7777);
    let uid = Uid::from_raw(id(number(&fields.uid, || header.uid())?, "illegal user id")?);
    let gid = Gid::from_raw(id(number(&fields.gid, || header.gid())?, "illegal group id")?);
    let seconds = number(&fields.mtime, || header.mtime())?;
    let mut modified = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    let (mut xattrs, mut default_access) = (Vec::new(), None);
    for (key, value) in extended {
        if key == b"mtime" {
            modified = parse_time(value).ok_or_else(|| io::Error::other("illegal mtime"))?;
        } else if let Some(name) = key.strip_prefix(PAX_XATTR_PREFIX) {
            if name == DEFAULT_ACCESS_XATTR.as_bytes() {
                default_access = Some(value.clone());
            } else if whiteout::is_portable_xattr(name) {
                xattrs.push((OsString::from_vec(name.to_vec()), value.clone()));
            } else {
                tracing::debug!(name = %String::from_utf8_lossy(name), "extended attribute of a layer left out");
            }
        }
    }
    Ok(Attributes { mode, uid, gid, modified, xattrs, default_access })
}

/// A numeric field; an empty one counts as zero, as it does for others who read tars.
fn number(field: &[u8], read: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read() }
}

/// Seconds since the epoch with an optional fraction.
fn parse_time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec: i64 = seconds.parse().ok()?;
    if fraction.len() > 64 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}")[..9].parse().ok()?;
    // A negative time counts its fraction downwards.
    Some(if seconds.starts_with('-') && nanoseconds > 0 {
        Timespec { tv_sec: tv_sec.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds }
    } else {
        Timespec { tv_sec, tv_nsec: nanoseconds }
    })
}

/// Copies an entry's content; a sparse one keeps its holes.
fn copy(from: &mut impl Read, file: &mut std::fs::File, buffer: &mut [u8], sparse: bool) -> io::Result<u64> {
    let mut total = 0_u64;
    loop {
        let count = match from.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let data = &buffer[..count];
        if sparse && data.iter().all(|b| *b == 0) {
            file.seek(SeekFrom::Current(count as i64))?;
        } else {
            file.write_all(data)?;
        }
        total += count as u64;
    }
    if sparse {
        file.set_len(total)?;
    }
    Ok(total)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
