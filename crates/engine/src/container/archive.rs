//! Files in and out of a container: `cp`, `export`, `diff`. Every path is resolved
//! with the container's root as the root, so that no link of its making leads outside.

use crate::container::inner::Inner;
use crate::container::mounts::clean;
use crate::image::tree;
use crate::sys::mounts::{Tree, fd_path};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use skep_model::container::{ContainerInfo, MountKind};
use skep_model::{Error, Result, Timestamp};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::unix::pipe;

/// What a path inside a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    /// Kind and permissions as `stat` has them.
    pub mode: u32,
    pub modified: Timestamp,
    /// Where a symbolic link points, else empty.
    pub link_target: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// A difference to the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub path: String,
    pub kind: ChangeKind,
}

/// A tar archive as it is made.
pub type ArchiveStream = Box<dyn AsyncRead + Send + Unpin>;

/// A tree, and the path in it.
struct Place {
    tree: Tree,
    path: String,
}

impl Inner {
    pub(crate) async fn archive_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        let (_, info) = self.container_of(name)?;
        let place = self.place(&info, path)?;
        stat_in(&place.tree, &place.path).map_err(|error| no_such_path(&info, path, &error))
    }

    pub(crate) async fn archive_get(&self, name: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let (_, info) = self.container_of(name)?;
        let place = self.place(&info, path)?;
        let stat = stat_in(&place.tree, &place.path).map_err(|error| no_such_path(&info, path, &error))?;
        let name = stat.name.clone();
        let stream = self.stream(move |writer| {
            let mut builder = tar::Builder::new(writer);
            append_path(&mut builder, &place.tree, &place.path, Path::new(&name))?;
            builder.finish()
        })?;
        Ok((stat, stream))
    }

    pub(crate) async fn archive_put(
        &self,
        name: &str,
        path: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
        refuse_replacing_directories: bool,
    ) -> Result<()> {
        let (_, info) = self.container_of(name)?;
        if info.host.readonly_rootfs
            && !info.mounts.iter().any(|point| point.rw && path.starts_with(&point.destination))
        {
            return Err(Error::forbidden("container rootfs is marked read-only"));
        }
        let place = self.place(&info, path)?;
        let target = place.tree.open(&place.path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOTDIR) => Error::invalid("extraction point is not a directory"),
                _ => no_such_path(&info, path, &error),
            }
        })?;
        let (mut sender, receiver) = pipe::pipe()?;
        let receiver = receiver.into_blocking_fd()?;
        let work = tokio::task::spawn_blocking(move || {
            extract(File::from(receiver), &place.tree, &target, refuse_replacing_directories)
        });
        let mut archive = archive;
        // A reader that stopped early has its own reason, told by its result.
        let copied = tokio::io::copy(&mut archive, &mut sender).await;
        let _ = sender.shutdown().await;
        drop(sender);
        work.await.map_err(|e| Error::internal(e.to_string()))??;
        copied
            .map(drop)
            .or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) })
    }

    pub(crate) async fn export(&self, name: &str) -> Result<ArchiveStream> {
        let (_, info) = self.container_of(name)?;
        let tree = self.tree_of(&info)?;
        self.stream(move |writer| {
            let mut builder = tar::Builder::new(writer);
            let root = tree.open("/", OFlags::RDONLY | OFlags::DIRECTORY)?;
            append_children(&mut builder, &root, Path::new(""), true)?;
            builder.finish()
        })
    }

    pub(crate) async fn changes(&self, name: &str) -> Result<Vec<Change>> {
        let (_, info) = self.container_of(name)?;
        let overlay = self.overlay_of(&info)?;
        let work = move || -> Result<Vec<Change>> {
            let image = Tree::of_layers(&overlay.lower)?;
            let upper = tree::open_root(&overlay.upper).map_err(|e| Error::internal(e.to_string()))?;
            let mut out = Vec::new();
            collect_changes(&upper, Path::new(""), &image, &mut out)?;
            out.sort();
            Ok(out)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?
    }

    /// Where a path lies: in a volume or bind mount if it is below one and the container
    /// does not run (then its own root shows them), else in the root filesystem.
    fn place(&self, info: &ContainerInfo, path: &str) -> Result<Place> {
        // A trailing `/.` asks for a directory's content; resolving it is the same.
        let wanted = clean(path);
        if !info.state.status.is_running() {
            let covering = info
                .mounts
                .iter()
                .filter(|point| point.kind != MountKind::Tmpfs && Path::new(&wanted).starts_with(&point.destination))
                .max_by_key(|point| point.destination.len());
            if let Some(point) = covering
                && Path::new(&point.source).is_dir()
            {
                let rest = wanted.strip_prefix(&point.destination).unwrap_or_default();
                return Ok(Place { tree: Tree::of_directory(Path::new(&point.source))?, path: clean(rest) });
            }
        }
        Ok(Place { tree: self.tree_of(info)?, path: wanted })
    }

    /// Runs `produce` on a thread of its own; what it writes can be read from the result.
    fn stream(&self, produce: impl FnOnce(File) -> std::io::Result<()> + Send + 'static) -> Result<ArchiveStream> {
        let (sender, receiver) = pipe::pipe()?;
        let writer = File::from(sender.into_blocking_fd()?);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = produce(writer)
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                // The reader sees an archive without an end.
                tracing::warn!(%error, "archive not complete");
            }
        });
        Ok(Box::new(receiver))
    }
}

