//! The table of paths.

use crate::backend::Backend;
use crate::reach::Reaching;
use crate::route::{
    build, buildkit, containers, disk, events, exec, files, images, networks, networks_trace, networks_verify,
    orchestrate, secrets, service_logs, services, streams, swarm, swarm_backup, system, volumes,
};
use crate::version::{Versioned, page_not_found};
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, delete, get, post};
use axum::{Extension, Router};
use skep_buildkit::BuildKit;

/// All paths, with and without `/vX.Y` before them.
pub fn router(backend: Backend) -> Router {
    let inner = Router::new()
        .merge(system_paths())
        .merge(container_paths())
        .merge(image_paths())
        .merge(network_and_volume_paths())
        .merge(swarm_paths())
        .merge(service_paths())
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        // JSON bodies have a limit of their own; archives have none.
        .layer(DefaultBodyLimit::disable())
        .layer(Extension(BuildKit::new(backend.engine.clone())))
        .with_state(backend.clone());
    let reaching = Router::new().fallback_service(Reaching::new(inner, backend));
    Router::new().fallback_service(Versioned::new(reaching))
}

fn system_paths() -> Router<Backend> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/auth", post(system::auth))
        .route("/events", get(events::events))
        .route("/system/df", get(disk::usage))
        .route("/plugins", get(system::plugins))
        .route("/plugins/{*rest}", any(system::no_plugins))
        .route("/session", post(buildkit::session))
        .route("/grpc", post(buildkit::calls))
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
        .route("/containers/{name}/archive", get(files::get).head(files::stat).put(files::put))
        .route("/containers/{name}/changes", get(files::changes))
        .route("/containers/{name}/export", get(files::export))
        .route("/containers/{name}/stats", get(files::stats))
        .route("/containers/{name}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/exec/{id}/resize", post(exec::resize))
        .merge(unsupported_container_paths())
}

/// Known paths whose work the engine does not offer: a clear 501 instead of a 404.
fn unsupported_container_paths() -> Router<Backend> {
    Router::new()
        .route("/containers/{name}/attach/ws", get(containers::unsupported))
        .route("/containers/{name}/checkpoints", get(containers::unsupported).post(containers::unsupported))
}

fn image_paths() -> Router<Backend> {
    Router::new()
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/get", get(images::save_many))
        .route("/images/load", post(images::load))
        .route("/images/prune", post(images::prune))
        .route("/images/search", get(images::search))
        .route("/images/{*name}", get(images::get).post(images::post).delete(images::remove))
        .route("/distribution/{*name}", get(images::remote))
        .route("/commit", post(images::commit))
        .route("/build", post(build::build))
        .route("/build/prune", post(build::prune))
        .route("/build/cancel", post(build::cancel))
}

fn network_and_volume_paths() -> Router<Backend> {
    Router::new()
        .route(networks_trace::PATH, get(networks_trace::trace))
        .route(networks_verify::PATH, get(networks_verify::verify))
        .route("/networks", get(networks::list))
        .route("/networks/", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{name}/connect", post(networks::connect))
        .route("/networks/{name}/disconnect", post(networks::disconnect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove).put(volumes::update))
}

fn swarm_paths() -> Router<Backend> {
    Router::new()
        .route("/swarm", get(swarm::inspect))
        .route("/swarm/init", post(swarm::init))
        .route("/swarm/join", post(swarm::join))
        .route("/swarm/leave", post(swarm::leave))
        .route("/swarm/update", post(swarm::update))
        .route("/swarm/backup", post(swarm_backup::backup))
        .route("/swarm/restore", post(swarm_backup::restore))
        .route("/swarm/unlock", post(swarm::unlock))
        .route("/swarm/unlockkey", get(swarm::unlock_key))
        .route("/nodes", get(swarm::nodes))
        .route("/nodes/{name}", get(swarm::node).delete(swarm::remove_node))
        .route("/nodes/{name}/update", post(swarm::update_node))
        .route("/secrets", get(secrets::secrets))
        .route("/secrets/create", post(secrets::create_secret))
        .route("/secrets/{name}", get(secrets::secret).delete(secrets::remove_secret))
        .route("/secrets/{name}/update", post(secrets::update_secret))
        .route("/configs", get(secrets::configs))
        .route("/configs/create", post(secrets::create_config))
        .route("/configs/{name}", get(secrets::config).delete(secrets::remove_config))
        .route("/configs/{name}/update", post(secrets::update_config))
}

fn service_paths() -> Router<Backend> {
    Router::new()
        .route("/services", get(services::list))
        .route("/services/create", post(services::create))
        .route("/services/{name}", get(services::inspect).delete(services::remove))
        .route("/services/{name}/update", post(services::update))
        .route("/services/{name}/logs", get(service_logs::of_service))
        .route("/services/{name}/rebalance", post(orchestrate::rebalance))
        .route("/services/{name}/why", get(orchestrate::why_service))
        .route("/tasks", get(services::tasks))
        .route("/tasks/{name}", get(services::task))
        .route("/tasks/{name}/logs", get(service_logs::of_task))
        .route("/tasks/{name}/why", get(orchestrate::why_task))
}
