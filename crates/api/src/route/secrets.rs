//! `/secrets` and `/configs`.

use crate::backend::Backend;
use crate::error::{Reply, json_reply, ok};
use crate::json::secret::{Body, FILTERS, Id, Object, matches};
use crate::request::{Json, Name, Query};
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use skep_model::secret::{Config, Secret};
use skep_model::{Error, Result};
use std::sync::Arc;

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
    ok(&Object::of_secret(&*find_secret(&backend, &name)?))
}

fn find_secret(backend: &Backend, name: &str) -> Result<Arc<Secret>> {
    let all = backend.swarm.control()?.secrets();
    find("secret", &all, name, |secret| (secret.id.as_str(), &secret.spec.name))
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
    let secret = find_secret(&backend, &name)?;
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
    ok(&Object::of_config(&*find_config(&backend, &name)?))
}

fn find_config(backend: &Backend, name: &str) -> Result<Arc<Config>> {
    let all = backend.swarm.control()?.configs();
    find("config", &all, name, |config| (config.id.as_str(), &config.spec.name))
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
    let config = find_config(&backend, &name)?;
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

/// By id, exact name or unique beginning of an id.
fn find<T>(kind: &str, all: &[Arc<T>], name: &str, key: impl Fn(&T) -> (&str, &String)) -> Result<Arc<T>> {
    let exact = all.iter().find(|one| key(one).0 == name).or_else(|| all.iter().find(|one| key(one).1 == name));
    if let Some(one) = exact {
        return Ok(Arc::clone(one));
    }
    let mut begun = all.iter().filter(|one| !name.is_empty() && key(one).0.starts_with(name));
    match (begun.next(), begun.count()) {
        (Some(one), 0) => Ok(Arc::clone(one)),
        (Some(_), more) => Err(Error::invalid(format!("{kind} {name} is ambiguous ({} matches found)", more + 1))),
        (None, _) => Err(Error::not_found(format!("{kind} {name} not found"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_id_name_or_beginning() {
        let secret = |id: &str, name: &str| {
            let mut secret = Secret { id: id.into(), ..Secret::default() };
            secret.spec.name = name.into();
            Arc::new(secret)
        };
        let all = [secret("ab1", "db"), secret("ab2", "ab1x"), secret("cd3", "ab1")];
        let check = |name: &str| {
            find("secret", &all, name, |s| (s.id.as_str(), &s.spec.name))
                .map(|s| s.id.to_string())
                .map_err(|e| e.message)
        };
        assert_eq!(check("ab1").unwrap(), "ab1", "an id comes before a name");
        assert_eq!(check("db").unwrap(), "ab1");
        assert_eq!(check("c").unwrap(), "cd3");
        assert_eq!(check("ab").unwrap_err(), "secret ab is ambiguous (2 matches found)");
        assert_eq!(check("x").unwrap_err(), "secret x not found");
        assert!(check("").is_err());
    }

    #[test]
    fn an_update_that_changes_nothing_succeeds() {
        assert!(check_update("secret", true, true).is_ok());
        assert!(check_update("secret", false, true).is_err() && check_update("secret", true, false).is_err());
        assert!(check_version(3, 3).is_ok() && check_version(2, 3).is_err());
    }
}
