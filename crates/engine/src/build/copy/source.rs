//! Finding what a `COPY` means, and hashing it.

use super::super::error::{BuildError, BuildResult};
use super::super::ignore::{Ignore, clean};
use super::super::pattern::{Pattern, is_pattern};
use super::{Request, Wanted};
use crate::image::compress;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use skep_model::Error;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes hashed at a time.
const HASH_BUFFER_BYTES: usize = 128 * 1024;
/// A tar entry's header, and where its checksum stands.
const HEADER_BYTES: u64 = 512;
const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;

type Hash = [u8; 32];

/// A directory whose content can be copied from. Cheap to clone; clones share the hashes.
#[derive(Debug, Clone)]
pub(crate) struct SourceTree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Absolute, without symbolic links.
    path: PathBuf,
    root: OwnedFd,
    is_context: bool,
    /// Content hashes of files seen so far, by path below the root.
    hashes: Mutex<HashMap<PathBuf, Hash>>,
}

/// One file, directory, link or node to copy.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Below the source tree's root, without symbolic links on the way.
    pub(crate) source: PathBuf,
    /// Below the item's destination; empty for the item itself.
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) modified: (i64, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Link(OsString),
    Fifo,
    /// Character (true) or block device and its number.
    Device(bool, u64),
}

/// What one source path stands for.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// The directory's content goes to the destination. The first entry is the directory itself.
    Directory(Vec<Entry>),
    /// Copied under `name` into a directory, or as the destination.
    File {
        name: OsString,
        entry: Entry,
    },
    /// Unpacked into the destination.
    Archive {
        name: OsString,
        entry: Entry,
    },
    Inline {
        name: String,
        content: String,
    },
    /// Like `File`, from another tree.
    Other {
        tree: SourceTree,
        name: OsString,
        entry: Entry,
    },
    /// Like `Archive`, from another tree.
    OtherArchive {
        tree: SourceTree,
        entry: Entry,
    },
    /// Like `Directory`, from another tree.
    OtherDirectory {
        tree: SourceTree,
        entries: Vec<Entry>,
    },
}

impl Item {
    /// Where it is in its tree.
    pub(crate) fn source(&self) -> &Path {
        match self {
            Self::Directory(entries) | Self::OtherDirectory { entries, .. } => {
                entries.first().map_or_else(|| Path::new(""), |entry| &entry.source)
            }
            Self::File { entry, .. }
            | Self::Archive { entry, .. }
            | Self::Other { entry, .. }
            | Self::OtherArchive { entry, .. } => &entry.source,
            Self::Inline { .. } => Path::new(""),
        }
    }

    /// Leaves out what the patterns name below a directory.
    fn without(self, excludes: &Ignore) -> Self {
        let kept = |entries: Vec<Entry>| {
            let kept = entries.into_iter().filter(|entry| {
                entry.target.as_os_str().is_empty() || !excludes.excludes(&entry.target.to_string_lossy())
            });
            kept.collect()
        };
        match self {
            Self::Directory(entries) => Self::Directory(kept(entries)),
            Self::OtherDirectory { tree, entries } => Self::OtherDirectory { tree, entries: kept(entries) },
            other => other,
        }
    }
}

