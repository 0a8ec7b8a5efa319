//! The build context: a tar stream from the client, unpacked below the data root.

use super::copy::SourceTree;
use super::error::{BuildError, BuildResult};
use super::ignore::{IGNORE_BYTES_MAX, Ignore};
use super::parse::DOCKERFILE_BYTES_MAX;
use crate::image::{compress, unpack};
use skep_model::Error;
use std::io::{self, Read};
use std::path::Path;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

/// Bytes of a context after decompression.
const CONTEXT_BYTES_MAX: u64 = 64 << 30;
/// Receives the stream into `directory`, an empty directory.
pub(crate) async fn receive(
    stream: impl AsyncRead + Send + Unpin + 'static,
    directory: &Path,
) -> BuildResult<SourceTree> {
    let target = directory.to_owned();
    let mut bridge = SyncIoBridge::new(stream);
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack_all(&mut bridge, &target)?;
        SourceTree::open(&target, true)
    });
    unpacking.await.map_err(|error| BuildError::io("unpack the build context")(io::Error::other(error)))?
}

fn unpack_all(stream: impl Read, target: &Path) -> BuildResult<()> {
    let failed = |error: Error| BuildError::Context(format!("Error processing tar file: {error}"));
    let (compression, stream) = compress::detect(stream).map_err(|error| failed(error.into()))?;
    let plain = compress::decoder(compression, stream).map_err(|error| failed(error.into()))?;
    unpack::unpack(Limited::new(plain, CONTEXT_BYTES_MAX), target).map(drop).map_err(|error| failed(error.into()))
}

/// Removes what `.dockerignore` excludes. The Dockerfile has been read by then.
pub(crate) fn apply_ignore(tree: &SourceTree, dockerfile: &str) -> BuildResult<()> {
    // Rules that belong to one Dockerfile win over the common ones.
    let own = format!("{dockerfile}.dockerignore");
    let text = match read_text(tree, &own, IGNORE_BYTES_MAX)? {
        Some(text) => Some(text),
        None => read_text(tree, ".dockerignore", IGNORE_BYTES_MAX)?,
    };
    let ignore = Ignore::parse(text.as_deref().unwrap_or_default()).map_err(BuildError::Context)?;
    if !ignore.is_empty() {
        remove_excluded(tree.path(), &ignore)?;
    }
    Ok(())
}

/// Files first: a directory goes only when nothing in it stayed.
fn remove_excluded(root: &Path, ignore: &Ignore) -> BuildResult<()> {
    for found in walkdir::WalkDir::new(root).min_depth(1).contents_first(true) {
        let found = found.map_err(|error| BuildError::io("list the build context")(error))?;
        let Ok(path) = found.path().strip_prefix(root) else { continue };
        if !ignore.excludes(&path.to_string_lossy()) {
            continue;
        }
        let removed = if found.file_type().is_dir() {
            match std::fs::remove_dir(found.path()) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            }
        } else {
            std::fs::remove_file(found.path())
        };
        removed.map_err(BuildError::io(format!("exclude {}", path.display())))?;
    }
    Ok(())
}

/// The Dockerfile's text; to be read before anything is excluded.
pub(crate) fn read_dockerfile(tree: &SourceTree, name: &str) -> BuildResult<String> {
    match read_text(tree, name, DOCKERFILE_BYTES_MAX)? {
        Some(text) => Ok(text),
        None => Err(BuildError::MissingDockerfile(name.to_owned())),
    }
}

fn read_text(tree: &SourceTree, name: &str, bytes_max: u64) -> BuildResult<Option<String>> {
    let Some(real) = tree.resolve(Path::new(name.trim_start_matches('/')))? else { return Ok(None) };
    if !tree.path().join(&real).is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = tree.open_file(&real)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(BuildError::io(format!("read {name}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(BuildError::Context(format!("{name} has more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| BuildError::Context(format!("{name} is not UTF-8 text")))
}

/// Fails, rather than ends, after so many bytes.
pub(crate) struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R> Limited<R> {
    pub(crate) fn new(inner: R, bytes_max: u64) -> Self {
        Self { inner, left: bytes_max }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("the archive is larger than allowed"))?;
        Ok(count)
    }
}
