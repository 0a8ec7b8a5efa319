//! One layer comes over: resumed where it broke, checked, and only then among the blobs.

use super::super::digest::Digest;
use super::super::error::{ImageError, ImageResult};
use super::super::manifest::Descriptor;
use super::super::partial::{self, Writer};
use super::super::store::{Pin, Store};
use super::client::{self, Client};
use super::failure::{Attempt, Failure};
use super::{blocking, hint, tell};
use crate::progress::ProgressSender;
use bytes::Bytes;
use reqwest::StatusCode;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Tries without any progress between them.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// Tries in all: a registry that gives a byte each time is none.
const ATTEMPTS_TOTAL_MAX: u32 = 100;
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
        let path = partial::path(store.root(), &layer.digest);
        let resumed = receive(&client, &layer, &path, &id, &progress).await?;
        if let Err(error) = resumed.check(&layer) {
            remove(path.clone()).await;
            if resumed.began_at == 0 {
                return Err(error.into());
            }
            // Only the beginning that was kept may be bad.
            let anew = receive(&client, &layer, &path, &id, &progress).await?;
            if let Err(error) = anew.check(&layer) {
                remove(path).await;
                return Err(error.into());
            }
        }
        hint(&progress, &id, "Verifying Checksum", 0, 0)?;
        let (store, path, digest) =
            (Arc::clone(&store), partial::path(store.root(), &layer.digest), layer.digest.clone());
        blocking(move || store.keep_blob(&path, &digest)).await?;
    }
    drop(turn);
    tell(&progress, Some(&id), "Download complete", 0, 0).await?;
    Ok(pin)
}

/// What came over.
struct Received {
    digest: Digest,
    size: u64,
    /// Bytes that were here before.
    began_at: u64,
}

impl Received {
    fn check(&self, layer: &Descriptor) -> ImageResult<()> {
        check(layer, self.digest.clone(), self.size)
    }
}

/// Brings the rest of the blob into the file. A beginning stays for the next try, unless
/// what came cannot be the blob.
async fn receive(
    client: &Client,
    layer: &Descriptor,
    path: &Path,
    id: &str,
    progress: &ProgressSender,
) -> Attempt<Received> {
    let (file, size) = (path.to_owned(), layer.size);
    let out = blocking(move || partial::open(&file, size)).await?;
    let began_at = out.bytes();
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let file = path.to_owned();
    let writer = blocking(move || write(&file, out, receiver));
    let fetcher = async {
        let outcome = fetch(client, layer, id, &sender, progress, began_at).await;
        drop(sender);
        outcome
    };
    let (fetched, written) = tokio::join!(fetcher, writer);
    // If writing failed, fetching only says that nobody takes its pieces any more.
    let written = written.and_then(|written| fetched.map(|()| written));
    match written {
        Ok((digest, size)) => Ok(Received { digest, size, began_at }),
        Err(failure) => {
            if matches!(failure, Failure::Store(_)) {
                remove(path.to_owned()).await;
            }
            Err(failure)
        }
    }
}

async fn remove(path: PathBuf) {
    // What stays is found out by its digest, or gone in a day.
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
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

fn write(path: &Path, mut out: Writer, mut pieces: mpsc::Receiver<Piece>) -> ImageResult<(Digest, u64)> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(data) => out.write_all(&data).map_err(ImageError::file("writing", path))?,
            Piece::Restart => out = partial::begin(path)?,
        }
    }
    out.flush().map_err(ImageError::file("writing", path))?;
    let (_, digest, size) = out.finish();
    Ok((digest, size))
}

/// Receives the whole blob, over several connections if need be.
async fn fetch(
    client: &Client,
    layer: &Descriptor,
    id: &str,
    pieces: &mpsc::Sender<Piece>,
    progress: &ProgressSender,
    began_at: u64,
) -> Attempt<()> {
    let mut received = began_at;
    let mut attempt = 0;
    let mut tries = 0;
    while received < layer.size || layer.size == 0 {
        let before = received;
        tries += 1;
        let Err(failure) = fetch_once(client, layer, id, pieces, progress, &mut received).await else {
            return Ok(());
        };
        attempt = if received > before { 1 } else { attempt + 1 };
        if !failure.is_passing() || attempt >= ATTEMPTS_MAX || tries >= ATTEMPTS_TOTAL_MAX {
            return Err(failure);
        }
        let pause = backoff(attempt);
        tracing::info!(layer = id, %failure, attempt, "a layer's download broke and will be resumed");
        hint(progress, id, &format!("Retrying in {} seconds", pause.as_secs().max(1)), 0, 0)?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
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
    // What the registry says it has; `None` if it does not say.
    let offered = response.content_length().map(|length| length + *received);
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
    if *received < layer.size && offered == Some(*received) {
        let why =
            format!("layer {}: the registry has {received} bytes, the manifest says {}", layer.digest, layer.size);
        return Err(ImageError::Limit(why).into());
    }
    if *received < layer.size {
        return Err(Failure::Unreachable(format!("layer {}: the connection was closed early", layer.digest)));
    }
    Ok(())
}
