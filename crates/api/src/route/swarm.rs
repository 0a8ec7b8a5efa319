//! `/swarm` and `/nodes`.

use crate::backend::Backend;
use crate::error::{Reply, ok};
use crate::json::node::{FILTERS, Node, NodeSpec, matches};
use crate::json::swarm::{ClusterInfo, InitBody, JoinBody, SwarmSpec, UnlockBody};
use crate::request::{Json, Name, Query};
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use serde_json::json;
use skep_manager::control::RotateFlags;

pub(crate) async fn init(State(backend): State<Backend>, Json(body): Json<InitBody>) -> Reply {
    ok(&backend.swarm.init(body.into_model()?).await?)
}

pub(crate) async fn join(State(backend): State<Backend>, Json(body): Json<JoinBody>) -> Reply {
    backend.swarm.join(body.into_model()?).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn leave(State(backend): State<Backend>, query: Query) -> Reply {
    backend.swarm.leave(query.flag("force")).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn inspect(State(backend): State<Backend>) -> Reply {
    let control = backend.swarm.control()?;
    ok(&ClusterInfo::of(&*control.cluster()?, &control.trust()?, true))
}

pub(crate) async fn update(State(backend): State<Backend>, query: Query, Json(body): Json<SwarmSpec>) -> Reply {
    let control = backend.swarm.control()?;
    let version = query.object_version()?;
    let spec = body.merge(&control.cluster()?.spec)?;
    let rotate = RotateFlags {
        worker_token: query.flag("rotateWorkerToken"),
        manager_token: query.flag("rotateManagerToken"),
        unlock_key: query.flag("rotateManagerUnlockKey"),
    };
    control.update_cluster(version, spec, rotate).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn unlock(State(backend): State<Backend>, Json(body): Json<UnlockBody>) -> Reply {
    backend.swarm.unlock(body.unlock_key.0).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn unlock_key(State(backend): State<Backend>) -> Reply {
    let key = backend.swarm.control()?.unlock_key()?;
    ok(&json!({ "UnlockKey": key.unwrap_or_default() }))
}

pub(crate) async fn nodes(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let mut chosen = Vec::new();
    for node in backend.swarm.control()?.nodes() {
        if matches(&node, &filters)? {
            chosen.push(Node::of(&node));
        }
    }
    ok(&chosen)
}

pub(crate) async fn node(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Node::of(&*backend.swarm.control()?.node(&name)?))
}

pub(crate) async fn update_node(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Json(body): Json<NodeSpec>,
) -> Reply {
    let control = backend.swarm.control()?;
    control.update_node(&name, query.object_version()?, body.into_model()?).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn remove_node(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    backend.swarm.control()?.remove_node(&name, query.flag("force")).await?;
    Ok(StatusCode::OK.into_response())
}
