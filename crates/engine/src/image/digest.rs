//! SHA-256 digests: a checked type, and readers and writers that hash what passes.

use super::error::{ImageError, ImageResult};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read, Write};

const PREFIX: &str = "sha256:";
const HEX_LENGTH: usize = 64;

/// A `sha256:` digest. Always 64 lower-case hexadecimal digits, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest(String);

impl Digest {
    /// Parses `sha256:<hex>`.
    pub(crate) fn parse(text: &str) -> ImageResult<Self> {
        let hex = text.strip_prefix(PREFIX).unwrap_or_default();
        let legal = hex.len() == HEX_LENGTH && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !legal {
            return Err(ImageError::BadDigest(text.chars().take(200).collect()));
        }
        Ok(Self(hex.to_owned()))
    }

    /// Of bytes in memory.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// The 64 digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people see them.
    pub(crate) fn short(&self) -> &str {
        &self.0[..12]
    }

    /// Identity of a stack of layers: the digest of the parent stack's and the layer's.
    pub(crate) fn chain(parent: Option<&Self>, diff_id: &Self) -> Self {
        match parent {
            None => diff_id.clone(),
            Some(parent) => Self::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> ImageResult<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Chain ids of a stack of layers, bottom first.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(Digest::chain(chain.last(), diff_id));
    }
    chain
}

/// Hashes and counts what is read or written through it.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// How many bytes passed so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes that passed before.
    pub(crate) fn passed(&mut self, data: &[u8]) {
        self.record(data);
    }

    /// The inner stream, the digest and the number of bytes that passed.
    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest(hex::encode(self.hasher.finalize())), self.bytes)
    }

    fn record(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.bytes += data.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.record(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.record(&data[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_digests_parse() {
        let good = Digest::of(b"x").to_string();
        assert_eq!(Digest::parse(&good).unwrap().to_string(), good);
        for bad in ["", "sha256:", "sha256:../../etc/passwd", &good[7..], &good.to_uppercase(), &format!("{good}0")] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lowest_chain_id_is_the_diff_id() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
    }

    #[test]
    fn hashing_sees_every_byte_once() {
        let mut reader = Hashing::new(&b"hello"[..]);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let (_, digest, bytes) = reader.finish();
        assert_eq!((digest, bytes), (Digest::of(b"hello"), 5));
    }
}
