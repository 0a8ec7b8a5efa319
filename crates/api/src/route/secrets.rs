//! `/secrets` and `/configs`.

use crate::backend::Backend;
use crate::error::{Reply, json_reply, ok};
use crate::json::secret::{Body, FILTERS, Id, Object, matches};
use crate::request::{Json, Name, Query};
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use skep_model::{Error, Result};

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

/// Only labels may change. `stack deploy` sends an update for every secret it finds, so
/// one that changes nothing must succeed.
pub(crate) async fn update_secret(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Json(body): Json<Body>,
) -> Reply {
    let secret = backend.swarm.control()?.secret(&name)?;
    let wanted = body.into_secret()?;
    check_version(query.object_version()?, secret.meta.version)?;
    let same = secret.spec.name == wanted.name && (wanted.data.is_empty() || wanted.data == secret.spec.data);
    check_update("secret", same, secret.spec.labels == wanted.labels)?;
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

pub(crate) async fn update_config(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Json(body): Json<Body>,
) -> Reply {
    let config = backend.swarm.control()?.config(&name)?;
    let wanted = body.into_config()?;
    check_version(query.object_version()?, config.meta.version)?;
    let same = config.spec.name == wanted.name && (wanted.data.is_empty() || wanted.data == config.spec.data);
    check_update("config", same, config.spec.labels == wanted.labels)?;
    Ok(StatusCode::OK.into_response())
}

fn check_version(asked: u64, present: u64) -> Result<()> {
    if asked == present {
        return Ok(());
    }
    Err(Error::internal("rpc error: code = Unknown desc = update out of sequence"))
}

fn check_update(kind: &str, same_content: bool, same_labels: bool) -> Result<()> {
    if !same_content {
        return Err(Error::invalid("rpc error: code = InvalidArgument desc = only updates to Labels are allowed"));
    }
    if !same_labels {
        return Err(Error::not_implemented(format!("changing the labels of a {kind} is not supported yet")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_that_changes_nothing_succeeds() {
        assert!(check_update("secret", true, true).is_ok());
        assert!(check_update("secret", false, true).is_err() && check_update("secret", true, false).is_err());
        assert!(check_version(3, 3).is_ok() && check_version(2, 3).is_err());
    }
}
