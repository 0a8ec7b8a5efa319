//! `/secrets` and `/configs`.

use crate::backend::Backend;
use crate::error::{Reply, json_reply, ok};
use crate::json::secret::{Body, FILTERS, Id, Object, matches};
use crate::request::{Json, Name, Query};
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;

pub(crate) async fn secrets(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let all = backend.swarm.control()?.secrets();
    let chosen = all.iter().filter(|s| matches(s.id.as_str(), &s.spec.name, &s.spec.labels, &filters));
    ok(&chosen.map(|secret| Object::of_secret(secret)).collect::<Vec<_>>())
}

pub(crate) async fn create_secret(State(backend): State<Backend>, Json(body): Json<Body>) -> Reply {
    let id = backend.swarm.control()?.create_secret(body.into_secret()?).await?;
    Ok(json_reply(StatusCode::CREATED, &Id { id: id.to_string() }))
}

pub(crate) async fn secret(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Object::of_secret(&*backend.swarm.control()?.secret(&name)?))
}

pub(crate) async fn remove_secret(State(backend): State<Backend>, Name(name): Name) -> Reply {
    backend.swarm.control()?.remove_secret(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Labels change; content changes when it is given and differs, and then the services that
/// use it are started anew.
pub(crate) async fn update_secret(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Json(body): Json<Body>,
) -> Reply {
    let control = backend.swarm.control()?;
    control.update_secret(&name, query.object_version()?, body.into_secret()?).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn configs(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let all = backend.swarm.control()?.configs();
    let chosen = all.iter().filter(|c| matches(c.id.as_str(), &c.spec.name, &c.spec.labels, &filters));
    ok(&chosen.map(|config| Object::of_config(config)).collect::<Vec<_>>())
}

pub(crate) async fn create_config(State(backend): State<Backend>, Json(body): Json<Body>) -> Reply {
    let id = backend.swarm.control()?.create_config(body.into_config()?).await?;
    Ok(json_reply(StatusCode::CREATED, &Id { id: id.to_string() }))
}

pub(crate) async fn config(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Object::of_config(&*backend.swarm.control()?.config(&name)?))
}

pub(crate) async fn remove_config(State(backend): State<Backend>, Name(name): Name) -> Reply {
    backend.swarm.control()?.remove_config(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// As [`update_secret`].
pub(crate) async fn update_config(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Json(body): Json<Body>,
) -> Reply {
    let control = backend.swarm.control()?;
    control.update_config(&name, query.object_version()?, body.into_config()?).await?;
    Ok(StatusCode::OK.into_response())
}
