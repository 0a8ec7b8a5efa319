//! `/volumes`.

use crate::backend::Backend;
use crate::error::{ApiError, Reply, json_reply, no_content, ok};
use crate::json::volume::{CreateBody, FILTERS, List, PRUNE_FILTERS, Volume, matches};
use crate::request::{Json, Name, Query};
use crate::route::disk::directory_size;
use axum::extract::State;
use http::StatusCode;
use serde_json::json;
use skep_model::Error;
use std::path::PathBuf;

pub(crate) async fn list(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let in_use = volumes_in_use(&backend);
    let mut volumes = Vec::new();
    for volume in backend.engine.volume_list() {
        if matches(&volume, in_use.contains(&volume.name), &filters)? {
            volumes.push(Volume::of(&volume));
        }
    }
    ok(&List { volumes, warnings: None })
}

fn volumes_in_use(backend: &Backend) -> Vec<String> {
    let containers = backend.engine.list();
    let names = containers.iter().flat_map(|info| info.mounts.iter().map(|mount| mount.name.clone()));
    names.filter(|name| !name.is_empty()).collect()
}

pub(crate) async fn create(State(backend): State<Backend>, Json(body): Json<CreateBody>) -> Reply {
    body.check()?;
    let driver = if body.driver.is_empty() { "local" } else { &body.driver };
    let volume = backend.engine.volume_create(&body.name, driver, body.driver_opts, body.labels).await?;
    Ok(json_reply(StatusCode::CREATED, &Volume::of(&volume)))
}

pub(crate) async fn inspect(State(backend): State<Backend>, Name(name): Name) -> Reply {
    ok(&Volume::of(&backend.engine.volume_inspect(&name)?))
}

pub(crate) async fn update() -> ApiError {
    Error::not_implemented("cluster volumes are not supported").into()
}

pub(crate) async fn remove(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    backend.engine.volume_remove(&name, query.flag("force")).await?;
    no_content()
}

/// Anonymous volumes that no container mounts; since 1.42 named ones only with `all`.
pub(crate) async fn prune(
    State(backend): State<Backend>,
    axum::Extension(version): axum::Extension<crate::version::ApiVersion>,
    query: Query,
) -> Reply {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let named_too = filters.boolean("all")?.unwrap_or_else(|| !version.at_least(42));
    let in_use = volumes_in_use(&backend);
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for volume in backend.engine.volume_list() {
        let spared = in_use.contains(&volume.name)
            || !(volume.anonymous || named_too)
            || !filters.labels_and_not(&volume.labels);
        if spared {
            continue;
        }
        let path = PathBuf::from(&volume.mountpoint);
        let size = tokio::task::spawn_blocking(move || directory_size(&path)).await.ok().flatten();
        // Taken into use meanwhile: then it is not ours to prune.
        if backend.engine.volume_remove(&volume.name, false).await.is_ok() {
            deleted.push(volume.name);
            reclaimed += size.unwrap_or_default();
        }
    }
    ok(&json!({ "VolumesDeleted": crate::json::list_or_null(deleted), "SpaceReclaimed": reclaimed }))
}
