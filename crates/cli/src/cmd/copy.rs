//! `cp`: between a container and this machine, as a tar stream either way.

use super::copy_paths::{Target, land, split};
use crate::client::{Payload, query, segment};
use crate::flags::container_files::Cp;
use crate::{Client, Failure, Outcome, human, stream};
use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::Value;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Go's bits of a file mode that say folder and symbolic link.
const MODE_FOLDER: u64 = 1 << 31;
const MODE_LINK: u64 = 1 << 27;
/// Links inside a container that are followed at most.
const LINKS_MAX: usize = 8;

pub(crate) async fn cp(client: &Client, flags: &Cp) -> Outcome {
    match (split(&flags.source), split(&flags.destination)) {
        ((Some(_), _), (Some(_), _)) => Err(anyhow!("copying between containers is not supported").into()),
        ((None, _), (None, _)) => Err(anyhow!("must specify at least one container source").into()),
        ((Some(container), path), (None, target)) => from_container(client, flags, container, path, target).await,
        ((None, path), (Some(container), target)) => to_container(client, flags, path, container, target).await,
    }
}

async fn from_container(client: &Client, flags: &Cp, container: &str, path: &str, target: &str) -> Outcome {
    let mut path = path.to_owned();
    if flags.follow_link {
        path = follow(client, container, &path).await?.0;
    }
    let answer = archive(client, Method::GET, container, &path, Payload::Empty).await?;
    let is_folder = mode(answer.headers())? & MODE_FOLDER != 0;
    if target == "-" {
        return stream::download(answer, tokio::io::stdout()).await.map(drop);
    }
    let landing = land(&path, is_folder, target, local(target)).map_err(Failure::from)?;
    // The archive is unpacked by a thread, since that is blocking work.
    let (reader, writer) = std::io::pipe()?;
    let file = tokio::fs::File::from_std(std::fs::File::from(OwnedFd::from(writer)));
    let keep_owner = flags.archive;
    let folder = PathBuf::from(&landing.folder);
    let unpacking = tokio::task::spawn_blocking(move || unpack(reader, &folder, landing.rename, keep_owner));
    let sent = stream::download(answer, file).await;
    unpacking.await.map_err(anyhow::Error::from)??;
    told(flags, sent?, target);
    Ok(())
}

async fn to_container(client: &Client, flags: &Cp, path: &str, container: &str, target: &str) -> Outcome {
    let (target, state) = destination(client, container, target).await?;
    let body: Box<dyn tokio::io::AsyncRead + Send + Sync + Unpin>;
    let folder;
    let count = Arc::new(AtomicU64::new(0));
    if path == "-" {
        if state != Target::Folder {
            return Err(anyhow!("destination \"{container}:{target}\" must be a directory").into());
        }
        body = Box::new(tokio::io::stdin());
        folder = target.clone();
    } else {
        let source = if flags.follow_link { std::fs::canonicalize(path) } else { Ok(PathBuf::from(path)) };
        let source = source.with_context(|| format!("lstat {path}"))?;
        let seen = std::fs::symlink_metadata(&source).with_context(|| format!("lstat {path}"))?;
        let landing = land(path, seen.is_dir(), &target, state).map_err(Failure::from)?;
        folder = landing.folder.clone();
        let name = landing.rename.unwrap_or_else(|| base_name(path));
        body = Box::new(pack(source, name, count.clone())?);
    }
    let payload = Payload::Stream { reader: body, content_type: "application/x-tar" };
    archive(client, Method::PUT, container, &folder, payload).await?;
    told(flags, count.load(Ordering::Relaxed), &format!("{container}:{target}"));
    Ok(())
}

fn told(flags: &Cp, bytes: u64, target: &str) {
    if !flags.quiet && flags.source != "-" {
        eprintln!("Successfully copied {} to {target}", human::size(bytes as f64));
    }
}

async fn archive(
    client: &Client,
    method: Method,
    container: &str,
    path: &str,
    payload: Payload,
) -> Outcome<hyper::Response<hyper::body::Incoming>> {
    let overwrite = if method == Method::PUT { "true" } else { "" };
    let options = query(&[("path", path), ("noOverwriteDirNonDir", overwrite)]);
    client.send(method, &format!("/containers/{}/archive{options}", segment(container)), &[], payload).await
}

/// Where a path inside the container leads to, and what is there.
async fn destination(client: &Client, container: &str, path: &str) -> Outcome<(String, Target)> {
    match follow(client, container, path).await {
        Ok((path, true)) => Ok((path, Target::Folder)),
        Ok((path, false)) => Ok((path, Target::File)),
        // An answer to HEAD has no body, so the status is all there is.
        Err(Failure::Api(error)) if error.status == 404 => {
            // Either the path or the container itself.
            client.get(&format!("/containers/{}/json", segment(container))).await?;
            Ok((path.to_owned(), Target::Nothing))
        }
        Err(failure) => Err(failure),
    }
}

