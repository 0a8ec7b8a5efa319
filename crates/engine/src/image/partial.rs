//! Downloads that were broken off, by a client that left or with the whole daemon: the next
//! pull of the same blob goes on where they ended. What nobody wants is gone after a day.

use super::digest::{Digest, Hashing};
use super::error::{ImageError, ImageResult};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DIRECTORY: &str = "partial";
/// How long the beginning of a blob is kept.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const BUFFER_BYTES: usize = 256 * 1024;

/// What is written to while a blob comes.
pub(crate) type Writer = Hashing<BufWriter<File>>;

/// Where the beginning of a blob is kept, below the store's root.
pub(crate) fn path(root: &Path, digest: &Digest) -> PathBuf {
    root.join(DIRECTORY).join(digest.hex())
}

/// Keeps a complete blob that no image uses yet: its pull was broken off with the daemon.
pub(crate) fn keep(root: &Path, blob: &Path) -> ImageResult<()> {
    let directory = root.join(DIRECTORY);
    std::fs::create_dir_all(&directory).map_err(ImageError::file("making", &directory))?;
    let Some(name) = blob.file_name() else { return Ok(()) };
    std::fs::rename(blob, directory.join(name)).map_err(ImageError::file("moving", blob))
}

/// Removes what is too old; what cannot be removed is tried again next time.
pub(crate) fn purge(root: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(root.join(DIRECTORY)).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > AGE_MAX));
        if is_old && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, "the beginning of a download stays");
        }
    }
}

/// Opens the blob's beginning to go on after it, or begins; more than `size` bytes are none of it.
pub(crate) fn open(path: &Path, size: u64) -> ImageResult<Writer> {
    let failed = |step| ImageError::file(step, path);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("making"))?;
    }
    let known = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    if known == 0 || known > size {
        return begin(path);
    }
    let mut file = File::options().read(true).append(true).open(path).map_err(failed("opening"))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut writer = Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, file.try_clone().map_err(failed("opening"))?));
    loop {
        let count = file.read(&mut buffer).map_err(failed("reading"))?;
        if count == 0 {
            return Ok(writer);
        }
        writer.passed(&buffer[..count]);
    }
}

/// Begins anew.
pub(crate) fn begin(path: &Path) -> ImageResult<Writer> {
    let file = File::create(path).map_err(ImageError::file("making", path))?;
    Ok(Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_download_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), &Digest::of(b"whole"));
        let mut first = open(&file, 5).unwrap();
        first.write_all(b"who").unwrap();
        drop(first);
        let mut second = open(&file, 5).unwrap();
        assert_eq!(second.bytes(), 3);
        second.write_all(b"le").unwrap();
        second.flush().unwrap();
        assert_eq!(second.finish().1, Digest::of(b"whole"));
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        assert_eq!(open(&file, 4).unwrap().bytes(), 0, "longer than the blob can be");
    }

    #[test]
    fn old_beginnings_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), &Digest::of(b"x"));
        drop(open(&file, 1).unwrap());
        let now = SystemTime::now();
        purge(dir.path(), now);
        assert!(file.exists());
        purge(dir.path(), now + AGE_MAX + Duration::from_secs(60));
        assert!(!file.exists());
    }
}
