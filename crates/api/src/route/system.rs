//! `_ping`, `version`, `info`, `auth`.

use crate::backend::Backend;
use crate::error::{ApiError, Reply, ok};
use crate::json::swarm::ClusterInfo;
use crate::json::system::{AuthBody, Counts, Info, InfoFacts, Machine, SwarmSection, Version, swarm_header};
use crate::request::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use skep_engine::image::RegistryAuth;
use skep_model::Error;
use skep_model::container::ContainerStatus;

pub(crate) async fn ping(State(backend): State<Backend>) -> Response {
    let swarm = swarm_header(&backend.swarm.status());
    let headers = [
        ("Builder-Version", "1"),
        ("Swarm", swarm),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        (header::PRAGMA.as_str(), "no-cache"),
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
    ];
    (headers, "OK").into_response()
}

pub(crate) async fn version() -> Reply {
    ok(&Version::of(&Machine::read()))
}

const LEADERLESS_WARNING: &str = "WARNING: The swarm does not have a leader. What this node knows of the swarm may be \
                                  stale, and it cannot be changed";
/// The reference's words and lines.
const TWO_MANAGERS_WARNING: &str = "WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.";

pub(crate) async fn info(State(backend): State<Backend>) -> Reply {
    let machine = Machine::read();
    let mut warnings = Vec::new();
    let balancer = match backend.network.status().await {
        Ok(status) => {
            warnings.extend(status.failing.iter().map(|what| format!("WARNING: network: {what}")));
            status.balancer
        }
        Err(error) => {
            warnings.push(format!("WARNING: the network service does not answer: {error}"));
            "unknown".into()
        }
    };
    if !machine.ipv4_forwarding {
        warnings.push("WARNING: IPv4 forwarding is disabled".into());
    }
    if !machine.swap_accounting {
        warnings.push("WARNING: No swap limit support".into());
    }
    let swarm = swarm_section(&backend);
    warnings.extend(swarm_warnings(&backend, swarm.managers).map(str::to_owned));
    let facts = InfoFacts {
        system: &backend.system,
        machine: &machine,
        counts: count(&backend),
        swarm,
        balancer,
        warnings,
        now: crate::json::now(),
    };
    ok(&Info::of(facts))
}

fn count(backend: &Backend) -> Counts {
    let mut counts = Counts { images: backend.engine.images().list().len(), ..Counts::default() };
    for container in backend.engine.list() {
        match container.state.status {
            ContainerStatus::Paused => counts.paused += 1,
            status if status.is_running() => counts.running += 1,
            _ => counts.stopped += 1,
        }
    }
    counts
}

/// What whoever relies on this swarm should know.
fn swarm_warnings(backend: &Backend, managers: usize) -> impl Iterator<Item = &'static str> {
    let leaderless = backend.swarm.control().is_ok_and(|control| control.check_leader().is_err());
    let stale = leaderless.then_some(LEADERLESS_WARNING);
    stale.into_iter().chain((managers == 2).then_some(TWO_MANAGERS_WARNING))
}

fn swarm_section(backend: &Backend) -> SwarmSection {
    let status = backend.swarm.status();
    let mut section = SwarmSection { status, ..SwarmSection::default() };
    if !section.status.control_available {
        return section;
    }
    let Ok(control) = backend.swarm.control() else { return section };
    let nodes = control.nodes();
    section.nodes = nodes.len();
    section.managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    let cluster = control.cluster().and_then(|cluster| Ok((cluster, control.trust()?)));
    section.cluster = cluster.ok().map(|(cluster, trust)| ClusterInfo::of(&cluster, &trust, false));
    section
}

/// Tries credentials; nothing is kept, clients bring them again with each pull.
pub(crate) async fn auth(State(backend): State<Backend>, Json(body): Json<AuthBody>) -> Reply {
    let auth = RegistryAuth {
        username: body.username.unwrap_or_default(),
        password: body.password.unwrap_or_default(),
        identity_token: body.identitytoken.unwrap_or_default(),
    };
    backend.engine.images().login(&body.serveraddress.unwrap_or_default(), &auth).await?;
    ok(&serde_json::json!({ "IdentityToken": "", "Status": "Login Succeeded" }))
}

/// There are none, and clients ask.
pub(crate) async fn plugins() -> Reply {
    ok(&serde_json::json!([]))
}

pub(crate) async fn no_plugins() -> ApiError {
    Error::not_implemented("managed plugins are not supported yet").into()
}
