//! `/networks`: the machine's and the swarm's in one list.

use crate::backend::Backend;
use crate::error::{Reply, json_reply, no_content, ok};
use crate::json::network::{ConnectBody, CreateBody, DisconnectBody, FILTERS, Network, PREDEFINED, PRUNE_FILTERS};
use crate::request::{Json, Name, Query};
use crate::route::containers::until;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use serde_json::json;
use skep_model::network::{NetworkInfo, NetworkScope};
use skep_model::service::ClusterNetwork;
use skep_model::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) async fn list(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let in_use = networks_in_use(&backend);
    let mut chosen = Vec::new();
    for network in all(&backend) {
        if network.matches(&filters, in_use.contains(&network.id))? {
            chosen.push(network.without_containers());
        }
    }
    ok(&chosen)
}

fn networks_in_use(backend: &Backend) -> Vec<String> {
    let containers = backend.engine.list();
    containers.iter().flat_map(|info| info.endpoints.values().map(|leg| leg.network_id.to_string())).collect()
}

/// Swarm networks first; one that this machine has adopted is listed once.
fn all(backend: &Backend) -> Vec<Network> {
    let local = backend.engine.network_list();
    let stored = backend.swarm.control().map(|control| control.networks()).unwrap_or_default();
    let mut by_id: BTreeMap<String, &NetworkInfo> = local.iter().map(|info| (info.id.to_string(), info)).collect();
    // Predefined networks of every node are in the swarm's store only for the scheduler.
    let shown = stored.iter().filter(|network| !network.node_local);
    let mut networks: Vec<Network> = shown
        .map(|network| match by_id.remove(network.id.as_str()) {
            Some(info) => Network::of_both(network, info),
            None => Network::of_swarm(network),
        })
        .collect();
    networks.extend(local.iter().filter(|info| by_id.contains_key(info.id.as_str())).map(Network::of_local));
    networks
}

/// A network of the swarm by name or id, where this node is a manager.
fn find_stored(backend: &Backend, name: &str) -> Option<Arc<ClusterNetwork>> {
    backend.swarm.control().ok()?.network(name).ok().filter(|network| !network.node_local)
}

pub(crate) async fn inspect(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let scope = query.get("scope");
    let stored = if scope == "local" { None } else { find_stored(&backend, &name) };
    let local = backend.engine.network_inspect(&name);
    let network = match (stored, local) {
        (Some(stored), Ok(info)) if info.id == stored.id => Network::of_both(&stored, &info),
        // A local network of the same name comes first, unless the swarm's was asked for.
        (_, Ok(info)) if scope != "swarm" || info.scope == NetworkScope::Swarm => Network::of_local(&info),
        (Some(stored), _) => Network::of_swarm(&stored),
        (None, Ok(_)) => return Err(Error::not_found(format!("network {name} not found")).into()),
        (None, Err(error)) => return Err(error.into()),
    };
    ok(&network)
}

pub(crate) async fn create(State(backend): State<Backend>, Json(body): Json<CreateBody>) -> Reply {
    let (spec, scope) = body.into_model()?;
    let id = match scope {
        NetworkScope::Swarm => {
            let name = spec.name.clone();
            if backend.engine.network_list().iter().any(|info| info.spec.name == name) {
                return Err(Error::conflict(format!("network with name {name} already exists")).into());
            }
            backend.swarm.control()?.create_network(spec).await?
        }
        NetworkScope::Local => backend.engine.network_create(spec).await?,
    };
    Ok(json_reply(StatusCode::CREATED, &json!({ "Id": id, "Warning": "" })))
}

pub(crate) async fn remove(State(backend): State<Backend>, Name(name): Name) -> Reply {
    if PREDEFINED.contains(&name.as_str()) {
        return Err(Error::forbidden(format!("{name} is a pre-defined network and cannot be removed")).into());
    }
    let local = backend.engine.network_inspect(&name).ok().filter(|info| info.scope == NetworkScope::Local);
    if local.is_none() && find_stored(&backend, &name).is_some() {
        backend.swarm.control()?.remove_network(&name).await?;
    } else {
        backend.engine.network_remove(&name).await?;
    }
    no_content()
}

pub(crate) async fn connect(State(backend): State<Backend>, Name(name): Name, Json(body): Json<ConnectBody>) -> Reply {
    need_container(&body.container)?;
    let config = body.endpoint_config.into_model()?;
    match backend.engine.network_connect(&name, &body.container, config).await {
        Err(error) if error.kind == ErrorKind::NotFound => Err(why_not_here(&backend, &name, error).into()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(StatusCode::OK.into_response()),
    }
}

/// The engine does not know a swarm network that no task uses here.
fn why_not_here(backend: &Backend, name: &str, error: Error) -> Error {
    match find_stored(backend, name) {
        Some(network) if !network.spec.attachable => Error::forbidden(format!(
            "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually \
             attachable"
        )),
        Some(_) => Error::not_implemented(format!(
            "attaching a container to the swarm network {name} is not supported on a node without a task on it"
        )),
        None => error,
    }
}

pub(crate) async fn disconnect(
    State(backend): State<Backend>,
    Name(name): Name,
    Json(body): Json<DisconnectBody>,
) -> Reply {
    need_container(&body.container)?;
    backend.engine.network_disconnect(&name, &body.container, body.force).await?;
    Ok(StatusCode::OK.into_response())
}

fn need_container(name: &str) -> Result<()> {
    if name.is_empty() { Err(Error::invalid("a container is needed")) } else { Ok(()) }
}

pub(crate) async fn prune(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let until = until(&filters)?;
    let in_use = networks_in_use(&backend);
    let mut deleted = Vec::new();
    for info in backend.engine.network_list() {
        let network = Network::of_local(&info);
        let idle = !in_use.contains(&network.id);
        if idle && network.may_prune(&filters, until) && backend.engine.network_remove(info.id.as_str()).await.is_ok() {
            deleted.push(network.name);
        }
    }
    ok(&json!({ "NetworksDeleted": crate::json::list_or_null(deleted) }))
}
