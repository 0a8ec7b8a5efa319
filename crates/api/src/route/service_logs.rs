//! `GET /services/ID/logs` and `/tasks/ID/logs`, from the containers of this node.

use crate::backend::Backend;
use crate::error::Reply;
use crate::request::{Name, Query};
use crate::route::streams::log_options;
use crate::stream::{LogFormat, log_line, stream_type, streamed, system_error};
use crate::version::ApiVersion;
use axum::Extension;
use axum::extract::State;
use bytes::Bytes;
use skep_engine::container::LogOptions;
use skep_model::task::Task;
use skep_model::{Error, Result};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Lines that may wait for a slow client, over all tasks.
const LINES_MAX: usize = 256;

pub(crate) async fn of_service(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let options = log_options(&query)?;
    let control = backend.swarm.control()?;
    let service = control.service(&name)?;
    let mut tasks = control.tasks();
    tasks.retain(|task| task.service_id == service.id && task.status.container.is_some());
    let tty = service.spec.task.container.tty;
    Ok(logs(&backend, &tasks, options, format(&query, tty), version, control.node_id().as_str()))
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
    if task.status.container.is_none() {
        return Err(Error::invalid(format!("task {name} has not been started yet")).into());
    }
    let tty = task.spec.container.tty;
    Ok(logs(&backend, &[task], options, format(&query, tty), version, control.node_id().as_str()))
}

fn format(query: &Query, tty: bool) -> LogFormat {
    LogFormat { tty, timestamps: query.flag("timestamps"), details: query.flag("details") }
}

fn logs(
    backend: &Backend,
    tasks: &[Arc<Task>],
    options: LogOptions,
    format: LogFormat,
    version: ApiVersion,
    own_node: &str,
) -> axum::response::Response {
    let (lines, body) = mpsc::channel(LINES_MAX);
    let mut missing = Vec::new();
    let mut readers = Vec::new();
    for task in tasks {
        if task.node_id.as_str() == own_node {
            readers.push(tokio::spawn(copy_lines(backend.clone(), Arc::clone(task), options, format, lines.clone())));
        } else {
            missing.push(format!("task {} runs on node {}", task.slot_name(), task.node_id));
        }
    }
    tokio::spawn(async move {
        for reader in readers {
            match reader.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => missing.push(error.message),
                Err(error) => missing.push(error.to_string()),
            }
        }
        if !missing.is_empty() {
            // A client that has gone needs no explanation.
            let _ = lines.send(system_error(&incomplete(&missing))).await;
        }
    });
    streamed(stream_type(format.tty, version), ReceiverStream::new(body))
}

fn incomplete(reasons: &[String]) -> String {
    format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}",
        reasons.join(", ")
    )
}

async fn copy_lines(
    backend: Backend,
    task: Arc<Task>,
    options: LogOptions,
    format: LogFormat,
    lines: mpsc::Sender<Bytes>,
) -> Result<()> {
    let Some(container) = &task.status.container else { return Ok(()) };
    let details = details_of(&task);
    let mut entries = backend.engine.logs(container.container_id.as_str(), options).await?;
    loop {
        tokio::select! {
            entry = entries.recv() => match entry {
                Some(entry) => {
                    if lines.send(log_line(&entry, &details, format)).await.is_err() {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            () = lines.closed() => return Ok(()),
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
