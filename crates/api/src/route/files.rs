//! Files of containers (`archive`, `changes`, `export`) and their counters (`stats`).

use crate::backend::Backend;
use crate::error::{ApiError, Reply, ok};
use crate::json::stats::Stats;
use crate::json::swarm::base64;
use crate::request::{Name, Query};
use crate::stream::streamed;
use crate::upload::reader;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use skep_engine::container::{ArchiveStream, ChangeKind, PathStat};
use skep_model::container::ContainerInfo;
use skep_model::{Error, Result};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

const ARCHIVE_CHUNK: usize = 64 << 10;
const STAT_HEADER: &str = "X-Docker-Container-Path-Stat";
/// Time between two readings, as clients expect.
const STATS_PERIOD: Duration = Duration::from_secs(1);

pub(crate) async fn stat(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let stat = backend.engine.archive_stat(&name, need_path(&query)?).await?;
    Ok(([(STAT_HEADER, stat_header(&stat)?)], StatusCode::OK).into_response())
}

pub(crate) async fn get(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let (stat, archive) = backend.engine.archive_get(&name, need_path(&query)?).await?;
    Ok(([(STAT_HEADER, stat_header(&stat)?)], tar(archive)).into_response())
}

pub(crate) async fn put(State(backend): State<Backend>, Name(name): Name, query: Query, body: Body) -> Reply {
    let path = need_path(&query)?;
    if query.flag("copyUIDGID") {
        // The archive's own numbers are kept anyway; names are not looked up.
        tracing::debug!("copyUIDGID changes nothing");
    }
    backend.engine.archive_put(&name, path, reader(body), query.flag("noOverwriteDirNonDir")).await?;
    Ok(StatusCode::OK.into_response())
}

fn need_path(query: &Query) -> Result<&str> {
    query.nonempty("path").ok_or_else(|| Error::invalid("bad parameter: path is required"))
}

pub(crate) async fn export(State(backend): State<Backend>, Name(name): Name) -> Reply {
    Ok(tar(backend.engine.export(&name).await?))
}

fn tar(archive: ArchiveStream) -> Response {
    let body = Body::from_stream(ReaderStream::with_capacity(archive, ARCHIVE_CHUNK));
    ([(header::CONTENT_TYPE, "application/x-tar")], body).into_response()
}

fn stat_header(stat: &PathStat) -> Result<HeaderValue> {
    let text = json!({
        "name": stat.name, "size": stat.size, "mode": go_mode(stat.mode), "mtime": stat.modified.to_rfc3339(),
        "linkTarget": stat.link_target
    });
    HeaderValue::from_str(&base64(text.to_string().as_bytes()))
        .map_err(|error| Error::internal(format!("cannot describe a path: {error}")))
}

/// Go's file mode: permissions below, kinds as high bits of its own.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        0o020_000 => (1 << 26) | (1 << 21),
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | (mode & 0o777)
}

pub(crate) async fn changes(State(backend): State<Backend>, Name(name): Name) -> Reply {
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let all = backend.engine.changes(&name).await?;
    let lines: Vec<_> = all.iter().map(|change| json!({ "Path": change.path, "Kind": kind(change.kind) })).collect();
    ok(&crate::json::list_or_null(lines))
}

pub(crate) async fn stats(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let info = backend.engine.inspect(&name)?;
    let id = info.id.to_string();
    let first = backend.engine.stats(&id).await?;
    if query.flag_or("stream", true) {
        let (lines, body) = mpsc::channel(1);
        tokio::spawn(follow_stats(backend, id, lines));
        return Ok(streamed("application/json", ReceiverStream::new(body)));
    }
    if query.flag("one-shot") || !info.state.status.is_running() {
        return ok(&Stats::of(&info, None, &first));
    }
    // Rates need two readings.
    tokio::time::sleep(STATS_PERIOD).await;
    let second = backend.engine.stats(&id).await?;
    ok(&Stats::of(&info, Some(&first), &second))
}

/// Ends with the container's removal or the client's leaving.
async fn follow_stats(backend: Backend, id: String, lines: mpsc::Sender<Bytes>) {
    let mut before = None;
    let mut beat = tokio::time::interval(STATS_PERIOD);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = lines.closed() => return,
        }
        let (Ok(info), Ok(now)) = (backend.engine.inspect(&id), backend.engine.stats(&id).await) else { return };
        let Ok(line) = stats_line(&info, before.as_ref(), &now) else { return };
        if lines.send(line).await.is_err() {
            return;
        }
        before = Some(now);
    }
}

fn stats_line(
    info: &ContainerInfo,
    before: Option<&skep_engine::container::Stats>,
    now: &skep_engine::container::Stats,
) -> Result<Bytes, ApiError> {
    let mut line = serde_json::to_vec(&Stats::of(info, before, now))
        .map_err(|error| Error::internal(format!("cannot encode counters: {error}")))?;
    line.push(b'\n');
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, (1 << 31) | 0o755),
            (0o120_777, (1 << 27) | 0o777),
            (0o041_777, (1 << 31) | (1 << 20) | 0o777),
            (0o104_755, (1 << 23) | 0o755),
            (0o020_666, (1 << 26) | (1 << 21) | 0o666),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }
}
