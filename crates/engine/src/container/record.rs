//! A container's record on disk.

use skep_model::container::ContainerInfo;
use skep_model::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

const RECORD: &str = "container.json";

/// Writes the record whole or not at all. `durable` syncs it: once when the container
/// is acknowledged; later states can be told from the shim's records.
pub(crate) fn save(dir: &Path, info: &ContainerInfo, durable: bool) -> Result<()> {
    write_atomically(&dir.join(RECORD), &serde_json::to_vec(info).map_err(|e| Error::internal(e.to_string()))?, durable)
}

/// Reads a record.
pub(crate) fn load(dir: &Path) -> Result<ContainerInfo> {
    let bytes = std::fs::read(dir.join(RECORD))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::internal(format!("{}: {e}", dir.display())))
}

/// Temporary name, sync, rename, sync of the directory.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let temporary = path.with_extension("json.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_data()?;
    }
    std::fs::rename(&temporary, path)?;
    if let (true, Some(dir)) = (durable, path.parent()) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
