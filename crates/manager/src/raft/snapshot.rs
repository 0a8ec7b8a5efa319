//! The newest snapshot as one sealed file.

use super::seal::{Seal, write_atomic};
use super::types::SnapshotMeta;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First bytes of the file; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SKEPSNP1";

/// Where the snapshot lies.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    seal: Seal,
}

impl SnapshotFile {
    pub(crate) fn new(dir: &Path, seal: Seal) -> Self {
        Self { path: dir.join("snapshot"), seal }
    }

    /// Replaces the snapshot; durable when it returns.
    pub(crate) fn write(&self, meta: &SnapshotMeta, store: &[u8]) -> io::Result<()> {
        let meta = skep_proto::codec::encode(meta);
        let meta_length = u32::try_from(meta.len()).map_err(io::Error::other)?;
        let mut plain = Vec::with_capacity(4 + meta.len() + store.len());
        plain.extend_from_slice(&meta_length.to_be_bytes());
        plain.extend_from_slice(&meta);
        plain.extend_from_slice(store);
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&self.seal.seal(MAGIC, &plain)?);
        write_atomic(&self.path, &file)
    }

    /// Meta and store bytes, `None` if there is none yet.
    pub(crate) fn read(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let file = match fs::read(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        self.parse(&file).map(Some).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.path.display())))
    }

    fn parse(&self, file: &[u8]) -> io::Result<(SnapshotMeta, Vec<u8>)> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a snapshot of this version");
        let sealed = file.strip_prefix(MAGIC).ok_or_else(malformed)?;
        let plain = self.seal.open(MAGIC, sealed)?;
        let (length, rest) = plain.split_first_chunk::<4>().ok_or_else(malformed)?;
        let (meta, store) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(malformed)?;
        let meta = skep_proto::codec::decode(meta).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok((meta, store.to_vec()))
    }
}
