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
use skep_manager::Control;
use skep_model::service::{Service as Model, ServiceMode};
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
    let warnings = credentials_warning(&headers)?;
    let mut spec = body.into_model()?;
    if spec.name.is_empty() {
        spec.name = skep_engine::container::random_name();
    }
    let id = control.create_service(spec).await?;
    let mut answer = json!({ "ID": id });
    if !warnings.is_empty() {
        answer["Warnings"] = json!(warnings);
    }
    Ok(json_reply(StatusCode::CREATED, &answer))
}

/// Credentials would have to travel to the nodes inside the spec, which is not done.
fn credentials_warning(headers: &HeaderMap) -> Result<Vec<String>> {
    Ok(match registry_auth(headers)? {
        Some(_) => vec![
            "registry credentials are not sent to the nodes: an image that needs them must be pulled there first"
                .into(),
        ],
        None => vec![],
    })
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
    let warnings = credentials_warning(&headers)?;
    control.update_service(&name, query.object_version()?, body.into_model()?, rollback).await?;
    ok(&json!({ "Warnings": crate::json::list_or_null(warnings) }))
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
