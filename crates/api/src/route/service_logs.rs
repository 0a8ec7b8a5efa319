//! `GET /services/ID/logs` and `/tasks/ID/logs`: the lines of many containers on many
//! nodes in one stream. A node that is away takes only its own lines with it.

use crate::backend::Backend;
use crate::error::Reply;
use crate::reach::{RemoteLines, remote_lines};
use crate::request::{Name, Query};
use crate::route::streams::log_options;
use crate::stream::{LogFormat, log_line, stream_type, streamed, system_error};
use crate::version::ApiVersion;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use skep_engine::container::{LogLine, LogOptions, Stream};
use skep_manager::Control;
use skep_model::id::{ServiceId, TaskId};
use skep_model::task::Task;
use skep_model::{Error, ErrorKind, Result, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// Lines that may wait for a slow client, over all tasks.
const LINES_MAX: usize = 256;
/// Logs read at a time when nothing is followed; each is a connection to a node.
const READERS_MAX: usize = 32;
/// A follower looks for new tasks this often at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A node that is away is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn of_service(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let control = backend.swarm.control()?;
    let service = control.service(&name)?;
    let tty = service.spec.task.container.tty;
    let subject = Subject::Service(service.id.clone());
    Ok(logs(backend, control, subject, log_options(&query)?, format(&query, tty), version))
}

pub(crate) async fn of_task(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let options = log_options(&query)?;
    let control = backend.swarm.control()?;
    let task = control.task(&name)?;
    if task.status.container.is_none() && !options.follow {
        return Err(Error::invalid(format!("task {name} has not been started yet")).into());
    }
    let tty = task.spec.container.tty;
    Ok(logs(backend, control, Subject::Task(task.id.clone()), options, format(&query, tty), version))
}

fn format(query: &Query, tty: bool) -> LogFormat {
    LogFormat { tty, timestamps: query.flag("timestamps"), details: query.flag("details") }
}

fn logs(
    backend: Backend,
    control: Control,
    subject: Subject,
    options: LogOptions,
    format: LogFormat,
    version: ApiVersion,
) -> Response {
    let (lines, body) = mpsc::channel(LINES_MAX);
    let slots = Arc::new(Semaphore::new(if options.follow { Semaphore::MAX_PERMITS } else { READERS_MAX }));
    tokio::spawn(collect(subject, Reader { backend, control, options, format, lines, slots }));
    streamed(stream_type(format.tty, version), ReceiverStream::new(body))
}

/// Whose lines are wanted.
enum Subject {
    Service(ServiceId),
    Task(TaskId),
}

impl Subject {
    /// Tasks that have a container; `None` once no more can come.
    fn tasks(&self, control: &Control) -> Option<Vec<Arc<Task>>> {
        let (all, more) = match self {
            Self::Service(id) => {
                let mut tasks = control.tasks();
                tasks.retain(|task| task.service_id == *id);
                (tasks, control.service(id.as_str()).is_ok())
            }
            Self::Task(id) => {
                let task = control.task(id.as_str()).ok();
                let more = task.as_ref().is_some_and(|task| task.status.container.is_none());
                (task.into_iter().collect(), more)
            }
        };
        let started: Vec<Arc<Task>> = all.into_iter().filter(|task| task.status.container.is_some()).collect();
        (more || !started.is_empty()).then_some(started)
    }
}

/// Reads the tasks' logs beside each other, when following also those of tasks that come.
async fn collect(subject: Subject, reader: Reader) {
    let mut version = reader.control.version();
    let mut known = BTreeSet::new();
    let mut readers = JoinSet::new();
    let mut missing = Vec::new();
    // Of tasks that come later every line is new.
    let mut tail = reader.options.tail;
    loop {
        version.borrow_and_update();
        let tasks = subject.tasks(&reader.control);
        for task in tasks.iter().flatten() {
            if known.insert(task.id.clone()) {
                readers.spawn(reader.clone().read(Arc::clone(task), tail));
            }
        }
        tail = None;
        if !reader.options.follow || (tasks.is_none() && readers.is_empty()) {
            break;
        }
        tokio::select! {
            () = reader.lines.closed() => return,
            Some(ended) = readers.join_next() => missing.extend(failure(ended)),
            () = next_look(&mut version) => {}
        }
    }
    while let Some(ended) = readers.join_next().await {
        missing.extend(failure(ended));
    }
    if !missing.is_empty() {
        // A client that has gone needs no explanation.
        let _ = reader.lines.send(system_error(&incomplete(&missing))).await;
    }
}

