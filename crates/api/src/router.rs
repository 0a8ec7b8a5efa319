//! The table of paths.

use crate::backend::Backend;
use crate::route::{containers, exec, streams, system};
use crate::version::{Versioned, page_not_found};
use axum::Router;
use axum::routing::{delete, get, post};

/// All paths, with and without `/vX.Y` before them.
pub fn router(backend: Backend) -> Router {
    let inner = Router::new()
        .merge(system_paths())
        .merge(container_paths())
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        .with_state(backend);
    Router::new().fallback_service(Versioned::new(inner))
}

fn system_paths() -> Router<Backend> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/auth", post(system::auth))
}

fn container_paths() -> Router<Backend> {
    Router::new()
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{name}", delete(containers::remove))
        .route("/containers/{name}/json", get(containers::inspect))
        .route("/containers/{name}/start", post(containers::start))
        .route("/containers/{name}/stop", post(containers::stop))
        .route("/containers/{name}/restart", post(containers::restart))
        .route("/containers/{name}/kill", post(containers::kill))
        .route("/containers/{name}/pause", post(containers::pause))
        .route("/containers/{name}/unpause", post(containers::unpause))
        .route("/containers/{name}/rename", post(containers::rename))
        .route("/containers/{name}/resize", post(containers::resize))
        .route("/containers/{name}/update", post(containers::update))
        .route("/containers/{name}/top", get(containers::top))
        .route("/containers/{name}/logs", get(streams::logs))
        .route("/containers/{name}/attach", post(streams::attach))
        .route("/containers/{name}/wait", post(streams::wait))
        .route("/containers/{name}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/exec/{id}/resize", post(exec::resize))
}
