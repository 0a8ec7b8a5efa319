//! One layer comes over: resumed where it broke, checked, and only then among the blobs.

use super::super::digest::{Digest, Hashing};
use super::super::error::{ImageError, ImageResult};
use super::super::manifest::Descriptor;
use super::super::store::{Pin, Store};
use super::client::{self, Client};
use super::failure::{Attempt, Failure};
use super::{blocking, hint, tell};
use crate::progress::ProgressSender;
use bytes::Bytes;
use reqwest::StatusCode;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Tries without any progress between them.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Pieces received but not yet written.
const PIECES_AHEAD: usize = 32;
/// Progress is told at most so often per layer.
const REPORTS_PER_LAYER: u64 = 100;
const REPORT_BYTES_MIN: u64 = 256 * 1024;

/// How long to wait before try number `attempt` (from 1).
pub(crate) fn backoff(attempt: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX)
}

/// What the writing thread is told.
enum Piece {
    Data(Bytes),
    /// The registry began anew.
    Restart,
}

/// Sees to it that the blob is in the store; the pin keeps it there.
pub(crate) async fn download(
    store: Arc<Store>,
    client: Arc<Client>,
    layer: Descriptor,
    progress: ProgressSender,
) -> Attempt<Pin> {
    let id = layer.digest.short().to_owned();
    let busy = store.busy(&layer.digest);
    // Another pull may be fetching the same blob: then it is here when our turn comes.
    let turn = busy.lock().await;
    let pin = store.pin(&layer.digest);
    if !store.has_blob(&layer.digest) {
        let temporary = store.temporary();
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let path = temporary.path().to_owned();
        let writer = blocking(move || write(&path, receiver));
        let fetcher = async {
            let outcome = fetch(&client, &layer, &id, &sender, &progress).await;
            drop(sender);
            outcome
        };
        let (fetched, written) = tokio::join!(fetcher, writer);
        // If writing failed, fetching only says that nobody takes its pieces any more.
        let (digest, size) = written?;
        fetched?;
        hint(&progress, &id, "Verifying Checksum", 0, 0)?;
        check(&layer, digest, size)?;
        let (store, path, digest) = (Arc::clone(&store), temporary.path().to_owned(), layer.digest.clone());
        blocking(move || store.keep_blob(&path, &digest)).await?;
    }
    drop(turn);
    tell(&progress, Some(&id), "Download complete", 0, 0).await?;
    Ok(pin)
}

fn check(layer: &Descriptor, actual: Digest, size: u64) -> ImageResult<()> {
    if actual != layer.digest {
        return Err(ImageError::DigestMismatch { expected: layer.digest.clone(), actual });
    }
    if layer.size != 0 && size != layer.size {
        return Err(ImageError::Limit(format!("layer {actual}: {size} bytes instead of {}", layer.size)));
    }
    Ok(())
}

fn write(path: &Path, mut pieces: mpsc::Receiver<Piece>) -> ImageResult<(Digest, u64)> {
    let mut out = create(path)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(data) => out.write_all(&data).map_err(ImageError::file("writing", path))?,
            Piece::Restart => out = create(path)?,
        }
    }
    out.flush().map_err(ImageError::file("writing", path))?;
    let (_, digest, size) = out.finish();
    Ok((digest, size))
}

fn create(path: &Path) -> ImageResult<Hashing<BufWriter<File>>> {
    let file = File::create(path).map_err(ImageError::file("making", path))?;
    Ok(Hashing::new(BufWriter::with_capacity(256 * 1024, file)))
}

/// Receives the whole blob, over several connections if need be.
async fn fetch(
    client: &Client,
    layer: &Descriptor,
    id: &str,
    pieces: &mpsc::Sender<Piece>,
    progress: &ProgressSender,
) -> Attempt<()> {
    let mut received = 0_u64;
    let mut attempt = 0;
    loop {
        let before = received;
        let Err(failure) = fetch_once(client, layer, id, pieces, progress, &mut received).await else {
            return Ok(());
        };
        attempt = if received > before { 1 } else { attempt + 1 };
        if !failure.is_passing() || attempt >= ATTEMPTS_MAX {
            return Err(failure);
        }
        let pause = backoff(attempt);
        tracing::info!(layer = id, %failure, attempt, "a layer's download broke and will be resumed");
        hint(progress, id, &format!("Retrying in {} seconds", pause.as_secs().max(1)), 0, 0)?;
        tokio::time::sleep(pause).await;
    }
}

async fn fetch_once(
    client: &Client,
    layer: &Descriptor,
    id: &str,
    pieces: &mpsc::Sender<Piece>,
    progress: &ProgressSender,
    received: &mut u64,
) -> Attempt<()> {
    let closed = |_| Failure::Store(ImageError::Limit("the layer could not be written".into()));
    let mut response = client.blob(&layer.digest, *received).await?;
    if *received > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        *received = 0;
        pieces.send(Piece::Restart).await.map_err(closed)?;
    }
    let step = (layer.size / REPORTS_PER_LAYER).max(REPORT_BYTES_MIN);
    let mut reported = 0;
    let broken = |e| client::unreachable(&format!("blob {}", layer.digest), &e);
    while let Some(data) = response.chunk().await.map_err(broken)? {
        *received += data.len() as u64;
        if *received > layer.size {
            let why = format!("layer {}: more than the {} bytes it should have", layer.digest, layer.size);
            return Err(ImageError::Limit(why).into());
        }
        pieces.send(Piece::Data(data)).await.map_err(closed)?;
        if *received >= reported + step {
            reported = *received;
            hint(progress, id, "Downloading", *received, layer.size)?;
        }
    }
    if *received < layer.size {
        return Err(Failure::Unreachable(format!("layer {}: the connection was closed early", layer.digest)));
    }
    Ok(())
}
