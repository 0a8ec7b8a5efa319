//! Our own addition: the path of a service's packets, on this node or on all.

use super::networks_verify::ask_all;
use crate::backend::Backend;
use crate::error::{Reply, ok};
use crate::request::Query;
use axum::extract::State;
use serde_json::{Value, json};
use skep_model::net_trace::{BackendTrace, LinkCounters, NetworkTrace, PortTrace, ServiceTrace, Way};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

pub(crate) const PATH: &str = "/skep/networks/trace";

/// `?service=NAME`, and with `&all=1` every node is asked.
pub(crate) async fn trace(State(backend): State<Backend>, query: Query) -> Reply {
    let named = wanted_service(&query)?;
    // A worker has no store; there netd knows the names of its own networks.
    let (id, name) = match backend.swarm.control() {
        Ok(control) => {
            let service = control.service(named)?;
            (service.id.0.clone(), service.spec.name.clone())
        }
        Err(error) if query.flag("all") => return Err(error.into()),
        Err(_) => (named.to_owned(), named.to_owned()),
    };
    if query.flag("all") {
        let nodes = ask_all(&backend.swarm.control()?, &format!("{PATH}?service={id}")).await;
        return ok(&json!({ "ID": id, "Name": name, "Nodes": nodes }));
    }
    let traced = backend.network.trace(&id).await?;
    if traced.id.as_str().is_empty() && backend.swarm.control().is_err() {
        return Err(Error::not_found(format!("service {named} is not known on this node")).into());
    }
    let mut body = body(&traced);
    body["ID"] = json!(if traced.id.as_str().is_empty() { id.as_str() } else { traced.id.as_str() });
    body["Name"] = json!(name);
    ok(&body)
}

/// This node alone; a service that it does not know has no paths here.
pub(crate) async fn trace_here(State(backend): State<Backend>, query: Query) -> Reply {
    ok(&body(&backend.network.trace(wanted_service(&query)?).await?))
}

fn wanted_service(query: &Query) -> Result<&str> {
    match query.get("service") {
        "" => Err(Error::invalid("a service is needed")),
        service => Ok(service),
    }
}

fn body(trace: &ServiceTrace) -> Value {
    json!({
        "Balancer": trace.balancer,
        "Networks": trace.networks.iter().map(network).collect::<Vec<_>>(),
        "Ports": trace.ports.iter().map(port).collect::<Vec<_>>(),
    })
}

fn network(trace: &NetworkTrace) -> Value {
    json!({
        "ID": trace.network,
        "Name": trace.name,
        "Namespace": trace.namespace,
        "VirtualIP": trace.vip,
        "BalancerIP": trace.balancer_address,
        "Links": links(&trace.links),
        "ForgedFrames": trace.forged_frames,
        "Tasks": trace.backends.iter().map(backend).collect::<Vec<_>>(),
        "Problems": trace.problems,
    })
}

fn port(trace: &PortTrace) -> Value {
    json!({
        "PublishedPort": trace.published_port,
        "TargetPort": trace.target_port,
        "Protocol": trace.protocol.as_str(),
        "Links": links(&trace.links),
        "Tasks": trace.backends.iter().map(backend).collect::<Vec<_>>(),
        "Problems": trace.problems,
    })
}

fn backend(trace: &BackendTrace) -> Value {
    let way = match &trace.way {
        Way::Here { link, counters } => json!({ "Kind": "here", "Link": link, "Counters": counted(counters) }),
        Way::Tunnel { node } => json!({ "Kind": "tunnel", "Node": node }),
        Way::Nowhere => json!({ "Kind": "nowhere" }),
    };
    // Port 0 is the one that the client asked for.
    let target = match trace.target.port() {
        0 => trace.target.ip().to_string(),
        _ => trace.target.to_string(),
    };
    json!({
        "ID": trace.task,
        "Name": trace.name,
        "Target": target,
        "Draining": trace.draining,
        "Way": way,
        "Connections": trace.connections,
    })
}

fn links(links: &BTreeMap<String, LinkCounters>) -> Value {
    links.iter().map(|(name, counters)| (name.clone(), counted(counters))).collect::<serde_json::Map<_, _>>().into()
}

fn counted(counters: &LinkCounters) -> Value {
    json!({
        "ReceivedPackets": counters.received_packets,
        "SentPackets": counters.sent_packets,
        "ReceivedBytes": counters.received_bytes,
        "SentBytes": counters.sent_bytes,
        "DroppedPackets": counters.dropped_packets,
    })
}
