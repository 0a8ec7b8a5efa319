//! Reaching into the containers of tasks wherever they run. A name that is no container
//! here may be one of a task (`web.1`, a task's id): then the call goes to the task's
//! node, through a tunnel that ends in [`TaskService`] there.

mod call;
mod forward;
mod lines;
mod serve;

pub(crate) use forward::get;
pub(crate) use lines::{RemoteLines, remote_lines};
pub use serve::TaskService;

use crate::backend::Backend;
use crate::error::{ApiError, json_reply};
use crate::json::task::Task as WireTask;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use call::Call;
use forward::forward;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serve::is_task;
use skep_manager::Control;
use skep_model::container::ContainerInfo;
use skep_model::id::NodeId;
use skep_model::task::Task;
use skep_model::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower::{Service, ServiceExt};

/// Marks a container of the swarm.
const TASK_LABEL: &str = "com.docker.swarm.task";
const TASK_ID_LABEL: &str = "com.docker.swarm.task.id";
const TASK_NAME_LABEL: &str = "com.docker.swarm.task.name";
/// Execs on other nodes whose place is remembered; the oldest are forgotten.
const EXECS_MAX: usize = 4096;
/// Answers that are read here before they go on: an exec's id, a container's description.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Sends calls about containers of other nodes' tasks there, everything else inwards.
#[derive(Clone)]
pub(crate) struct Reaching {
    inner: Router,
    backend: Backend,
    execs: Arc<Mutex<VecDeque<(String, NodeId)>>>,
}

/// Where a call is answered.
enum Place {
    /// By the inner router as it is.
    Here,
    /// A task's container on this node or another.
    Task(Box<Found>),
    /// This container of this node, by its id.
    HereAs(String),
    /// An exec on another node.
    Exec(NodeId),
}

struct Found {
    control: Control,
    task: Arc<Task>,
    container: String,
    /// The user named the task itself, not its place or container.
    by_task_id: bool,
}

impl Reaching {
    pub(crate) fn new(inner: Router, backend: Backend) -> Self {
        Self { inner, backend, execs: Arc::default() }
    }

    async fn answer(self, request: Request) -> Result<Response, ApiError> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let Some(call) = Call::parse(&method, &path) else { return self.inward(request).await };
        match self.place(call)? {
            Place::Here => self.inward(request).await,
            Place::HereAs(container) => {
                let Call::Container { verb, .. } = call else { return self.inward(request).await };
                self.inward(renamed(request, &container, verb)?).await
            }
            Place::Exec(node) => Ok(forward(&self.backend.swarm.control()?, &node, request).await?),
            Place::Task(found) => {
                let Call::Container { verb, .. } = call else { return self.inward(request).await };
                self.of_task(*found, verb, request).await
            }
        }
    }

    async fn inward(&self, request: Request) -> Result<Response, ApiError> {
        match self.inner.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    fn place(&self, call: Call<'_>) -> Result<Place> {
        match call {
            Call::Container { name, .. } => self.place_of_container(name),
            Call::Exec { id, .. } => {
                let here = self.backend.engine.exec_inspect(id).is_ok();
                let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
                let there = execs.iter().find(|(known, _)| known == id).filter(|_| !here);
                Ok(there.map_or(Place::Here, |(_, node)| Place::Exec(node.clone())))
            }
        }
    }

    fn place_of_container(&self, name: &str) -> Result<Place> {
        match self.backend.engine.inspect(name) {
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Ok(_) | Err(_) => return Ok(Place::Here),
        }
        // Nodes that manage nothing know only their own tasks, by their labels.
        let Ok(control) = self.backend.swarm.control() else {
            return Ok(self.own_task(name).map_or(Place::Here, Place::HereAs));
        };
        let task = match control.task_of_container(name) {
            Ok(task) => task,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Place::Here),
            Err(error) => return Err(error),
        };
        let Some(container) = task.status.container.as_ref().map(|container| container.container_id.to_string()) else {
            return Err(no_container(name, &task));
        };
        let by_task_id = task.id.as_str().starts_with(name);
        Ok(Place::Task(Box::new(Found { control, task, container, by_task_id })))
    }

    /// The container here of the task or slot `name`, the running one first.
    fn own_task(&self, name: &str) -> Option<String> {
        let is_meant = |info: &ContainerInfo| {
            let label = |key: &str| info.config.labels.get(key).map_or("", String::as_str);
            let slot = label(TASK_NAME_LABEL).rsplit_once('.').map_or("", |(slot, _)| slot);
            is_task(info) && (label(TASK_ID_LABEL) == name || slot == name)
        };
        // Newest first, and of equals the first is taken.
        let mut own = self.backend.engine.list();
        own.retain(|info| is_meant(info));
        own.sort_by_key(|info| !info.state.status.is_running());
        own.first().map(|info| info.id.to_string())
    }

    async fn of_task(&self, found: Found, verb: &str, request: Request) -> Result<Response, ApiError> {
        let request = renamed(request, &found.container, verb)?;
        let method = request.method().clone();
        let node = &found.task.node_id;
        let here = found.control.node_id() == node;
        let response = if here { self.inward(request).await? } else { forward(&found.control, node, request).await? };
        match (method.as_str(), verb) {
            ("POST", "exec") if !here && response.status() == StatusCode::CREATED => {
                self.note_exec(node.clone(), response).await
            }
            ("GET", "json") if found.by_task_id && response.status() == StatusCode::OK => {
                with_task(&found, response).await
            }
            _ => Ok(response),
        }
    }

    /// Remembers where the exec is that an answer tells of.
    async fn note_exec(&self, node: NodeId, response: Response) -> Result<Response, ApiError> {
        let (parts, body) = response.into_parts();
        let body = read(body).await?;
        let answer: serde_json::Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        let id = answer["Id"].as_str().ok_or_else(malformed)?.to_owned();
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        if execs.len() >= EXECS_MAX {
            execs.pop_front();
        }
        execs.push_back((id, node));
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}

impl Service<Request> for Reaching {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await.unwrap_or_else(IntoResponse::into_response)) })
    }
}

/// The same call about the container of that id.
fn renamed(mut request: Request, container: &str, verb: &str) -> Result<Request> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/containers/{container}/{verb}{query}");
    *request.uri_mut() = path.parse().map_err(|_| Error::invalid("malformed request path"))?;
    Ok(request)
}

/// Clients ask for a container first whatever they mean. Whoever asked by a task's id gets
/// the task's fields beside the container's, so both readings find what they look for. The
/// field `ID` is left out: clients would take it for the container's `Id`.
async fn with_task(found: &Found, response: Response) -> Result<Response, ApiError> {
    let mut shown: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&read(response.into_body()).await?).map_err(|_| malformed())?;
    let task = serde_json::to_value(WireTask::of(&found.task, &found.control.networks()));
    if let Ok(serde_json::Value::Object(task)) = task {
        for (key, value) in task.into_iter().filter(|(key, _)| key != "ID") {
            shown.entry(key).or_insert(value);
        }
    }
    Ok(json_reply(StatusCode::OK, &shown))
}

async fn read(body: Body) -> Result<bytes::Bytes> {
    let limited = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    limited.map(|collected| collected.to_bytes()).map_err(|_| malformed())
}

fn malformed() -> Error {
    Error::internal("the node's answer is malformed")
}

fn no_container(name: &str, task: &Task) -> Error {
    let reason = if task.status.err.is_empty() { &task.status.message } else { &task.status.err };
    Error::not_found(format!("No such container: {name}: its task is {} ({reason})", task.status.state.as_str()))
}
