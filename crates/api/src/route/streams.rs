//! Containers' endless answers: attach, logs, wait.

use crate::backend::Backend;
use crate::detach::DetachKeys;
use crate::error::{ApiError, Reply};
use crate::request::{Name, Query};
use crate::stream::{Conversation, LogFormat, converse, log_body, stream_type, streamed};
use crate::version::ApiVersion;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use skep_engine::container::{AttachOptions, LogOptions, WaitCondition, WaitResult};
use skep_model::{Error, Result};

pub(crate) async fn attach(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
    request: Request,
) -> Result<Response, ApiError> {
    let keys = DetachKeys::parse(query.get("detachKeys"))?;
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
    };
    let attached = backend.engine.attach(&name, options).await?;
    let conversation = Conversation { tty: attached.tty, keys, version };
    Ok(converse(request, conversation, std::future::ready(attached)).await)
}

pub(crate) async fn logs(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let options = log_options(&query)?;
    let info = backend.engine.inspect(&name)?;
    let tty = info.config.tty;
    let format = LogFormat { tty, timestamps: query.flag("timestamps"), details: query.flag("details") };
    let lines = backend.engine.logs(&name, options).await?;
    Ok(streamed(stream_type(tty, version), log_body(lines, format)))
}

/// # Errors
/// Neither stream chosen, or a time or number that is none.
pub(crate) fn log_options(query: &Query) -> Result<LogOptions> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    // Whatever is not a number means all, as with the reference.
    let tail = query.get("tail").parse().ok();
    let (since, until) = (query.time("since")?, query.time("until")?);
    Ok(LogOptions { stdout, stderr, follow: query.flag("follow"), since, until, tail })
}

/// The headers go out at once, so that a client knows it is registered before it starts
/// the container; the body follows at the event.
pub(crate) async fn wait(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let condition = match query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}")).into()),
    };
    let result = backend.engine.wait(&name, condition)?;
    let body = stream::once(async move { wait_line(&result.await) });
    Ok(streamed("application/json", body))
}

fn wait_line(result: &WaitResult) -> Bytes {
    let mut line = json!({ "StatusCode": result.exit_code });
    if !result.error.is_empty() {
        line["Error"] = json!({ "Message": result.error });
    }
    format!("{line}\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::Timestamp;

    #[test]
    fn log_options_are_read() {
        let options = log_options(&Query::parse("stdout=1&follow=1&tail=10&since=1500000000&until=0")).unwrap();
        assert_eq!((options.follow, options.tail, options.until), (true, Some(10), None));
        assert_eq!(options.since, Some(Timestamp(1_500_000_000_000_000_000)));
        assert_eq!(log_options(&Query::parse("stderr=1&tail=all")).unwrap().tail, None);
        let text = log_options(&Query::parse("follow=1")).unwrap_err().message;
        assert_eq!(text, "Bad parameters: you must choose at least one stream");
        assert!(log_options(&Query::parse("stdout=1&since=yesterday")).is_err());
    }

    #[test]
    fn a_wait_ends_with_code_and_error() {
        let line = |error: &str| wait_line(&WaitResult { exit_code: 4, error: error.into() });
        assert_eq!(line(""), "{\"StatusCode\":4}\n");
        assert!(line("oom").ends_with(b"\n") && line("oom").windows(3).any(|w| w == b"oom"));
    }
}
