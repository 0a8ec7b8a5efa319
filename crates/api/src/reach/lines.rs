//! Log lines with their times from another node, as frames, also of containers with a
//! terminal: so that lines of many tasks can be put into one stream.

use super::forward::get;
use crate::backend::Backend;
use crate::error::Reply;
use crate::request::{Name, Query};
use crate::route::streams::log_options;
use crate::stream::{LogFormat, MULTIPLEXED_STREAM, log_body, streamed};
use crate::version::API_VERSION;
use axum::body::BodyDataStream;
use axum::extract::State;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use skep_engine::container::{LogLine, LogOptions, Stream};
use skep_manager::Control;
use skep_model::task::Task;
use skep_model::{Error, Result, Timestamp};

const HEADER_BYTES: usize = 8;
/// One line, or part of one, with its time. Writers cut lines far below.
const LINE_BYTES_MAX: usize = 1 << 20;
const ERROR_BYTES_MAX: usize = 64 << 10;

/// On the node: the lines of one container.
pub(super) async fn serve(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let lines = backend.engine.logs(&name, log_options(&query)?).await?;
    let format = LogFormat { tty: false, timestamps: true, details: false };
    Ok(streamed(MULTIPLEXED_STREAM, log_body(lines, format)))
}

/// On a manager: the lines of a task's container on its node.
///
/// # Errors
/// When the node cannot be reached or has no such container any more.
pub(crate) async fn remote_lines(control: &Control, task: &Task, options: LogOptions) -> Result<RemoteLines> {
    let container = task.status.container.as_ref().map(|container| container.container_id.as_str());
    let container = container.ok_or_else(|| Error::invalid("the task has not been started yet"))?;
    let path = format!("/v{API_VERSION}/containers/{container}/log-lines?{}", query_of(options));
    let response = get(control, &task.node_id, &path).await?;
    if response.status() == StatusCode::OK {
        return Ok(RemoteLines { body: response.into_body().into_data_stream(), buffer: BytesMut::new() });
    }
    let status = response.status();
    let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let body = body.map(|collected| collected.to_bytes()).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = answer["message"].as_str().unwrap_or("the node's answer is malformed").to_owned();
    Err(if status == StatusCode::NOT_FOUND { Error::not_found(message) } else { Error::internal(message) })
}

fn query_of(options: LogOptions) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in [("stdout", options.stdout), ("stderr", options.stderr), ("follow", options.follow)] {
        query.append_pair(key, if value { "1" } else { "0" });
    }
    let time = |at: Timestamp| format!("{}.{:09}", at.0.div_euclid(1_000_000_000), at.0.rem_euclid(1_000_000_000));
    for (key, at) in [("since", options.since), ("until", options.until)] {
        if let Some(at) = at {
            query.append_pair(key, &time(at));
        }
    }
    if let Some(tail) = options.tail {
        query.append_pair("tail", &tail.to_string());
    }
    query.finish()
}

/// Lines as they come from a node.
pub(crate) struct RemoteLines {
    body: BodyDataStream,
    buffer: BytesMut,
}

impl RemoteLines {
    /// The next line; `None` once the log has ended on its node.
    ///
    /// # Errors
    /// When the stream breaks off or is malformed.
    pub(crate) async fn next(&mut self) -> Result<Option<LogLine>> {
        loop {
            if let Some(line) = take_line(&mut self.buffer)? {
                return Ok(Some(line));
            }
            match self.body.next().await {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => return Err(Error::unavailable(format!("the log stream broke off: {error}"))),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::unavailable("the log stream broke off")),
            }
        }
    }
}

/// The first whole frame of `buffer`.
fn take_line(buffer: &mut BytesMut) -> Result<Option<LogLine>> {
    let malformed = || Error::internal("the node's log stream is malformed");
    let Some((header, rest)) = buffer.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let stream = match header[0] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(malformed()),
    };
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > LINE_BYTES_MAX {
        return Err(malformed());
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let line: Bytes = buffer.split_to(length).freeze();
    let space = line.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let time = std::str::from_utf8(&line[..space]).ok().and_then(Timestamp::parse_rfc3339);
    Ok(Some(LogLine { stream, at: time.ok_or_else(malformed)?, data: line.slice(space + 1..) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::log_line;

    fn line(text: &str) -> LogLine {
        LogLine { stream: Stream::Stderr, at: Timestamp(1_500_000_000_000_000_012), data: text.to_owned().into() }
    }

    #[test]
    fn lines_survive_the_way_in_pieces() {
        let format = LogFormat { tty: false, timestamps: true, details: false };
        let sent = [line("one\n"), line("t w o"), line("")];
        let bytes: Vec<u8> = sent.iter().flat_map(|line| log_line(line, "", format).to_vec()).collect();
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            got.extend(take_line(&mut buffer).unwrap());
        }
        assert_eq!(got, sent);
        assert!(buffer.is_empty());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bad in
            [&[9, 0, 0, 0, 0, 0, 0, 1, 65][..], &[1, 0, 0, 0, 255, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 1, 65][..]]
        {
            assert!(take_line(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn options_become_a_query_that_reads_back() {
        let options = LogOptions {
            stdout: true,
            stderr: false,
            follow: true,
            since: Some(Timestamp(1_500_000_000_000_000_012)),
            until: None,
            tail: Some(3),
        };
        assert_eq!(log_options(&Query::parse(&query_of(options))).unwrap(), options);
    }
}