async fn next_look(version: &mut watch::Receiver<u64>) {
    tokio::time::sleep(LOOK_INTERVAL).await;
    if version.changed().await.is_err() {
        // Without a manager nothing new can be learned.
        std::future::pending::<()>().await;
    }
}

fn failure(ended: Result<Result<()>, tokio::task::JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.message),
        Err(error) => Some(error.to_string()),
    }
}

fn incomplete(reasons: &[String]) -> String {
    format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}",
        reasons.join(", ")
    )
}

/// What reading one task's log needs.
#[derive(Clone)]
struct Reader {
    backend: Backend,
    control: Control,
    options: LogOptions,
    format: LogFormat,
    lines: mpsc::Sender<Bytes>,
    slots: Arc<Semaphore>,
}

impl Reader {
    /// Copies a task's lines. A follower whose task's node goes away is told, waits, and
    /// goes on after the last line that it has.
    async fn read(self, task: Arc<Task>, tail: Option<u64>) -> Result<()> {
        let _slot = self.slots.acquire().await;
        let mut options = LogOptions { tail, ..self.options };
        let details = details_of(&task);
        let mut away = false;
        loop {
            let copied = match self.open(&task, options).await {
                Ok(source) => {
                    away = false;
                    self.copy(source, &details, &mut options).await
                }
                Err(error) => Err(error),
            };
            match copied {
                Ok(()) => return Ok(()),
                // Removed with its task: it has said all it had to say.
                Err(error) if self.options.follow && error.kind == ErrorKind::NotFound => return Ok(()),
                Err(error) if !self.options.follow => {
                    return Err(error.context(format!("task {}", task.slot_name())));
                }
                Err(error) if !away => {
                    away = true;
                    self.warn(&error, &details).await;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = self.lines.closed() => return Ok(()),
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
            if self.control.task(task.id.as_str()).is_err() {
                return Ok(());
            }
        }
    }

    async fn open(&self, task: &Task, options: LogOptions) -> Result<Source> {
        if task.node_id != *self.control.node_id() {
            return remote_lines(&self.control, task, options).await.map(Source::There);
        }
        let container = task.status.container.as_ref().map_or("", |container| container.container_id.as_str());
        self.backend.engine.logs(container, options).await.map(Source::Here)
    }

    /// Copies to the end of the source; a second try then begins after the last line.
    async fn copy(&self, mut source: Source, details: &str, options: &mut LogOptions) -> Result<()> {
        loop {
            let line = tokio::select! {
                line = source.next() => line?,
                () = self.lines.closed() => return Ok(()),
            };
            let Some(line) = line else { return Ok(()) };
            options.since = Some(Timestamp(line.at.0.saturating_add(1)));
            options.tail = None;
            if self.lines.send(log_line(&line, details, self.format)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// One line in the task's own name, since a stream that is followed has no end to say it at.
    async fn warn(&self, error: &Error, details: &str) {
        let data = format!("warning: this task's logs are interrupted and go on when possible: {error}\n").into();
        let line = LogLine { stream: Stream::Stderr, at: crate::json::now(), data };
        // A client that has gone needs no warning.
        let _ = self.lines.send(log_line(&line, details, self.format)).await;
    }
}

/// Where a task's lines come from.
enum Source {
    Here(mpsc::Receiver<LogLine>),
    There(RemoteLines),
}

impl Source {
    async fn next(&mut self) -> Result<Option<LogLine>> {
        match self {
            Self::Here(lines) => Ok(lines.recv().await),
            Self::There(lines) => lines.next().await,
        }
    }
}

/// What the client turns into `web.1.id@node | `.
fn details_of(task: &Task) -> String {
    format!(
        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={}",
        task.node_id, task.service_id, task.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_name_node_service_and_task() {
        let task = Task { id: "t".into(), service_id: "s".into(), node_id: "n".into(), ..Task::default() };
        assert_eq!(
            details_of(&task),
            "com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t"
        );
    }
}
