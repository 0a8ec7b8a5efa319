//! `POST /session`, `POST /grpc`, and `POST /build` for clients with a session.

use crate::backend::Backend;
use crate::error::{ApiError, Reply};
use crate::request::Query;
use crate::route::build::read_options;
use crate::stream::{PROGRESS_QUEUE, error_line, json_line, streamed};
use crate::upload::reader;
use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use skep_buildkit::session::Announced;
use skep_buildkit::trace::Tracer;
use skep_buildkit::{BuildKit, Request as BuildRequest, Running};
use skep_engine::build::{BuildInput, BuildOptions, Given, Style, build as run_build};
use skep_engine::progress::{Progress, ProgressSender};
use skep_model::{Error, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const HTTP2: &str = "h2c";
const UPLOAD_PREFIX: &str = "upload-request:";
const UPLOAD_REMOTE: &str = "upload-request";

/// The client serves gRPC to us on this connection.
pub(crate) async fn session(
    Extension(buildkit): Extension<BuildKit>,
    mut request: Request,
) -> std::result::Result<Response, ApiError> {
    let announced = Announced::of(request.headers())?;
    upgraded(&mut request, |upgrade| async move {
        let served = match upgrade.await {
            Ok(connection) => buildkit.serve_session(announced, connection).await,
            Err(error) => Err(Error::internal(error.to_string())),
        };
        if let Err(error) = served {
            tracing::info!(%error, "a build session ended early");
        }
    })
}

/// The client calls us by gRPC on this connection.
pub(crate) async fn calls(
    Extension(buildkit): Extension<BuildKit>,
    mut request: Request,
) -> std::result::Result<Response, ApiError> {
    upgraded(&mut request, |upgrade| async move {
        match upgrade.await {
            Ok(connection) => buildkit.serve_calls(connection).await,
            Err(error) => tracing::debug!(%error, "client left before the upgrade"),
        }
    })
}

fn upgraded<F: Future<Output = ()> + Send + 'static>(
    request: &mut Request,
    serve: impl FnOnce(OnUpgrade) -> F,
) -> std::result::Result<Response, ApiError> {
    let wants = wants_http2(request.headers());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wants);
    let upgrade = upgrade.ok_or_else(|| Error::invalid("this path wants an upgrade of the connection to h2c"))?;
    tokio::spawn(serve(upgrade));
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, HTTP2)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn wants_http2(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(HTTP2.as_bytes()))
}

/// `POST /build?version=2`: a build whose files come through a session, told as traces; or
/// the context of one.
pub(crate) async fn build(buildkit: &BuildKit, backend: &Backend, query: &Query, body: Body) -> Reply {
    let name = query.get("buildid").to_owned();
    if let Some(name) = name.strip_prefix(UPLOAD_PREFIX) {
        let (noted, taken) = Noted::new(reader(body));
        buildkit.upload(name, Box::new(noted))?;
        // The client takes an answer for the end of its upload.
        let _ = taken.await;
        return Ok(StatusCode::OK.into_response());
    }
    let (options, _) = read_options(query)?;
    let quiet = options.style == Style::Quiet;
    let request = BuildRequest::new(query.get("session"), options.clone());
    let running = buildkit.begin(&name);
    let (buildkit, engine) = (buildkit.clone(), backend.engine.clone());
    let remote = query.get("remote").to_owned();
    let work = move |progress: ProgressSender| async move {
        match remote.as_str() {
            UPLOAD_REMOTE => buildkit.solve_upload(&name, request, progress).await,
            "" => {
                let input = BuildInput {
                    context: Box::new(reader(body)),
                    dockerfile: None,
                    client: Arc::new(Given::default()),
                };
                run_build(&engine, input, BuildOptions { style: Style::Events, ..options }, progress).await
            }
            _ => buildkit.solve(request, progress).await,
        }
    };
    Ok(traced(work, quiet, running))
}

/// Runs the work and tells of it: traces, then the image or the error.
fn traced<F>(work: impl FnOnce(ProgressSender) -> F, quiet: bool, running: Running) -> Response
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    let (sender, mut reports) = mpsc::channel(PROGRESS_QUEUE);
    let (lines, body) = mpsc::channel(PROGRESS_QUEUE);
    let task = tokio::spawn(work(sender));
    tokio::spawn(async move {
        let mut tracer = Tracer::new(&hex::encode(rand::random::<[u8; 16]>()));
        loop {
            let report = tokio::select! {
                report = reports.recv() => report,
                // Dropping the reports ends the build.
                () = lines.closed() => return,
                () = running.cancelled() => {
                    let _ = lines.send(error_line(&Error::internal("context canceled"))).await;
                    return;
                }
            };
            match report {
                Some(Progress::Build(event)) => {
                    let trace = STANDARD.encode(tracer.bytes(&event));
                    let _ = lines.send(json_line(&json!({ "id": "moby.buildkit.trace", "aux": trace }))).await;
                }
                Some(_) => {}
                None => break,
            }
        }
        let last = match task.await {
            Ok(Ok(id)) => {
                let _ = lines.send(json_line(&json!({ "id": "moby.image.id", "aux": { "ID": id } }))).await;
                quiet.then(|| json_line(&json!({ "stream": format!("{id}\n") })))
            }
            Ok(Err(error)) => Some(error_line(&error.context("failed to solve"))),
            Err(error) => Some(error_line(&Error::internal(format!("the build ended unexpectedly: {error}")))),
        };
        if let Some(line) = last {
            let _ = lines.send(line).await;
        }
    });
    streamed("application/json", ReceiverStream::new(body))
}

/// A reader that says when it is dropped.
struct Noted<R> {
    inner: R,
    _done: oneshot::Sender<()>,
}

impl<R> Noted<R> {
    fn new(inner: R) -> (Self, oneshot::Receiver<()>) {
        let (done, dropped) = oneshot::channel();
        (Self { inner, _done: done }, dropped)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Noted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_is_over_when_its_reader_is_gone() {
        let (noted, taken) = Noted::new(&b"x"[..]);
        drop(noted);
        assert!(taken.await.is_err(), "dropped, without a word");
    }
}
