//! A tar becomes a layer: hashed, unpacked and, where needed, compressed, in one pass.

use super::compress::{self, Compression};
use super::digest::{Digest, Hashing};
use super::error::{ImageError, ImageResult};
use super::index::{BlobRecord, LayerRecord};
use super::pack::{self, Marks};
use super::store::{self, Pin, Store};
use super::unpack;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

/// Fast rather than small: layers are compressed while somebody waits.
pub(crate) const GZIP_LEVEL: u32 = 1;

const PIPE_BUFFER_BYTES: usize = 64 * 1024;

/// What to keep of a layer besides its unpacked content.
pub(crate) enum Keep {
    /// Nothing: packing the directory again gives the same tar.
    Directory,
    /// The compressed tar is among the blobs already.
    Blob(BlobRecord),
    /// Compress the tar while it passes: a foreign tar cannot be made again.
    Compress,
}

impl Store {
    /// Unpacks an uncompressed tar on top of `parent`. `expected` is its diff id, if known.
    /// The pin keeps the layer until an image uses it. Blocking.
    pub(crate) fn add_tar(
        self: &Arc<Self>,
        tar: impl Read,
        parent: Option<&Digest>,
        expected: Option<&Digest>,
        keep: Keep,
    ) -> ImageResult<(Arc<LayerRecord>, Pin)> {
        let directory = self.temporary();
        let diff = directory.path().join("diff");
        std::fs::create_dir_all(&diff).map_err(ImageError::file("making", &diff))?;
        store::open_to_all(&diff)?;
        let compressed = self.temporary();
        let encoder = match keep {
            Keep::Compress => Some(encoder(compressed.path())?),
            Keep::Directory | Keep::Blob(_) => None,
        };
        let mut reader = Hashing::new(Tee { from: tar, to: encoder });
        let unpacked = unpack::unpack(&mut reader, &diff)?;
        let (tee, diff_id, tar_size) = reader.finish();
        if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
            return Err(ImageError::DigestMismatch { expected: expected.clone(), actual: diff_id });
        }
        let chain_id = Digest::chain(parent, &diff_id);
        let mut blob_pin = None;
        let blob = match (keep, tee.to) {
            (Keep::Blob(blob), _) => Some(blob),
            (Keep::Compress, Some(encoder)) => {
                let (blob, pin) = self.finish_blob(encoder, compressed.path())?;
                blob_pin = Some(pin);
                Some(blob)
            }
            (Keep::Compress | Keep::Directory, _) => None,
        };
        let pin = self.pin(&chain_id);
        let layer = LayerRecord { chain_id: chain_id.clone(), diff_id, size: unpacked.size, tar_size, blob };
        self.keep_layer(directory.path(), layer)?;
        drop(blob_pin);
        let layer = self.index().layer(&chain_id).cloned();
        layer.map(|layer| (layer, pin)).ok_or_else(|| ImageError::Config(format!("layer {chain_id} disappeared")))
    }

    /// [`Store::add_tar`] of a tar of which neither the compression nor the digest is known.
    pub(crate) fn add_foreign_tar(
        self: &Arc<Self>,
        stream: impl Read,
        parent: Option<&Digest>,
        expected: Option<&Digest>,
    ) -> ImageResult<(Arc<LayerRecord>, Pin)> {
        let (compression, stream) = compress::detect(stream)?;
        self.add_tar(compress::decoder(compression, stream)?, parent, expected, Keep::Compress)
    }

    /// Unpacks a compressed layer that is among the blobs; `content` reads the blob. Blocking.
    pub(crate) fn add_blob_layer(
        self: &Arc<Self>,
        content: impl Read,
        blob: &Digest,
        size: u64,
        parent: Option<&Digest>,
        expected: &Digest,
    ) -> ImageResult<(Arc<LayerRecord>, Pin)> {
        let (compression, stream) = compress::detect(content)?;
        let keep = match compression {
            Compression::Plain => Keep::Compress,
            Compression::Gzip => Keep::Blob(BlobRecord { digest: blob.clone(), size, zstd: false }),
            Compression::Zstd => Keep::Blob(BlobRecord { digest: blob.clone(), size, zstd: true }),
        };
        self.add_tar(compress::decoder(compression, stream)?, parent, Some(expected), keep)
    }

    /// Copies an overlay upper directory as a layer on top of `parent`. Blocking.
    pub(crate) fn add_directory(
        self: &Arc<Self>,
        upper: &Path,
        parent: Option<&Digest>,
    ) -> ImageResult<(Arc<LayerRecord>, Pin)> {
        let (reader, writer) = io::pipe().map_err(ImageError::io("making a pipe"))?;
        std::thread::scope(|scope| {
            let packer = scope.spawn(move || {
                let mut out = pack::pack(upper, Marks::ToWhiteouts, BufWriter::new(writer))?;
                out.flush().map_err(ImageError::io("writing the layer"))
            });
            let tar = Packed { pipe: reader, packer: Some(packer), failure: None };
            let mut tar = io::BufReader::with_capacity(PIPE_BUFFER_BYTES, tar);
            let outcome = self.add_tar(&mut tar, parent, None, Keep::Directory);
            // What went wrong while packing explains what the unpacker saw.
            tar.into_inner().failure.map_or(outcome, Err)
        })
    }

    /// The compressed tar of a layer, made and remembered if there is none yet. Blocking.
    pub(crate) fn compressed(self: &Arc<Self>, layer: &LayerRecord) -> ImageResult<(BlobRecord, Pin)> {
        if let Some(blob) = &layer.blob {
            return Ok((blob.clone(), self.pin(&blob.digest)));
        }
        let temporary = self.temporary();
        let out = Hashing::new(encoder(temporary.path())?);
        let out = pack::pack(&self.diff_path(&layer.chain_id), Marks::ToWhiteouts, out)?;
        let (encoder, diff_id, _) = out.finish();
        check_unchanged(layer, diff_id)?;
        let (blob, pin) = self.finish_blob(encoder, temporary.path())?;
        self.update_layer(LayerRecord { blob: Some(blob.clone()), ..layer.clone() })?;
        Ok((blob, pin))
    }

    /// Writes the uncompressed tar of a layer: `tar_size` bytes. Blocking.
    pub(crate) fn write_tar(&self, layer: &LayerRecord, out: impl Write) -> ImageResult<()> {
        let mut out = Hashing::new(out);
        match &layer.blob {
            None => out = pack::pack(&self.diff_path(&layer.chain_id), Marks::ToWhiteouts, out)?,
            Some(blob) => {
                let path = self.blob_path(&blob.digest);
                let file = File::open(&path).map_err(ImageError::file("opening", &path))?;
                let (compression, stream) = compress::detect(file)?;
                let mut content = compress::decoder(compression, stream)?;
                io::copy(&mut content, &mut out).map_err(ImageError::file("reading", &path))?;
            }
        }
        let (_, diff_id, _) = out.finish();
        check_unchanged(layer, diff_id)
    }

    /// Ends a compressed file and moves it among the blobs.
    pub(crate) fn finish_blob(
        self: &Arc<Self>,
        encoder: GzEncoder<Hashing<BufWriter<File>>>,
        path: &Path,
    ) -> ImageResult<(BlobRecord, Pin)> {
        let (mut file, digest, size) = encoder.finish().map_err(ImageError::file("compressing", path))?.finish();
        file.flush().map_err(ImageError::file("compressing", path))?;
        let pin = self.pin(&digest);
        self.keep_blob(path, &digest)?;
        Ok((BlobRecord { digest, size, zstd: false }, pin))
    }
}

