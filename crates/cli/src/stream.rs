//! Two-way and line streams: attached processes, logs, progress.

use crate::Outcome;
use crate::client::{ApiError, Client, query};
use crate::terminal;
use anyhow::Context;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io::{Read, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Pieces of standard input under way at most.
const INPUT_QUEUE: usize = 16;
const CHUNK_BYTES: usize = 32 * 1024;
/// Larger frames than this are no frames of ours.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connects this process's standard streams with an attached one until its output ends.
///
/// # Errors
/// The connection broke, or our own output did.
pub(crate) async fn connect<T>(stream: TokioIo<T>, multiplexed: bool, with_input: bool) -> Outcome
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let input = with_input.then(|| {
        tokio::spawn(async move {
            let mut pieces = standard_input();
            while let Some(piece) = pieces.recv().await {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
            // End of our input is end of the process's.
            let _ = writer.shutdown().await;
        })
    });
    let result = copy_output(reader, multiplexed).await;
    if let Some(input) = input {
        input.abort();
    }
    result
}

/// Standard input read by a thread, since a terminal cannot be read without blocking.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut input = std::io::stdin().lock();
        while let Ok(count) = input.read(&mut buffer) {
            if count == 0 || sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Writes a raw or multiplexed stream to standard output and error.
///
/// # Errors
/// The stream broke off inside a frame, or our output failed.
pub(crate) async fn copy_output(mut reader: impl AsyncRead + Unpin, multiplexed: bool) -> Outcome {
    let mut buffer = vec![0; CHUNK_BYTES];
    if !multiplexed {
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => emit(1, &buffer[..count])?,
            }
        }
    }
    let mut header = [0; 8];
    while reader.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(anyhow::anyhow!("a frame of {length} bytes: not an output stream").into());
        }
        let mut left = length;
        while left > 0 {
            let take = left.min(buffer.len());
            let count = reader.read(&mut buffer[..take]).await?;
            if count == 0 {
                return Err(anyhow::anyhow!("the output broke off").into());
            }
            emit(header[0], &buffer[..count])?;
            left -= count;
        }
    }
    Ok(())
}

/// A multiplexed stream, frame by frame.
pub(crate) struct Frames<R> {
    reader: R,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader }
    }

    /// The next frame with the number of its stream; `None` at the end.
    ///
    /// # Errors
    /// The stream broke off inside a frame, or is none.
    pub(crate) async fn next(&mut self) -> Outcome<Option<(u8, Vec<u8>)>> {
        let mut header = [0; 8];
        if self.reader.read_exact(&mut header).await.is_err() {
            return Ok(None);
        }
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if length > LINE_BYTES_MAX {
            return Err(anyhow::anyhow!("a line of {length} bytes: not a log").into());
        }
        let mut data = vec![0; length];
        self.reader.read_exact(&mut data).await.context("the output broke off")?;
        Ok(Some((header[0], data)))
    }
}

/// Writes to standard output (1) or error.
pub(crate) fn emit(stream: u8, bytes: &[u8]) -> std::io::Result<()> {
    if stream == 1 {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    } else {
        std::io::stderr().lock().write_all(bytes)
    }
}

/// The body of an answer as a reader.
pub(crate) fn body_reader(response: Response<Incoming>) -> impl AsyncRead + Unpin {
    let data = http_body_util::BodyDataStream::new(response.into_body());
    let data = futures_util::StreamExt::map(data, |chunk| chunk.map_err(std::io::Error::other));
    tokio_util::io::StreamReader::new(data)
}

/// Calls `each` for every JSON line of a body.
///
/// # Errors
/// What `each` returns, or a malformed line.
pub(crate) async fn json_lines(response: Response<Incoming>, mut each: impl FnMut(Value) -> Outcome) -> Outcome {
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(anyhow::Error::from)?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if !line.iter().all(u8::is_ascii_whitespace) {
                each(serde_json::from_slice(&line).context("a malformed progress line")?)?;
            }
        }
        if pending.len() > LINE_BYTES_MAX {
            return Err(anyhow::anyhow!("a progress line of more than {LINE_BYTES_MAX} bytes").into());
        }
    }
    if pending.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    each(serde_json::from_slice(&pending).context("a malformed progress line")?)
}

/// An `error` field of a progress line, as the error it is.
pub(crate) fn progress_error(line: &Value) -> Outcome {
    match line["errorDetail"]["message"].as_str().or_else(|| line["error"].as_str()) {
        Some(message) => Err(ProgressError(message.to_owned()).into()),
        None => Ok(()),
    }
}

/// A failure told in a progress stream, where the status was already sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ProgressError(String);

impl From<ProgressError> for crate::Failure {
    fn from(error: ProgressError) -> Self {
        Self::Other(error.into())
    }
}

/// Keeps the remote terminal as large as ours until aborted.
pub(crate) fn follow_size(client: Client, path: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
        loop {
            if let Some((height, width)) = terminal::size() {
                let query = query(&[("h", &height.to_string()), ("w", &width.to_string())]);
                // A process that ended has no terminal to resize.
                let _ = client.post(&format!("{path}/resize{query}"), Value::Null).await;
            }
            if changed.recv().await.is_none() {
                return;
            }
        }
    })
}

/// Forwards the signals we get to a container until aborted.
pub(crate) fn forward_signals(client: Client, id: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let kinds =
            [("INT", SignalKind::interrupt()), ("TERM", SignalKind::terminate()), ("HUP", SignalKind::hangup())];
        let (sender, mut received) = mpsc::channel::<&str>(INPUT_QUEUE);
        for (name, kind) in kinds {
            let sender = sender.clone();
            let Ok(mut stream) = signal(kind) else { continue };
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(name).await.is_ok() {} });
        }
        drop(sender);
        while let Some(name) = received.recv().await {
            let sent = client.post(&format!("/containers/{id}/kill?signal={name}"), Value::Null).await;
            if matches!(sent, Err(crate::Failure::Api(ApiError { status: 404 | 409, .. }))) {
                return;
            }
        }
    })
}

/// A GET whose answer is an output stream.
///
/// # Errors
/// What the daemon refused.
pub(crate) async fn get_stream(client: &Client, path: &str) -> Outcome<Response<Incoming>> {
    client.send(Method::GET, path, &[], crate::client::Payload::Empty).await
}

/// Reads a whole stream into a writer.
///
/// # Errors
/// Either side failed.
pub(crate) async fn download(response: Response<Incoming>, mut to: impl AsyncWrite + Unpin) -> Outcome<u64> {
    let mut reader = body_reader(response);
    let count = tokio::io::copy(&mut reader, &mut to).await?;
    to.flush().await?;
    Ok(count)
}