/// Follows symbolic links; gives the path and whether a folder is there.
async fn follow(client: &Client, container: &str, path: &str) -> Outcome<(String, bool)> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let answer = archive(client, Method::HEAD, container, &path, Payload::Empty).await?;
        let seen = stat(answer.headers())?;
        let mode = seen["mode"].as_u64().unwrap_or(0);
        if mode & MODE_LINK == 0 {
            return Ok((path, mode & MODE_FOLDER != 0));
        }
        let link = seen["linkTarget"].as_str().unwrap_or_default();
        let parent = Path::new(&path).parent().unwrap_or_else(|| Path::new("/"));
        path = parent.join(link).to_string_lossy().into_owned();
    }
    Err(anyhow!("{path}: too many symbolic links").into())
}

fn stat(headers: &hyper::HeaderMap) -> anyhow::Result<Value> {
    let header = headers.get("X-Docker-Container-Path-Stat").context("the daemon did not say what the path is")?;
    Ok(serde_json::from_slice(&STANDARD.decode(header.as_bytes()).context("a malformed path stat")?)?)
}

fn mode(headers: &hyper::HeaderMap) -> anyhow::Result<u64> {
    Ok(stat(headers)?["mode"].as_u64().unwrap_or(0))
}

fn local(path: &str) -> Target {
    match std::fs::metadata(path) {
        Ok(seen) if seen.is_dir() => Target::Folder,
        Ok(_) => Target::File,
        Err(_) => Target::Nothing,
    }
}

fn base_name(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    absolute.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned())
}

/// Unpacks below a folder; `rename` takes the place of the archive's topmost name.
fn unpack(reader: std::io::PipeReader, folder: &Path, rename: Option<String>, keep_owner: bool) -> anyhow::Result<()> {
    let Some(name) = rename else { return extract(reader, folder, keep_owner) };
    let (renamed, writer) = std::io::pipe()?;
    let renaming = std::thread::spawn(move || rename_entries(reader, writer, &name));
    let extracted = extract(renamed, folder, keep_owner);
    let result = renaming.join().map_err(|_| anyhow!("the archive could not be read"))?;
    extracted.and(result)
}

/// Entries that would leave the folder are left out by the tar crate.
fn extract(reader: impl Read, folder: &Path, keep_owner: bool) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(keep_owner);
    for entry in archive.entries()? {
        entry?.unpack_in(folder)?;
    }
    Ok(())
}

/// The same archive under another topmost name; hard links inside it follow.
fn rename_entries(reader: impl Read, writer: impl std::io::Write, name: &str) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(reader);
    let mut renamed = tar::Builder::new(writer);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = under(name, &entry.path()?);
        if path == Path::new(".") {
            continue;
        }
        let mut header = entry.header().clone();
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        match (header.entry_type(), link) {
            (tar::EntryType::Link, Some(link)) => renamed.append_link(&mut header, path, under(name, &link))?,
            (tar::EntryType::Symlink, Some(link)) => renamed.append_link(&mut header, path, link)?,
            _ => renamed.append_data(&mut header, path, &mut entry)?,
        }
    }
    Ok(renamed.finish()?)
}

/// A path with its first part replaced.
fn under(name: &str, path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| !matches!(part, std::path::Component::CurDir));
    parts.skip(1).fold(PathBuf::from(name), |path, part| path.join(part))
}

/// A tar stream of a file or folder under another name, written by a thread while it is sent.
fn pack(source: PathBuf, name: String, count: Arc<AtomicU64>) -> anyhow::Result<tokio::fs::File> {
    let (reader, writer) = std::io::pipe().context("a pipe for the files")?;
    std::thread::spawn(move || {
        let mut archive = tar::Builder::new(Counted { inner: writer, count });
        archive.follow_symlinks(false);
        let added = match source.symlink_metadata() {
            Ok(seen) if seen.is_dir() => archive.append_dir_all(&name, &source),
            Ok(_) => archive.append_path_with_name(&source, &name),
            Err(error) => Err(error),
        };
        match added.and_then(|()| archive.finish()) {
            // The daemon stopped reading: it has told why, or will.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => eprintln!("{}: {error}", source.display()),
            Ok(()) => {}
        }
    });
    Ok(tokio::fs::File::from_std(std::fs::File::from(OwnedFd::from(reader))))
}

struct Counted<W> {
    inner: W,
    count: Arc<AtomicU64>,
}

impl<W: std::io::Write> std::io::Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