fn check_unchanged(layer: &LayerRecord, actual: Digest) -> ImageResult<()> {
    if actual == layer.diff_id {
        return Ok(());
    }
    Err(ImageError::DigestMismatch { expected: layer.diff_id.clone(), actual })
}

/// A tar that another thread packs. Its end is only believed once the packer succeeded.
struct Packed<'scope> {
    pipe: io::PipeReader,
    packer: Option<ScopedJoinHandle<'scope, ImageResult<()>>>,
    failure: Option<ImageError>,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        match self.packer.take().map(ScopedJoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(0),
            Some(Ok(Err(error))) => {
                self.failure = Some(error);
                Err(io::Error::other("the directory could not be packed"))
            }
            Some(Err(_)) => Err(io::Error::other("the packing thread panicked")),
        }
    }
}

/// A gzip file being written, hashed as it goes.
pub(crate) fn encoder(path: &Path) -> ImageResult<GzEncoder<Hashing<BufWriter<File>>>> {
    let file = File::create(path).map_err(ImageError::file("making", path))?;
    Ok(GzEncoder::new(Hashing::new(BufWriter::new(file)), flate2::Compression::new(GZIP_LEVEL)))
}

/// Copies what is read to a writer.
struct Tee<R, W> {
    from: R,
    to: Option<W>,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Some(to) = &mut self.to {
            to.write_all(&buffer[..count])?;
        }
        Ok(count)
    }
}
