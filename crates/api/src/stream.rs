//! Bodies that go on: multiplexed output, hijacked connections, progress lines.

use crate::detach::DetachKeys;
use crate::error::ApiError;
use crate::version::ApiVersion;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_engine::container::{Attached, Chunk, LogLine, Stream as OutputStream};
use skep_engine::progress::Progress;
use skep_model::{Error, Timestamp};
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
pub(crate) const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";
/// Bytes read from a client at a time.
const INPUT_CHUNK: usize = 32 << 10;
/// Progress reports that may wait for a slow client before the work waits too.
pub(crate) const PROGRESS_QUEUE: usize = 64;

/// The content type of a stream; the multiplexed one has a name of its own since 1.42.
pub(crate) fn stream_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version.at_least(42) { MULTIPLEXED_STREAM } else { RAW_STREAM }
}

/// One frame: stream number, three zero bytes, big-endian length, content.
pub(crate) fn frame(stream: OutputStream, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + data.len());
    out.put_u8(match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    });
    out.put_bytes(0, 3);
    // A chunk comes out of one read or one log line, both far below 4 GiB.
    out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_slice(data);
    out.freeze()
}

/// A frame of stream 3: the daemon's own trouble, which clients fail with.
pub(crate) fn system_error(message: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + message.len());
    out.put_slice(&[3, 0, 0, 0]);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message.as_bytes());
    out.freeze()
}

fn encode(chunk: Chunk, tty: bool) -> Bytes {
    if tty { chunk.data } else { frame(chunk.stream, &chunk.data) }
}

/// A body that ends with the stream.
pub(crate) fn streamed(content_type: &'static str, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// How log lines are printed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogFormat {
    pub(crate) tty: bool,
    pub(crate) timestamps: bool,
    pub(crate) details: bool,
}

/// One log line as a client gets it.
pub(crate) fn log_line(line: &LogLine, details: &str, format: LogFormat) -> Bytes {
    let mut text = Vec::with_capacity(line.data.len() + 64);
    if format.timestamps {
        text.extend_from_slice(log_time(line.at).as_bytes());
        text.push(b' ');
    }
    if format.details {
        text.extend_from_slice(details.as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.data);
    if format.tty { text.into() } else { frame(line.stream, &text) }
}

/// Log times always show nine digits, so that columns align.
fn log_time(at: Timestamp) -> String {
    at.to_chrono().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// The lines of one container.
pub(crate) fn log_body(lines: mpsc::Receiver<LogLine>, format: LogFormat) -> impl Stream<Item = Bytes> + Send {
    ReceiverStream::new(lines).map(move |line| log_line(&line, "", format))
}

/// How to talk to an attached process.
pub(crate) struct Conversation {
    pub(crate) tty: bool,
    pub(crate) keys: DetachKeys,
    pub(crate) version: ApiVersion,
}

/// Turns the connection into a two-way stream: by upgrade if the client asked for one,
/// else with the request body as input and the response body as output.
///
/// The process is taken only when an upgraded client has its answer: what an SDK reads
/// together with the answer's head it loses.
pub(crate) async fn converse(
    mut request: Request,
    conversation: Conversation,
    process: impl Future<Output = Attached> + Send + 'static,
) -> Response {
    let content_type = stream_type(conversation.tty, conversation.version);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    match upgrade {
        Some(upgrade) if wants_upgrade(request.headers()) => {
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(upgraded) => pump(TokioIo::new(upgraded), process.await, conversation.keys).await,
                    Err(error) => tracing::debug!(%error, "client left before the upgrade"),
                }
            });
            let headers =
                [(header::CONTENT_TYPE, content_type), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
            let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
            response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
            response
        }
        _ => plain_conversation(request, process.await, content_type),
    }
}

/// Whether the client can take an upgraded connection.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"tcp"));
    let connection = headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|v| v.to_str().unwrap_or_default().split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")));
    upgrade && connection
}

fn plain_conversation(request: Request, attached: Attached, content_type: &'static str) -> Response {
    if let Some(input) = attached.input {
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.frame().await {
                if let Ok(data) = piece.into_data()
                    && input.send(data).await.is_err()
                {
                    break;
                }
            }
        });
    }
    let tty = attached.tty;
    streamed(content_type, ReceiverStream::new(attached.output).map(move |chunk| encode(chunk, tty)))
}

/// How long late input of a client is still read after the output has ended.
pub(crate) const LINGER: std::time::Duration = std::time::Duration::from_millis(250);

