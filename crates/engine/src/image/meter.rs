//! A tar reader's input under watch: a limit on the metadata of one entry, which the
//! `tar` crate holds in memory without a limit of its own, and a copy of that metadata,
//! since the crate splits extended headers at newlines and so breaks binary values.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;
use tar::{EntryType, Header};

/// Headers, long names and extended attributes of one entry; read into memory.
const ENTRY_METADATA_BYTES_MAX: usize = 1024 * 1024;
const BLOCK: usize = 512;

/// The other end of a [`Metered`] stream.
#[derive(Default)]
pub(crate) struct Meter {
    /// Bytes read so far.
    position: Cell<u64>,
    /// Where the recorded metadata starts.
    start: Cell<u64>,
    /// `None` while content is read.
    metadata: RefCell<Option<Vec<u8>>>,
}

impl Meter {
    /// From here on the stream is headers: limited and recorded.
    pub(crate) fn expect_metadata(&self) {
        self.start.set(self.position.get());
        self.metadata.replace(Some(Vec::new()));
    }

    /// From here on the stream is content. Gives the extended header of the entry just read.
    pub(crate) fn expect_content(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let metadata = self.metadata.take().unwrap_or_default();
        // What stands before the first block boundary is padding of the entry before.
        let padding = (self.start.get() as usize).wrapping_neg() % BLOCK;
        extended_header(metadata.get(padding..).unwrap_or_default())
    }
}

/// The stream to give to the tar reader.
pub(crate) struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
}

impl<R> Metered<R> {
    pub(crate) fn new(inner: R) -> (Self, Rc<Meter>) {
        let meter = Rc::default();
        (Self { inner, meter: Rc::clone(&meter) }, meter)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut metadata = self.meter.metadata.borrow_mut();
        let left = metadata.as_ref().map_or(usize::MAX, |bytes| ENTRY_METADATA_BYTES_MAX - bytes.len());
        if left == 0 {
            return Err(io::Error::other("the metadata of one entry is too large"));
        }
        let most = buffer.len().min(left);
        let count = self.inner.read(&mut buffer[..most])?;
        if let Some(bytes) = metadata.as_mut() {
            bytes.extend_from_slice(&buffer[..count]);
        }
        self.meter.position.set(self.meter.position.get() + count as u64);
        Ok(count)
    }
}

/// Finds the extended header among the blocks that precede an entry's own header.
fn extended_header(mut blocks: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    while let Some((block, rest)) = blocks.split_at_checked(BLOCK) {
        let header = Header::from_byte_slice(block);
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok());
        let Some(data) = size.and_then(|size| rest.get(..size)) else { break };
        match header.entry_type() {
            EntryType::XHeader => return records(data),
            EntryType::GNULongName | EntryType::GNULongLink => {}
            _ => break,
        }
        blocks = rest.get(data.len().next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    Vec::new()
}

/// `<length> <key>=<value>\n`, the length counting the whole record. Stops where that does not hold.
fn records(mut data: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((record, rest)) = next_record(data) {
        if let Some(at) = record.iter().position(|byte| *byte == b'=') {
            records.push((record[..at].to_vec(), record[at + 1..].to_vec()));
        }
        data = rest;
    }
    records
}

fn next_record(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = data.iter().take(9).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..digits]).ok()?.parse().ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    Some((record.get(digits + 1..)?.strip_suffix(b"\n")?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: &[u8], expect: &[(&str, &[u8])]) {
        let expect: Vec<_> = expect.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect();
        assert_eq!(records(data), expect, "{}", String::from_utf8_lossy(data));
    }

    #[test]
    fn records_are_as_long_as_they_say() {
        check(b"6 a=1\n7 b=\n2\n", &[("a", b"1"), ("b", b"\n2")]);
        check(b"6 a==\n", &[("a", b"=")]);
        for bad in [&b"9 a=1\n"[..], b"5 a=1\n", b"x a=1\n", b"6 a=1x", b"0 ", b"1 ", b"", b"99999999999 a=1\n"] {
            check(bad, &[]);
        }
    }
}
