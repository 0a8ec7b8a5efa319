//! What a power cut leaves of a machine's files.

use std::fs;
use std::io;
use std::path::Path;

/// Copies a folder as it is now. What a program has not handed to the system yet, as sled
/// keeps writes until they are flushed, is not in it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Puts the folder `from` where `to` is.
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::remove_dir_all(to)?;
    fs::rename(from, to)
}
