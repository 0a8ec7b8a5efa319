//! A directory becomes a tar: the same bytes for the same content, wherever it lies.
//!
//! Order, owners, modes, whole seconds of the modification time, hard links and extended
//! attributes are kept; what differs between two copies of the same content is not.
//! The directory may belong to a running container, so it is not trusted: everything
//! goes through directory descriptors and no link is followed.

use super::error::{ImageError, ImageResult};
use super::tree::{self, Node};
use super::whiteout;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Longer names and link targets go into an entry of their own.
const HEADER_NAME_BYTES_MAX: usize = 100;
/// The kernel's limits for one attribute and for the list of names.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// How the marks of overlayfs are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// As a layer: deleted names and opaque directories become `.wh.` names.
    ToWhiteouts,
    /// As a plain tree, for `export` and `cp`: there are none.
    None,
}

/// Writes all below `directory`, but not the directory itself, to `out`; gives `out` back.
pub(crate) fn pack<W: Write>(directory: &Path, marks: Marks, out: W) -> ImageResult<W> {
    let root = tree::open_root(directory)?;
    let packer = std::cell::RefCell::new(Packer { builder: tar::Builder::new(out), marks, seen: HashMap::new() });
    tree::walk(root.as_fd(), |path, fd| packer.borrow_mut().enter(path, fd), |node| packer.borrow_mut().node(node))?;
    packer.into_inner().builder.into_inner().map_err(ImageError::io("writing the layer"))
}