fn no_such_path(info: &ContainerInfo, path: &str, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound || error.kind() == std::io::ErrorKind::NotADirectory {
        return Error::not_found(format!("Could not find the file {path} in container {}", info.name));
    }
    Error::internal(format!("{path}: {error}"))
}

fn base_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The last component is looked at itself, links before it are followed.
fn stat_in(tree: &Tree, path: &str) -> std::io::Result<PathStat> {
    let fd = tree.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&fd)?;
    let link_target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        rustix::fs::readlinkat(&fd, "", Vec::new())?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(PathStat {
        name: base_name(path),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified: modified(&stat),
        link_target,
    })
}

fn modified(stat: &Stat) -> Timestamp {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Timestamp(stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

type Builder = tar::Builder<File>;

fn append_path(builder: &mut Builder, tree: &Tree, path: &str, name: &Path) -> std::io::Result<()> {
    let parent = Path::new(path).parent().map_or_else(|| "/".to_owned(), |p| p.to_string_lossy().into_owned());
    if path == "/" {
        let root = tree.open("/", OFlags::RDONLY | OFlags::DIRECTORY)?;
        append_header(builder, &rustix::fs::fstat(&root)?, Path::new("./"))?;
        return append_children(builder, &root, Path::new("."), false);
    }
    let parent = tree.open(&parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let base = Path::new(path).file_name().unwrap_or_default();
    append_entry(builder, &parent, Path::new(base), name, false)
}

fn append_children(builder: &mut Builder, dir: &OwnedFd, prefix: &Path, one_device: bool) -> std::io::Result<()> {
    let mut names = tree::names(dir)?;
    names.sort_unstable();
    for name in names {
        append_entry(builder, dir, Path::new(&name), &prefix.join(&name), one_device)?;
    }
    Ok(())
}

/// `one_device`: what is mounted below is shown as the empty directory it covers.
fn append_entry(
    builder: &mut Builder,
    parent: &OwnedFd,
    base: &Path,
    name: &Path,
    one_device: bool,
) -> std::io::Result<()> {
    let stat = match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        // It went away while we were walking.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let file = File::from(rustix::fs::openat(parent, base, flags | OFlags::NONBLOCK, Mode::empty())?);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let mut header = header_of(&stat);
            header.set_size(size);
            // A growing file is cut at the size it was announced with, a shrinking one filled up.
            let data = file.take(size).chain(std::io::repeat(0)).take(size);
            builder.append_data(&mut header, name, data)
        }
        FileType::Directory => {
            append_header(builder, &stat, name)?;
            let dir = rustix::fs::openat(parent, base, flags | OFlags::DIRECTORY, Mode::empty())?;
            if one_device && rustix::fs::fstat(parent)?.st_dev != stat.st_dev {
                return Ok(());
            }
            append_children(builder, &dir, name, one_device)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, base, Vec::new())?;
            let mut header = header_of(&stat);
            header.set_size(0);
            builder.append_link(&mut header, name, Path::new(std::ffi::OsStr::new(&*target.to_string_lossy())))
        }
        FileType::Socket | FileType::Unknown => Ok(()),
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => append_header(builder, &stat, name),
    }
}

fn append_header(builder: &mut Builder, stat: &Stat, name: &Path) -> std::io::Result<()> {
    let mut header = header_of(stat);
    header.set_size(0);
    builder.append_data(&mut header, name, std::io::empty())
}

fn header_of(stat: &Stat) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => tar::EntryType::Directory,
        FileType::Symlink => tar::EntryType::Symlink,
        FileType::Fifo => tar::EntryType::Fifo,
        FileType::CharacterDevice => tar::EntryType::Char,
        FileType::BlockDevice => tar::EntryType::Block,
        FileType::RegularFile | FileType::Socket | FileType::Unknown => tar::EntryType::Regular,
    };
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
        // Only a name that does not fit is an error, and these are numbers.
        let _ = header.set_device_major(rustix::fs::major(stat.st_rdev));
        let _ = header.set_device_minor(rustix::fs::minor(stat.st_rdev));
    }
    header
}