impl SourceTree {
    pub(crate) fn open(path: &Path, is_context: bool) -> BuildResult<Self> {
        let doing = || format!("open {}", path.display());
        let path = path.canonicalize().map_err(BuildError::io(doing()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(BuildError::io(doing()))?;
        Ok(Self(Arc::new(Inner { path, root, is_context, hashes: Mutex::default() })))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens a file found before. No symbolic link is followed.
    pub(crate) fn open_file(&self, path: &Path) -> BuildResult<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        crate::sys::resolve::openat2(&self.0.root, path, OFlags::RDONLY | OFlags::CLOEXEC, resolve)
            .map(File::from)
            .map_err(BuildError::io(format!("open {}", path.display())))
    }

    /// The real path below the root that `path` leads to, with the root as the end of every
    /// way up. `None` if there is none.
    pub(crate) fn resolve(&self, path: &Path) -> BuildResult<Option<PathBuf>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match crate::sys::resolve::openat2(self.0.root.as_fd(), path, flags, resolve) {
            Ok(found) => {
                let link = format!("/proc/self/fd/{}", found.as_raw_fd());
                let real = std::fs::read_link(link).map_err(BuildError::io(format!("find {}", path.display())))?;
                let inside = real.strip_prefix(&self.0.path).map_err(|_| {
                    BuildError::Instruction(format!("forbidden path outside the build context: {}", path.display()))
                })?;
                Ok(Some(inside.to_owned()))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(BuildError::io(format!("open {}", path.display()))(errno)),
        }
    }

    fn missing(&self, path: &str) -> BuildError {
        let file = format!("stat {}: file does not exist", path.trim_start_matches('/'));
        BuildError::Instruction(if self.0.is_context {
            format!("file not found in build context or excluded by .dockerignore: {file}")
        } else {
            file
        })
    }

    /// The SHA-256 of a file's content; every file is read once per build.
    fn hash(&self, path: &Path) -> BuildResult<Hash> {
        let hashes = || self.0.hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(hash) = hashes().get(path) {
            return Ok(*hash);
        }
        let mut file = self.open_file(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; HASH_BUFFER_BYTES];
        loop {
            let count = file.read(&mut buffer).map_err(BuildError::io(format!("read {}", path.display())))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        let hash: Hash = hasher.finalize().into();
        hashes().insert(path.to_owned(), hash);
        Ok(hash)
    }
}

/// Everything the request copies, in the order of the sources and sorted within each.
pub(crate) fn find(tree: &SourceTree, request: &Request) -> BuildResult<Vec<Item>> {
    let mut items = Vec::new();
    let unpack = request.unpack.unwrap_or(request.keyword == "ADD");
    for wanted in &request.wanted {
        match wanted {
            Wanted::Inline { name, content } => {
                items.push(Item::Inline { name: name.clone(), content: content.clone() });
            }
            Wanted::Tree { tree } => {
                items.push(Item::OtherDirectory { tree: tree.clone(), entries: walk(tree, Path::new(""))? });
            }
            Wanted::Other { tree, path, name } => {
                // What comes from an address is unpacked only where that is asked for.
                let unpack = request.unpack == Some(true);
                match item(tree, path.clone(), OsString::from(name), unpack)? {
                    Item::File { name, entry } => items.push(Item::Other { tree: tree.clone(), name, entry }),
                    Item::Archive { entry, .. } => items.push(Item::OtherArchive { tree: tree.clone(), entry }),
                    _ => {}
                }
            }
            Wanted::Path(text) => {
                for path in matches(tree, text)? {
                    let real = tree.resolve(&path)?.ok_or_else(|| tree.missing(&path.to_string_lossy()))?;
                    let name = path.file_name().map(OsString::from).unwrap_or_default();
                    items.push(item(tree, real, name, unpack)?);
                }
            }
        }
    }
    if items.is_empty() {
        return Err(BuildError::Instruction("no source files were specified".to_owned()));
    }
    leave_out(items, &request.excludes)
}

/// Applies `--exclude`: below a directory by path, and by name to files that were named.
fn leave_out(items: Vec<Item>, patterns: &[String]) -> BuildResult<Vec<Item>> {
    if patterns.is_empty() {
        return Ok(items);
    }
    let excludes = Ignore::parse(&patterns.join("\n")).map_err(BuildError::Instruction)?;
    let is_kept = |item: &Item| match item {
        Item::File { name, .. } | Item::Archive { name, .. } => !excludes.excludes(&name.to_string_lossy()),
        _ => true,
    };
    Ok(items.into_iter().filter(is_kept).map(|item| item.without(&excludes)).collect())
}

/// What one path, which is no pattern, stands for.
pub(crate) fn one(tree: &SourceTree, path: &str) -> BuildResult<Item> {
    let cleaned = clean(path);
    let below = cleaned.trim_start_matches("../").trim_start_matches("..");
    let path = if below == "." { PathBuf::new() } else { PathBuf::from(below) };
    let real = tree.resolve(&path)?.ok_or_else(|| tree.missing(&cleaned))?;
    item(tree, real, OsString::new(), false)
}

/// Paths below the root, symbolic links not yet followed.
fn matches(tree: &SourceTree, text: &str) -> BuildResult<Vec<PathBuf>> {
    // For Docker the context's root is the root: a leading slash changes nothing.
    let cleaned = clean(text);
    if cleaned.starts_with("..") && Path::new(&cleaned).components().next() == Some(Component::ParentDir) {
        if tree.0.is_context {
            let message = format!("forbidden path outside the build context: {text} ()");
            return Err(BuildError::Instruction(message));
        }
        return matches(tree, cleaned.trim_start_matches("../").trim_start_matches(".."));
    }
    if !is_pattern(&cleaned) {
        let path = if cleaned == "." { PathBuf::new() } else { PathBuf::from(&cleaned) };
        return if tree.resolve(&path)?.is_some() { Ok(vec![path]) } else { Err(tree.missing(&cleaned)) };
    }
    let mut found = vec![PathBuf::new()];
    for part in cleaned.split('/') {
        let mut next = Vec::new();
        for parent in &found {
            if is_pattern(part) {
                next.extend(matching_names(tree, parent, part)?.into_iter().map(|name| parent.join(name)));
            } else if tree.resolve(&parent.join(part))?.is_some() {
                next.push(parent.join(part));
            }
        }
        found = next;
    }
    Ok(found)
}

fn matching_names(tree: &SourceTree, parent: &Path, part: &str) -> BuildResult<Vec<OsString>> {
    let pattern = Pattern::compile(part, false)
        .ok_or_else(|| BuildError::Instruction(format!("syntax error in pattern: {part}")))?;
    let Some(real) = tree.resolve(parent)? else { return Ok(Vec::new()) };
    let directory = tree.path().join(real);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let failed = || format!("list {}", parent.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(BuildError::io(failed()))? {
        let entry = entry.map_err(BuildError::io(failed()))?;
        let name = entry.file_name();
        if pattern.matches(&name.to_string_lossy()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn item(tree: &SourceTree, real: PathBuf, name: OsString, is_add: bool) -> BuildResult<Item> {
    let path = tree.path().join(&real);
    let metadata = std::fs::symlink_metadata(&path).map_err(BuildError::io(format!("stat {}", real.display())))?;
    if metadata.is_dir() {
        return walk(tree, &real).map(Item::Directory);
    }
    let entry = entry(&real, PathBuf::new(), &path, &metadata)?
        .ok_or_else(|| BuildError::Instruction(format!("unsupported type of file: {}", real.display())))?;
    let entry = checked(tree, entry)?;
    if is_add && entry.kind == Kind::File && is_archive(tree, &real)? {
        return Ok(Item::Archive { name, entry });
    }
    Ok(Item::File { name, entry })
}

fn walk(tree: &SourceTree, real: &Path) -> BuildResult<Vec<Entry>> {
    let top = tree.path().join(real);
    let mut entries = Vec::new();
    for found in walkdir::WalkDir::new(&top).follow_links(false).sort_by_file_name() {
        let found = found.map_err(|error| BuildError::io(format!("list {}", real.display()))(error))?;
        let metadata = found.metadata().map_err(|error| BuildError::io(format!("stat {}", real.display()))(error))?;
        let below = found.path().strip_prefix(&top).unwrap_or_else(|_| Path::new("")).to_owned();
        let source = if below.as_os_str().is_empty() { real.to_owned() } else { real.join(&below) };
        // Sockets belong to processes, and whiteouts are no files.
        if let Some(entry) = entry(&source, below, found.path(), &metadata)? {
            entries.push(checked(tree, entry)?);
        }
    }
    Ok(entries)
}

/// A client has no business to send devices.
fn checked(tree: &SourceTree, entry: Entry) -> BuildResult<Entry> {
    if tree.0.is_context && matches!(entry.kind, Kind::Fifo | Kind::Device(..)) {
        let message = format!("unsupported type of file in the build context: {}", entry.source.display());
        return Err(BuildError::Context(message));
    }
    Ok(entry)
}

fn entry(source: &Path, target: PathBuf, path: &Path, metadata: &Metadata) -> BuildResult<Option<Entry>> {
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File
    } else if kind.is_symlink() {
        let link = std::fs::read_link(path).map_err(BuildError::io(format!("read the link {}", source.display())))?;
        Kind::Link(link.into_os_string())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_block_device() || (kind.is_char_device() && metadata.rdev() != 0) {
        Kind::Device(kind.is_char_device(), metadata.rdev())
    } else {
        return Ok(None);
    };
    let mode = metadata.mode() & 0o7777;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    Ok(Some(Entry { source: source.to_owned(), target, kind, mode, modified }))
}

/// Whether a file is an archive that `ADD` unpacks.
fn is_archive(tree: &SourceTree, path: &Path) -> BuildResult<bool> {
    // A compressed file need not be an archive; its first header tells.
    let reader = plain(tree, path)?;
    let mut header = tar::Header::new_old();
    if reader.take(HEADER_BYTES).read_exact(header.as_mut_bytes()).is_err() {
        return Ok(false);
    }
    let blank = u32::from(b' ');
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes.map(|(at, byte)| if CHECKSUM_FIELD.contains(&at) { blank } else { u32::from(*byte) }).sum();
    let is_empty = sum == blank * CHECKSUM_FIELD.len() as u32;
    Ok(!is_empty && header.cksum().is_ok_and(|stored| stored == sum))
}

/// A file's content, decompressed if it is compressed.
pub(crate) fn plain(tree: &SourceTree, path: &Path) -> BuildResult<Box<dyn Read>> {
    let refused = |error: Error| BuildError::Unsupported(format!("ADD cannot unpack {}: {error}", path.display()));
    let file = tree.open_file(path)?;
    let (compression, stream) = compress::detect(file).map_err(|error| refused(error.into()))?;
    compress::decoder(compression, stream).map_err(|error| refused(error.into()))
}

/// One digest over names, types, permissions and content; times and owners do not count,
/// since the copies do not keep the owners and the same content is the same layer.
pub(crate) fn digest(tree: &SourceTree, items: &[Item]) -> BuildResult<String> {
    let mut hasher = Sha256::new();
    for item in items {
        match item {
            Item::Directory(entries) => directory(&mut hasher, tree, entries)?,
            Item::OtherDirectory { tree, entries } => directory(&mut hasher, tree, entries)?,
            Item::OtherArchive { tree, entry } => update(&mut hasher, tree, entry, Path::new(""))?,
            Item::File { name, entry } | Item::Archive { name, entry } => {
                update(&mut hasher, tree, entry, Path::new(name))?;
            }
            Item::Other { tree, name, entry } => update(&mut hasher, tree, entry, Path::new(name))?,
            Item::Inline { name, content } => {
                field(&mut hasher, b"inline");
                field(&mut hasher, name.as_bytes());
                field(&mut hasher, content.as_bytes());
            }
        }
        field(&mut hasher, b"end");
    }
    let kind = match items {
        [Item::Directory(_) | Item::OtherDirectory { .. }] => "dir",
        [_] => "file",
        _ => "multi",
    };
    Ok(format!("{kind}:{}", hex::encode(hasher.finalize())))
}

fn directory(hasher: &mut Sha256, tree: &SourceTree, entries: &[Entry]) -> BuildResult<()> {
    entries.iter().try_for_each(|entry| update(hasher, tree, entry, &entry.target))
}

fn update(hasher: &mut Sha256, tree: &SourceTree, entry: &Entry, name: &Path) -> BuildResult<()> {
    field(hasher, name.as_os_str().as_bytes());
    field(hasher, &entry.mode.to_le_bytes());
    match &entry.kind {
        Kind::Directory => field(hasher, b"directory"),
        Kind::File => field(hasher, &tree.hash(&entry.source)?),
        Kind::Link(target) => field(hasher, target.as_bytes()),
        Kind::Fifo => field(hasher, b"fifo"),
        Kind::Device(is_character, number) => {
            field(hasher, if *is_character { b"character" } else { b"block" });
            field(hasher, &number.to_le_bytes());
        }
    }
    Ok(())
}

/// Length first, so that no two different lists of fields give the same bytes.
fn field(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
