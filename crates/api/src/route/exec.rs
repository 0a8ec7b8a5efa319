//! `/containers/ID/exec` and `/exec/ID/...`.

use crate::backend::Backend;
use crate::detach::DetachKeys;
use crate::error::{ApiError, Reply, json_reply, ok};
use crate::json::exec::{ExecCreate, ExecInspect, ExecStart};
use crate::request::{Json, Name, Query, decode};
use crate::stream::{Conversation, converse, wants_upgrade};
use crate::version::ApiVersion;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use skep_engine::container::{Attached, Chunk, Stream};
use skep_model::Error;
use tokio::sync::mpsc;

/// Bytes of the start body: three small fields.
const START_BODY_MAX: usize = 4096;

pub(crate) async fn create(State(backend): State<Backend>, Name(name): Name, Json(body): Json<ExecCreate>) -> Reply {
    let id = backend.engine.exec_create(&name, body.into_model()?).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({ "Id": id })))
}

/// The body is read first even when the connection is then taken over: it is part of
/// the request, and what follows it is the process's input.
pub(crate) async fn start(
    State(backend): State<Backend>,
    Name(id): Name,
    Extension(version): Extension<ApiVersion>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let upgrading = wants_upgrade(&parts.headers);
    let body = match Limited::new(body, START_BODY_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return Err(Error::invalid(format!("cannot read the request body: {error}")).into()),
    };
    let wish: ExecStart = if body.is_empty() { ExecStart::default() } else { decode(&body)? };
    let config = backend.engine.exec_inspect(&id)?.config;
    let keys = DetachKeys::parse(&config.detach_keys)?;
    let size = wish.console_size.unwrap_or_default();
    if wish.detach {
        backend.engine.exec_start(&id, true, size).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let conversation = Conversation { tty: config.tty, keys, version };
    let process = async move {
        let mut attached = match backend.engine.exec_start(&id, false, size).await {
            Ok(Some(attached)) => attached,
            Ok(None) => told_as_output(config.tty, ""),
            Err(error) => told_as_output(config.tty, &format!("{error}\r\n")),
        };
        if !upgrading {
            // The whole body was the wish: there is no input to come.
            attached.input = None;
        }
        attached
    };
    Ok(converse(Request::from_parts(parts, Body::empty()), conversation, process).await)
}

/// Clients expect a stream here whatever happens: they print what it says and take the
/// exit code from `inspect`.
fn told_as_output(tty: bool, text: &str) -> Attached {
    let (sender, output) = mpsc::channel(1);
    // The channel has room for the one piece that is ever sent.
    let _ = sender.try_send(Chunk { stream: Stream::Stdout, data: Bytes::copy_from_slice(text.as_bytes()) });
    Attached { tty, output, input: None }
}

pub(crate) async fn inspect(State(backend): State<Backend>, Name(id): Name) -> Reply {
    ok(&ExecInspect::of(&backend.engine.exec_inspect(&id)?))
}

pub(crate) async fn resize(State(backend): State<Backend>, Name(id): Name, query: Query) -> Reply {
    let (height, width) = query.terminal_size()?;
    backend.engine.exec_resize(&id, height, width).await?;
    Ok(StatusCode::OK.into_response())
}