struct Packer<W: Write> {
    builder: tar::Builder<W>,
    marks: Marks,
    /// Device and inode of files with several names, to the first of them.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn enter(&mut self, path: &Path, directory: BorrowedFd<'_>) -> ImageResult<()> {
        if self.marks == Marks::None || !is_opaque(directory) {
            return Ok(());
        }
        self.mark(&path.join(whiteout::OPAQUE_NAME))
    }

    fn node(&mut self, node: &Node<'_>) -> ImageResult<()> {
        if self.marks == Marks::ToWhiteouts {
            if node.is_whiteout() {
                return self.mark(&node.path.with_file_name(whiteout::name_for(node.name)));
            }
            if whiteout::mark(node.name).is_some() {
                return Err(failed(node, "names starting with .wh. mean deletion in a layer"));
            }
        }
        let kind = match node.file_type() {
            FileType::RegularFile => return self.file(node),
            FileType::Directory => return self.directory(node),
            FileType::Symlink => return self.symlink(node),
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            // A socket means nothing without the process that listens on it.
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        let mut header = header(&node.stat, kind);
        let set_device = |header: &mut Header| -> std::io::Result<()> {
            header.set_device_major(rustix::fs::major(node.stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(node.stat.st_rdev))
        };
        set_device(&mut header).map_err(|e| failed(node, e))?;
        self.entry(node.path, header, None, &[], std::io::empty())
    }

    /// A name that means deletion. Only the name counts: owner and time of the mark differ
    /// from one copy of a layer to the next.
    fn mark(&mut self, path: &Path) -> ImageResult<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.entry(path, header, None, &[], std::io::empty())
    }

    fn directory(&mut self, node: &Node<'_>) -> ImageResult<()> {
        let Some(fd) = open(node, OFlags::DIRECTORY)? else { return Ok(()) };
        let xattrs = self.xattrs(node, &fd)?;
        let mut path = node.path.as_os_str().to_owned();
        path.push("/");
        self.entry(Path::new(&path), header(&node.stat, EntryType::Directory), None, &xattrs, std::io::empty())
    }

    fn symlink(&mut self, node: &Node<'_>) -> ImageResult<()> {
        let target = rustix::fs::readlinkat(node.parent, node.name, Vec::new()).map_err(|e| failed(node, e))?;
        self.entry(node.path, header(&node.stat, EntryType::Symlink), Some(target.to_bytes()), &[], std::io::empty())
    }

    fn file(&mut self, node: &Node<'_>) -> ImageResult<()> {
        // Nonblocking: if a pipe took its place meanwhile, opening must not wait for a writer.
        let Some(fd) = open(node, OFlags::NONBLOCK)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed(node, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(node, "it changed while being read"));
        }
        let xattrs = self.xattrs(node, &fd)?;
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.seen.get(&identity).cloned() {
                let target = first.as_os_str().as_bytes();
                return self.entry(node.path, header(&stat, EntryType::Link), Some(target), &[], std::io::empty());
            }
            self.seen.insert(identity, node.path.to_owned());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut header = header(&stat, EntryType::Regular);
        header.set_size(size);
        let mut content = Exactly { file: File::from(fd), left: size };
        self.entry(node.path, header, None, &xattrs, &mut content)
    }

    /// Portable attributes, sorted by name.
    fn xattrs(&self, node: &Node<'_>, fd: &OwnedFd) -> ImageResult<Vec<(String, Vec<u8>)>> {
        let mut buffer = vec![0_u8; XATTR_BYTES_MAX];
        let length = match rustix::fs::flistxattr(fd, &mut buffer[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return Err(failed(node, e)),
        };
        let mut names: Vec<Vec<u8>> = buffer[..length].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        let mut xattrs = Vec::new();
        for name in names {
            if self.marks == Marks::ToWhiteouts && is_partial(&name) {
                return Err(failed(
                    node,
                    "overlayfs keeps a part of it in the layers below (redirect_dir or metacopy)",
                ));
            }
            if !whiteout::is_portable_xattr(&name) {
                continue;
            }
            // A tar cannot hold a key that is not text, nor one with the character that ends it.
            let Ok(key) = String::from_utf8(name) else { continue };
            let length = match rustix::fs::fgetxattr(fd, key.as_str(), &mut buffer[..]) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(e) => return Err(failed(node, e)),
            };
            if !key.contains('=') {
                xattrs.push((format!("SCHILY.xattr.{key}"), buffer[..length].to_vec()));
            }
        }
        Ok(xattrs)
    }

    fn entry(
        &mut self,
        path: &Path,
        mut header: Header,
        link: Option<&[u8]>,
        xattrs: &[(String, Vec<u8>)],
        content: impl Read,
    ) -> ImageResult<()> {
        let write = || -> std::io::Result<()> {
            if !xattrs.is_empty() {
                self.builder.append_pax_extensions(xattrs.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
            }
            let name = path.as_os_str().as_bytes();
            if let Some(link) = link {
                self.long(EntryType::GNULongLink, link)?;
                fill(&mut header.as_old_mut().linkname, link);
            }
            self.long(EntryType::GNULongName, name)?;
            fill(&mut header.as_old_mut().name, name);
            header.set_cksum();
            self.builder.append(&header, content)
        };
        write().map_err(|e| ImageError::Pack { name: path.display().to_string(), why: e.to_string() })
    }

    /// Writes a name that does not fit into the header.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> std::io::Result<()> {
        if name.len() <= HEADER_NAME_BYTES_MAX {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        fill(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(name.len() as u64 + 1);
        header.set_entry_type(kind);
        header.set_cksum();
        self.builder.append(&header, name.chain(&[0_u8][..]))
    }
}

fn failed(node: &Node<'_>, why: impl ToString) -> ImageError {
    ImageError::Pack { name: node.path.display().to_string(), why: why.to_string() }
}

/// Copies what fits; the rest stays zero.
fn fill(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Opens a node for reading; `None` when it disappeared.
fn open(node: &Node<'_>, flags: OFlags) -> ImageResult<Option<OwnedFd>> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(node.parent, node.name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed(node, e)),
    }
}

/// Whether a directory hides what the layers below have in it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 4];
    rustix::fs::fgetxattr(directory, whiteout::OPAQUE_XATTR, &mut value[..]).is_ok_and(|n| value[..n] == *b"y")
}

/// Attributes that say "the content is elsewhere".
fn is_partial(name: &[u8]) -> bool {
    let rest = name.strip_prefix(whiteout::OVERLAY_XATTR_PREFIX);
    rest.is_some_and(|rest| matches!(rest, b"redirect" | b"metacopy"))
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// A file's content, as long as the header said.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (&mut self.file).take(self.left).read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(std::io::Error::other("it became shorter while being read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
