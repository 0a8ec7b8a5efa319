//! `/services` and `/tasks`.

use crate::backend::Backend;
use crate::error::{Reply, json_reply, ok};
use crate::filters::Filters;
use crate::json::service::{Service, ServiceSpec, ServiceStatus};
use crate::json::task::{FILTERS as TASK_FILTERS, Task, Wanted};
use crate::request::{Json, Name, Query, registry_auth};
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use skep_engine::image::RegistryAuth;
use skep_manager::Control;
use skep_model::service::{PullAuth, Service as Model, ServiceMode};
use skep_model::{Error, Result};

const FILTERS: [&str; 5] = ["id", "label", "mode", "name", "runtime"];

pub(crate) async fn list(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    check_modes(&filters)?;
    let control = backend.swarm.control()?;
    let tasks = if query.flag("status") { control.tasks() } else { vec![] };
    let status = |service: &Model| {
        let own = tasks.iter().filter(|task| task.service_id == service.id).map(|task| &**task);
        query.flag("status").then(|| ServiceStatus::of(service, own))
    };
    let services = control.services();
    let chosen = services.iter().filter(|service| matches(service, &filters));
    let defaults = query.flag("insertDefaults");
    ok(&chosen.map(|service| Service::of(service, defaults, status(service))).collect::<Vec<_>>())
}

fn check_modes(filters: &Filters) -> Result<()> {
    match filters.values("mode").find(|mode| !MODES.contains(mode)) {
        Some(mode) => Err(Error::invalid(format!("invalid filter 'mode={mode}'"))),
        None => Ok(()),
    }
}

const MODES: [&str; 4] = ["replicated", "global", "replicated-job", "global-job"];

fn matches(service: &Model, filters: &Filters) -> bool {
    let mode = match service.spec.mode {
        ServiceMode::Replicated { .. } => "replicated",
        ServiceMode::Global => "global",
        ServiceMode::ReplicatedJob { .. } => "replicated-job",
        ServiceMode::GlobalJob => "global-job",
    };
    filters.prefix("id", service.id.as_str())
        && filters.prefix("name", &service.spec.name)
        && filters.labels("label", &service.spec.labels)
        && filters.exact("mode", mode)
        && filters.exact("runtime", "container")
}

pub(crate) async fn inspect(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let service = backend.swarm.control()?.service(&name)?;
    ok(&Service::of(&service, query.flag("insertDefaults"), None))
}

pub(crate) async fn create(State(backend): State<Backend>, headers: HeaderMap, Json(body): Json<ServiceSpec>) -> Reply {
    let control = backend.swarm.control()?;
    let mut spec = body.into_model()?;
    if spec.name.is_empty() {
        spec.name = skep_engine::container::random_name();
    }
    spec.task.container.pull_auth = pull_auth(&headers)?.unwrap_or_default();
    let id = control.create_service(spec).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({ "ID": id })))
}

fn pull_auth(headers: &HeaderMap) -> Result<Option<PullAuth>> {
    let auth = registry_auth(headers)?;
    Ok(auth.map(|RegistryAuth { username, password, identity_token }| PullAuth { username, password, identity_token }))
}

pub(crate) async fn update(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    headers: HeaderMap,
    Json(body): Json<ServiceSpec>,
) -> Reply {
    let control = backend.swarm.control()?;
    let rollback = match query.get("rollback") {
        "" => false,
        "previous" => true,
        other => return Err(Error::invalid(format!("unrecognized rollback option {other}")).into()),
    };
    let mut spec = body.into_model()?;
    spec.task.container.pull_auth = match pull_auth(&headers)? {
        Some(auth) => auth,
        None => known_pull_auth(&*control.service(&name)?, query.get("registryAuthFrom"))?,
    };
    // The version that the client saw guards what was read above as well.
    control.update_service(&name, query.object_version()?, spec, rollback).await?;
    ok(&json!({ "Warnings": null }))
}

/// Without new credentials the service keeps those that it has, or had before.
fn known_pull_auth(service: &Model, from: &str) -> Result<PullAuth> {
    let spec = match from {
        "" | "spec" => &service.spec,
        "previous-spec" => {
            let previous = service.previous_spec.as_deref();
            previous.ok_or_else(|| Error::invalid("previous service spec is not available"))?
        }
        other => return Err(Error::invalid(format!("unsupported registryAuthFrom value: {other}"))),
    };
    Ok(spec.task.container.pull_auth.clone())
}

pub(crate) async fn remove(State(backend): State<Backend>, Name(name): Name) -> Reply {
    backend.swarm.control()?.remove_service(&name).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn tasks(State(backend): State<Backend>, query: Query) -> Reply {
    let control = backend.swarm.control()?;
    let wanted = wanted_tasks(&control, query.filters(&TASK_FILTERS)?)?;
    let networks = control.networks();
    let services = control.services();
    let spec_version = |id| services.iter().find(|service| service.id == id).map(|service| service.spec_version);
    let all = control.tasks();
    let chosen = all.iter().filter(|task| wanted.matches(task, spec_version(task.service_id.clone())));
    ok(&chosen.map(|task| Task::of(task, &networks)).collect::<Vec<_>>())
}

/// Services and nodes may be named; the store compares ids.
fn wanted_tasks(control: &Control, filters: Filters) -> Result<Wanted> {
    let ids = |key: &str, find: &dyn Fn(&str) -> Result<String>| -> Result<Option<Vec<String>>> {
        if !filters.has(key) {
            return Ok(None);
        }
        filters.values(key).map(find).collect::<Result<_>>().map(Some)
    };
    let services = ids("service", &|name| control.service(name).map(|service| service.id.to_string()))?;
    let nodes = ids("node", &|name| control.node(name).map(|node| node.id.to_string()))?;
    let wanted = Wanted { filters, services, nodes };
    wanted.check()?;
    Ok(wanted)
}

pub(crate) async fn task(State(backend): State<Backend>, Name(name): Name) -> Reply {
    let control = backend.swarm.control()?;
    ok(&Task::of(&*control.task(&name)?, &control.networks()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose() {
        let mut service = Model { id: "vm69".into(), ..Model::default() };
        service.spec.name = "web".into();
        let check = |text: &str| {
            let filters = Filters::parse(text).unwrap();
            filters.check(&FILTERS).unwrap();
            matches(&service, &filters)
        };
        assert!(check(r#"{"name":["we"],"id":["vm"],"mode":["replicated"]}"#));
        assert!(!check(r#"{"mode":["global"]}"#) && !check(r#"{"label":["a"]}"#));
        assert!(check_modes(&Filters::parse(r#"{"mode":["x"]}"#).unwrap()).is_err());
    }
}
