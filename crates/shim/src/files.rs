//! Records in the run directory: written to a temporary name, then renamed, so that a
//! reader sees all of a record or none.

use crate::error::ShimError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_model::Timestamp;
use std::path::Path;

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ShimError> {
    let bytes = std::fs::read(path).map_err(|source| ShimError::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ShimError::Json { path: path.to_owned(), source })
}

/// Writes `name` in `dir` at once or not at all. Run directories do not survive a
/// reboot, so nothing is synced to disk.
pub(crate) fn write_json<T: Serialize>(dir: &Path, name: &str, value: &T) -> Result<(), ShimError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.tmp"));
    let bytes = serde_json::to_vec(value).map_err(|source| ShimError::Json { path: path.clone(), source })?;
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| ShimError::File { path, source })
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
