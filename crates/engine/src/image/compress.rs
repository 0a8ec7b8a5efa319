//! Recognises how an archive is compressed by its first bytes.

use super::error::{ImageError, ImageResult};
use flate2::bufread::MultiGzDecoder;
use std::io::{BufRead, BufReader, Cursor, Read};

/// Bytes looked at to recognise a format.
const MAGIC_LENGTH: usize = 6;
const BUFFER_BYTES: usize = 128 * 1024;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Reads the first bytes; gives back the format and a stream that starts at the beginning.
pub(crate) fn detect<R: Read>(mut stream: R) -> ImageResult<(Compression, impl BufRead + use<R>)> {
    let mut start = Vec::with_capacity(MAGIC_LENGTH);
    (&mut stream).take(MAGIC_LENGTH as u64).read_to_end(&mut start).map_err(ImageError::io("reading the archive"))?;
    let compression = match start.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(ImageError::Compression("xz-compressed")),
        [b'B', b'Z', b'h', ..] => return Err(ImageError::Compression("bzip2-compressed")),
        _ => Compression::Plain,
    };
    Ok((compression, BufReader::with_capacity(BUFFER_BYTES, Cursor::new(start).chain(stream))))
}

/// A reader of the uncompressed content.
pub(crate) fn decoder<'a>(compression: Compression, stream: impl BufRead + 'a) -> ImageResult<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Plain => Box::new(stream),
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(stream))),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(stream).map_err(ImageError::io("opening zstd"))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(stored: &[u8], expect: Compression, plain: &[u8]) {
        let (compression, stream) = detect(stored).unwrap();
        assert_eq!(compression, expect);
        let mut out = Vec::new();
        decoder(compression, stream).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(out, plain);
    }

    #[test]
    fn formats_are_recognised_by_their_first_bytes() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"content").unwrap();
        check(&gzip.finish().unwrap(), Compression::Gzip, b"content");
        check(&zstd::encode_all(&b"content"[..], 1).unwrap(), Compression::Zstd, b"content");
        check(b"content", Compression::Plain, b"content");
        check(b"", Compression::Plain, b"");
        assert!(detect(&b"\xfd7zXZ\0abc"[..]).is_err());
        assert!(detect(&b"BZh91AY"[..]).is_err());
    }
}