/// Unpacks below `target`, each name resolved inside the tree.
fn extract(archive: impl Read, tree: &Tree, target: &OwnedFd, refuse_replacing_directories: bool) -> Result<()> {
    let base = Tree::below(tree, target)?;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts: Vec<_> = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
        if parts.iter().any(|part| !matches!(part, Component::Normal(_) | Component::RootDir)) {
            return Err(Error::invalid(format!("invalid path in archive: {}", path.display())));
        }
        let relative: PathBuf = parts.iter().filter(|part| matches!(part, Component::Normal(_))).collect();
        let Some(name) = relative.file_name() else { continue };
        let parent = base.make_directories(relative.parent().unwrap_or_else(|| Path::new("")))?;
        put(&mut entry, parent.as_fd(), Path::new(name), refuse_replacing_directories)
            .map_err(|error| error.context(path.display()))?;
    }
    Ok(())
}

fn put(
    entry: &mut tar::Entry<'_, impl Read>,
    parent: BorrowedFd<'_>,
    name: &Path,
    refuse_replacing_directories: bool,
) -> Result<()> {
    let kind = entry.header().entry_type();
    let present = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let present_dir = present.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if present.is_some() && present_dir != kind.is_dir() {
        if refuse_replacing_directories {
            let what = if present_dir { "directory with non-directory" } else { "non-directory with directory" };
            return Err(Error::invalid(format!("cannot overwrite {what}")));
        }
        tree::remove_tree(parent, name.as_os_str()).map_err(std::io::Error::from)?;
    } else if present.is_some() && !kind.is_dir() {
        rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(std::io::Error::from)?;
    }
    let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
    let owner = (entry.header().uid()?, entry.header().gid()?);
    match kind {
        tar::EntryType::Directory if present_dir => {}
        tar::EntryType::Directory => rustix::fs::mkdirat(parent, name, mode).map_err(std::io::Error::from)?,
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, mode).map_err(std::io::Error::from)?;
            std::io::copy(entry, &mut File::from(fd))?;
        }
        tar::EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| Error::invalid("link without a target"))?;
            rustix::fs::symlinkat(target.as_ref(), parent, name).map_err(std::io::Error::from)?;
        }
        // Devices, FIFOs and hard links into places unknown are not what `cp` is for.
        _ => return Err(Error::invalid(format!("entries of type {kind:?} cannot be copied into a container"))),
    }
    finish(parent, name, mode, owner, entry.header().mtime()?, kind.is_symlink())
}

fn finish(
    parent: BorrowedFd<'_>,
    name: &Path,
    mode: Mode,
    (uid, gid): (u64, u64),
    modified_s: u64,
    is_link: bool,
) -> Result<()> {
    let uid = u32::try_from(uid).map(rustix::fs::Uid::from_raw).ok();
    let gid = u32::try_from(gid).map(rustix::fs::Gid::from_raw).ok();
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(std::io::Error::from)?;
    if !is_link {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(std::io::Error::from)?;
        // By descriptor, so that the name cannot be made a link meanwhile.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode.as_raw_mode());
        std::fs::set_permissions(fd_path(&fd), permissions)?;
    }
    let time = rustix::fs::Timespec { tv_sec: i64::try_from(modified_s).unwrap_or(0), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(std::io::Error::from)?;
    Ok(())
}

/// Compares an upper directory with the image below it.
fn collect_changes(dir: &OwnedFd, prefix: &Path, image: &Tree, out: &mut Vec<Change>) -> Result<()> {
    for name in tree::names(dir).map_err(std::io::Error::from)? {
        let path = prefix.join(&name);
        let shown = format!("/{}", path.display());
        let stat =
            rustix::fs::statat(dir, Path::new(&name), AtFlags::SYMLINK_NOFOLLOW).map_err(std::io::Error::from)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let existed = image.open(&shown, OFlags::PATH | OFlags::NOFOLLOW).is_ok();
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            if existed {
                out.push(Change { path: shown, kind: ChangeKind::Deleted });
            }
            continue;
        }
        out.push(Change { path: shown, kind: if existed { ChangeKind::Modified } else { ChangeKind::Added } });
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child =
                rustix::fs::openat(dir, Path::new(&name), flags, Mode::empty()).map_err(std::io::Error::from)?;
            collect_changes(&child, &path, image, out)?;
        }
    }
    Ok(())
}
