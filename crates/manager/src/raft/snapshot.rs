//! The newest snapshot as one sealed file.

use super::seal::{Seal, write_atomic};
use super::types::SnapshotMeta;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First bytes of the file; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SKEPSNP1";

/// Name of an old snapshot that is kept, before its index.
const COPY_PREFIX: &str = "snapshot-";

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

    /// Keeps the snapshot at `index` beside those before it, of which the newest `kept` stay.
    pub(crate) fn keep_copies(&self, index: u64, kept: usize) -> io::Result<()> {
        let name = |index: u64| self.path.with_file_name(format!("{COPY_PREFIX}{index}"));
        let mut copies = self.copies()?;
        if kept > 0 && copies.insert(index) {
            fs::hard_link(&self.path, name(index))?;
        }
        // The present one is no old one.
        let surplus = copies.len().saturating_sub(if kept > 0 { kept.saturating_add(1) } else { 0 });
        for old in copies.into_iter().take(surplus) {
            fs::remove_file(name(old))?;
        }
        Ok(())
    }

    fn copies(&self) -> io::Result<BTreeSet<u64>> {
        let Some(dir) = self.path.parent() else { return Ok(BTreeSet::new()) };
        let names = fs::read_dir(dir)?.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_prefix(COPY_PREFIX)?.parse().ok()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_old_snapshots_stay_as_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::of(&skep_identity::Vault::new(dir.path().join("data.key"))).unwrap();
        let file = SnapshotFile::new(dir.path(), seal);
        let check = |index: u64, kept: usize, expect: &[u64]| {
            file.write(&SnapshotMeta::default(), b"store").unwrap();
            file.keep_copies(index, kept).unwrap();
            assert_eq!(file.copies().unwrap().into_iter().collect::<Vec<_>>(), expect, "{index} {kept}");
        };
        check(10, 0, &[]);
        check(20, 2, &[20]);
        check(30, 2, &[20, 30]);
        check(40, 2, &[20, 30, 40]);
        check(50, 2, &[30, 40, 50]);
        check(50, 2, &[30, 40, 50]);
        check(60, 1, &[50, 60]);
        check(70, 0, &[]);
    }
}
