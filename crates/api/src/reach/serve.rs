//! The node's end of tunnels: this engine's API for the containers of tasks, whether the
//! node's network is as wanted, and the paths in it; nothing else.
//! Whatever a manager asks, other containers of this node are none of its business.

use super::call::Call;
use super::{TASK_ID_LABEL, TASK_LABEL};
use crate::backend::{Backend, InitRequest, JoinRequest, NodeNetwork, Swarm, SwarmStatus, SystemInfo};
use crate::error::ApiError;
use crate::route::{containers, exec, files, networks_trace, networks_verify, streams};
use crate::server::connection_builder;
use crate::version::{Versioned, page_not_found};
use async_trait::async_trait;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::Method;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use skep_engine::Engine;
use skep_manager::Control;
use skep_model::container::ContainerInfo;
use skep_model::id::NodeId;
use skep_model::{Error, Result};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// What this node answers to managers. Cheap to clone.
#[derive(Clone)]
pub struct TaskService {
    app: Router,
}

impl TaskService {
    pub fn new(engine: Engine, network: Arc<dyn NodeNetwork>) -> Self {
        let backend = Backend { engine, swarm: Arc::new(NoSwarm), network, system: Arc::new(SystemInfo::default()) };
        let inner = Router::new()
            .route(networks_trace::PATH, get(networks_trace::trace_here))
            .route(networks_verify::PATH, get(networks_verify::verify_here))
            .route("/containers/{name}/json", get(containers::inspect))
            .route("/containers/{name}/logs", get(streams::logs))
            .route("/containers/{name}/log-lines", get(super::lines::serve))
            .route("/containers/{name}/top", get(containers::top))
            .route("/containers/{name}/stats", get(files::stats))
            .route("/containers/{name}/changes", get(files::changes))
            .route("/containers/{name}/export", get(files::export))
            .route("/containers/{name}/archive", get(files::get).head(files::stat).put(files::put))
            .route("/containers/{name}/exec", post(exec::create))
            .route("/containers/{name}/attach", post(streams::attach))
            .route("/containers/{name}/resize", post(containers::resize))
            .route("/exec/{id}/start", post(exec::start))
            .route("/exec/{id}/json", get(exec::inspect))
            .route("/exec/{id}/resize", post(exec::resize))
            .fallback(page_not_found)
            .method_not_allowed_fallback(page_not_found)
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(backend.clone(), only_tasks))
            .with_state(backend);
        Self { app: Router::new().fallback_service(Versioned::new(inner)) }
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = TowerToHyperService::new(self.app.clone());
        let served = connection_builder().serve_connection(TokioIo::new(connection), service).with_upgrades().await;
        if let Err(error) = served {
            tracing::debug!(%error, "a manager's request ended early");
        }
    }
}

/// Lets only calls through that are about a task's container or the node's network.
async fn only_tasks(State(backend): State<Backend>, request: Request, next: Next) -> Response {
    let checked = check(&backend.engine, request.method(), request.uri().path());
    match checked {
        Ok(true) => next.run(request).await,
        Ok(false) => page_not_found().await,
        Err(error) => ApiError(error).into_response(),
    }
}

fn check(engine: &Engine, method: &Method, path: &str) -> Result<bool> {
    if [networks_trace::PATH, networks_verify::PATH].contains(&path) {
        return Ok(true);
    }
    let log_lines = path.strip_prefix("/containers/").and_then(|rest| rest.strip_suffix("/log-lines"));
    let container = match (log_lines, Call::parse(method, path)) {
        (Some(name), _) | (None, Some(Call::Container { name, .. })) => name.to_owned(),
        (None, Some(Call::Exec { id, .. })) => engine.exec_inspect(id)?.container_id.to_string(),
        (None, None) => return Ok(false),
    };
    let info = engine.inspect(&container)?;
    if is_task(&info) { Ok(true) } else { Err(Error::not_found(format!("No such container: {container}"))) }
}

pub(super) fn is_task(info: &ContainerInfo) -> bool {
    let labels = &info.config.labels;
    labels.contains_key(TASK_LABEL) && labels.get(TASK_ID_LABEL).is_some_and(|id| !id.is_empty())
}

/// What comes through a tunnel is answered here or not at all.
struct NoSwarm;

fn not_here<T>() -> Result<T> {
    Err(Error::unavailable("the swarm is not reached through a node's tunnel"))
}

#[async_trait]
impl Swarm for NoSwarm {
    async fn init(&self, _: InitRequest) -> Result<NodeId> {
        not_here()
    }
    async fn join(&self, _: JoinRequest) -> Result<()> {
        not_here()
    }
    async fn leave(&self, _: bool) -> Result<()> {
        not_here()
    }
    fn control(&self) -> Result<Control> {
        not_here()
    }
    fn status(&self) -> SwarmStatus {
        SwarmStatus::default()
    }
}