/// Moves bytes both ways until the output ends, the client detaches or cannot be
/// written to. The end of the client's input closes the process's stdin and no more.
async fn pump(stream: impl AsyncRead + AsyncWrite, attached: Attached, keys: DetachKeys) {
    let Attached { tty, mut output, input } = attached;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let keys = tty.then_some(keys);
    let outward = async {
        while let Some(chunk) = output.recv().await {
            if writer.write_all(&encode(chunk, tty)).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
        // Closed with input unread, the kernel would reset the connection under the client.
        tokio::time::sleep(LINGER).await;
    };
    let inward = async {
        if forward_input(&mut reader, input, keys).await == InputEnd::Detached {
            return;
        }
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        // Half-closed: the output goes on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
    // Both halves drop here, which closes the connection.
}

#[derive(Debug, PartialEq, Eq)]
enum InputEnd {
    Closed,
    Detached,
}

async fn forward_input(
    mut reader: impl AsyncRead + Unpin,
    input: Option<mpsc::Sender<Bytes>>,
    mut keys: Option<DetachKeys>,
) -> InputEnd {
    let Some(input) = input else {
        // Nobody reads it, yet a client that sends must not block for ever.
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        return InputEnd::Closed;
    };
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return InputEnd::Closed,
            Ok(count) => count,
        };
        let (data, detached) = match &mut keys {
            Some(keys) => keys.feed(&buffer[..count]),
            None => (buffer[..count].to_vec(), false),
        };
        let delivered = data.is_empty() || input.send(data.into()).await.is_ok();
        if detached {
            return InputEnd::Detached;
        }
        if !delivered {
            return InputEnd::Closed;
        }
    }
}

/// A progress report as its JSON line.
pub(crate) fn progress_line(progress: &Progress) -> Bytes {
    let value = match progress {
        Progress::Stream(text) => serde_json::json!({ "stream": text }),
        Progress::Status { id, status, current, total } => status_line(id.as_deref(), status, *current, *total),
        Progress::ImageId(id) => serde_json::json!({ "aux": { "ID": id } }),
        Progress::Pushed { tag, digest, size } => {
            serde_json::json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } })
        }
        Progress::Build(event) => crate::json::build_event::line(event),
    };
    json_line(&value)
}

fn status_line(id: Option<&str>, status: &str, current: u64, total: u64) -> serde_json::Value {
    let mut line = serde_json::Map::new();
    line.insert("status".into(), status.into());
    if let Some(id) = id {
        let mut detail = serde_json::Map::new();
        if current > 0 || total > 0 {
            detail.insert("current".into(), current.into());
            detail.insert("total".into(), total.into());
            line.insert("progress".into(), progress_bar(current, total).into());
        }
        line.insert("progressDetail".into(), detail.into());
        line.insert("id".into(), id.into());
    }
    line.into()
}

/// The bar that old clients print as it is: `[==>    ]  12.3MB/45MB`.
fn progress_bar(current: u64, total: u64) -> String {
    if total == 0 {
        return format!("{:>8}", crate::json::human_size(current));
    }
    let shown = current.min(total);
    let filled = usize::try_from(u128::from(shown) * 50 / u128::from(total)).unwrap_or(50);
    let (bar, gap) = ("=".repeat(filled), " ".repeat(50 - filled));
    format!("[{bar}>{gap}] {:>8}/{}", crate::json::human_size(shown), crate::json::human_size(total))
}

/// An error after the 200: `errorDetail` and `error` in the stream.
pub(crate) fn error_line(error: &Error) -> Bytes {
    json_line(&serde_json::json!({ "errorDetail": { "message": error.message }, "error": error.message }))
}

/// One JSON value and CR LF, as progress streams separate theirs.
pub(crate) fn json_line(value: &serde_json::Value) -> Bytes {
    let mut line = value.to_string();
    line.push_str("\r\n");
    line.into()
}

/// Runs work that reports progress. An error before the first report is a plain error
/// answer; after it, it is a line of the stream. `quiet` leaves out the progress bars.
/// `finish` gives the last lines.
pub(crate) async fn with_progress<T, F>(
    work: impl FnOnce(mpsc::Sender<Progress>) -> F,
    quiet: bool,
    finish: impl FnOnce(T) -> Vec<Bytes> + Send + 'static,
) -> Result<Response, ApiError>
where
    T: Send + 'static,
    F: Future<Output = skep_model::Result<T>> + Send + 'static,
{
    let (sender, mut reports) = mpsc::channel(PROGRESS_QUEUE);
    let task = tokio::spawn(work(sender));
    let first = reports.recv().await;
    if first.is_none() {
        // The work dropped its sender: it is over or about to be.
        let lines = finish(joined(task.await)?);
        return Ok(streamed("application/json", futures_util::stream::iter(lines)));
    }
    let (lines, body) = mpsc::channel(PROGRESS_QUEUE);
    tokio::spawn(async move {
        let mut report = first;
        while let Some(progress) = report {
            // A client that left cancels the work: it fails at its next report.
            let told = !(quiet && matches!(progress, Progress::Status { .. }));
            if told && lines.send(progress_line(&progress)).await.is_err() {
                return;
            }
            report = tokio::select! {
                report = reports.recv() => report,
                () = lines.closed() => return,
            };
        }
        let last = match joined(task.await) {
            Ok(value) => finish(value),
            Err(error) => vec![error_line(&error)],
        };
        for line in last {
            let _ = lines.send(line).await;
        }
    });
    Ok(streamed("application/json", ReceiverStream::new(body)))
}

fn joined<T>(outcome: Result<skep_model::Result<T>, tokio::task::JoinError>) -> skep_model::Result<T> {
    outcome.unwrap_or_else(|error| Err(Error::internal(format!("the work ended unexpectedly: {error}"))))
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
