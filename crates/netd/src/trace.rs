//! The path of a service's packets, from what is desired, what is there and what was counted:
//! pure, for people who look for a packet that got lost.

use crate::desired::Desired;
use crate::kernel::apply::Traffic;
use crate::names;
use crate::plan::{Forwarding, MESH_TUNNEL, OVERLAY_TUNNEL, PlaceId, Seen, Wanted};
use crate::ports::HostPort;
use crate::rules::{address_of, guard, protocol_number};
use crate::wanted::mesh::Mesh;
use crate::wanted::{OVERLAY_BRIDGE, port_name};
use crate::{diff, nft::expression::Family};
use skep_model::id::ServiceId;
use skep_model::net_trace::{BackendTrace, LinkCounters, NetworkTrace, PortTrace, ServiceTrace, Way};
use skep_model::netstate::{Backend, DesiredEndpoint, DesiredIngress, DesiredService, IngressBackend, NetworkKind};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// All that a trace is made of.
pub struct Facts<'a> {
    pub desired: &'a Desired,
    /// Without the containers' own side.
    pub wanted: &'a Wanted,
    pub seen: &'a Seen,
    pub traffic: &'a BTreeMap<PlaceId, Traffic>,
    pub balancer: &'static str,
    /// Ports of the host that could not be had, and why.
    pub taken_ports: &'a BTreeMap<HostPort, String>,
}

/// The service that somebody means, by its id or its name.
pub fn find(desired: &Desired, service: &str) -> Option<(ServiceId, String)> {
    let services = &desired.cluster.services;
    let named = services.iter().find(|known| known.id.as_str() == service || known.name == service);
    let published = || desired.cluster.ingress.iter().find(|port| port.service.as_str() == service);
    let of_port = |port: &DesiredIngress| (port.service.clone(), String::new());
    named.map(|known| (known.id.clone(), known.name.clone())).or_else(|| published().map(of_port))
}

/// All of it.
pub fn trace(facts: &Facts<'_>, id: &ServiceId, name: String) -> ServiceTrace {
    let cluster = &facts.desired.cluster;
    let networks = cluster.services.iter().filter(|service| service.id == *id);
    let ports = cluster.ingress.iter().filter(|port| port.service == *id);
    ServiceTrace {
        id: id.clone(),
        name,
        balancer: facts.balancer.to_owned(),
        networks: networks.map(|service| network(facts, service)).collect(),
        ports: ports.map(|port| published(facts, port)).collect(),
    }
}

fn network(facts: &Facts<'_>, service: &DesiredService) -> NetworkTrace {
    let place = PlaceId::Overlay(service.network.clone());
    let name = facts.desired.network(&service.network).map(|network| network.name.clone()).unwrap_or_default();
    let seen = facts.seen.places.get(&place);
    NetworkTrace {
        network: service.network.clone(),
        name,
        namespace: names::balancer(service.network.as_str()),
        vip: service.vip,
        balancer_address: facts.desired.cluster.load_balancer_addresses.get(&service.network).map(ipnet::IpNet::addr),
        links: links(facts, &place, &[OVERLAY_BRIDGE, OVERLAY_TUNNEL]),
        forged_frames: seen.and_then(|seen| seen.guard.as_ref()).map(guard::dropped).unwrap_or_default(),
        backends: service.backends.iter().map(|backend| task(facts, &place, service, backend)).collect(),
        problems: problems(facts, &place),
    }
}

fn task(facts: &Facts<'_>, place: &PlaceId, service: &DesiredService, backend: &Backend) -> BackendTrace {
    let is_meant = |asked: SocketAddr, answers: SocketAddr| {
        answers.ip() == backend.address && service.vips().any(|vip| vip == asked.ip())
    };
    BackendTrace {
        task: backend.task.clone(),
        name: backend.name.clone(),
        target: SocketAddr::new(backend.address, 0),
        draining: backend.weight == 0,
        way: way_on_overlay(facts, place, service, backend.address),
        connections: count(facts, place, None, is_meant),
    }
}

fn way_on_overlay(facts: &Facts<'_>, place: &PlaceId, service: &DesiredService, address: IpAddr) -> Way {
    let has_it = |endpoint: &&DesiredEndpoint| {
        endpoint.network == service.network && endpoint.addresses.iter().any(|net| net.addr() == address)
    };
    if let Some(endpoint) = facts.desired.local.endpoints.iter().find(has_it) {
        return here(facts, place, endpoint);
    }
    // As the kernel has it: an entry that is missing or wrong is what somebody looks for.
    let entries = || facts.seen.places.get(place).into_iter().flat_map(|seen| &seen.forwarding);
    let station = entries().find_map(|entry| match entry {
        Forwarding::Neighbour { address: known, mac, .. } if *known == address => Some(*mac),
        _ => None,
    });
    let node = entries().find_map(|entry| match entry {
        Forwarding::Tunnel { mac, node, .. } if Some(*mac) == station => Some(*node),
        _ => None,
    });
    node.map_or(Way::Nowhere, |node| Way::Tunnel { node })
}

/// A container's port; its counters are the bridge's side of it.
fn here(facts: &Facts<'_>, place: &PlaceId, endpoint: &DesiredEndpoint) -> Way {
    let link = port_name(endpoint);
    let is_there = facts.seen.places.get(place).is_some_and(|seen| seen.links.contains_key(&link));
    if !is_there {
        return Way::Nowhere;
    }
    let counters = counters(facts, place, &link);
    Way::Here { link, counters }
}

fn published(facts: &Facts<'_>, port: &DesiredIngress) -> PortTrace {
    PortTrace {
        published_port: port.published_port,
        target_port: port.target_port,
        protocol: port.protocol,
        links: links(facts, &PlaceId::Host, &[MESH_TUNNEL]),
        backends: port.backends.iter().map(|backend| behind_port(facts, port, backend)).collect(),
        problems: port_problems(facts, port),
    }
}

/// The host's, and that another program was first.
fn port_problems(facts: &Facts<'_>, port: &DesiredIngress) -> Vec<String> {
    let mut problems = problems(facts, &PlaceId::Host);
    let is_it = |taken: &HostPort| taken.protocol == port.protocol && taken.address.port() == port.published_port;
    problems.extend(facts.taken_ports.iter().filter(|(taken, _)| is_it(taken)).map(|(_, why)| why.clone()));
    problems
}

fn behind_port(facts: &Facts<'_>, port: &DesiredIngress, backend: &IngressBackend) -> BackendTrace {
    let (task, draining, found) = match backend {
        IngressBackend::Local { task, container, draining } => {
            let on_bridge = |endpoint: &&DesiredEndpoint| {
                let network = facts.desired.network(&endpoint.network);
                endpoint.container == *container
                    && network.is_some_and(|network| matches!(network.kind, NetworkKind::Bridge { .. }))
            };
            let endpoint = facts.desired.local.endpoints.iter().find(on_bridge);
            let found = endpoint.and_then(|endpoint| {
                let address = address_of(&endpoint.addresses, Family::V4)?;
                Some((SocketAddr::new(address, port.target_port), here(facts, &PlaceId::Host, endpoint)))
            });
            (task, *draining, found)
        }
        IngressBackend::Remote { task, node_address, .. } => {
            let hop = Mesh::of(facts.desired).and_then(|mesh| {
                let node = mesh.node_of(*node_address)?;
                Some((
                    SocketAddr::new(mesh.hop_of(*node_address, Family::V4)?, port.published_port),
                    Way::Tunnel { node },
                ))
            });
            (task, false, hop)
        }
    };
    let nowhere = || (SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port.target_port), Way::Nowhere);
    let (target, way) = found.unwrap_or_else(nowhere);
    let is_meant = |asked: SocketAddr, answers: SocketAddr| answers == target && asked.port() == port.published_port;
    let connections = count(facts, &PlaceId::Host, Some(protocol_number(port.protocol)), is_meant);
    BackendTrace { task: task.clone(), name: name_of(facts, task), target, draining, way, connections }
}

/// The name that a task has on some network.
fn name_of(facts: &Facts<'_>, task: &skep_model::id::TaskId) -> String {
    let mut backends = facts.desired.cluster.services.iter().flat_map(|service| &service.backends);
    backends.find(|backend| backend.task == *task).map(|backend| backend.name.clone()).unwrap_or_default()
}

fn count(
    facts: &Facts<'_>,
    place: &PlaceId,
    protocol: Option<u8>,
    is_meant: impl Fn(SocketAddr, SocketAddr) -> bool,
) -> u64 {
    let flows = facts.traffic.get(place).map_or(&[][..], |traffic| &traffic.flows);
    let of_protocol = flows.iter().filter(|flow| protocol.is_none_or(|protocol| protocol == flow.protocol));
    of_protocol.filter(|flow| is_meant(flow.asked, flow.answers)).count() as u64
}

fn counters(facts: &Facts<'_>, place: &PlaceId, link: &str) -> LinkCounters {
    facts.traffic.get(place).and_then(|traffic| traffic.links.get(link)).copied().unwrap_or_default()
}

fn links(facts: &Facts<'_>, place: &PlaceId, names: &[&str]) -> BTreeMap<String, LinkCounters> {
    let seen = facts.seen.places.get(place);
    let there = names.iter().filter(|name| seen.is_some_and(|seen| seen.links.contains_key(**name)));
    there.map(|name| ((*name).to_owned(), counters(facts, place, name))).collect()
}

fn problems(facts: &Facts<'_>, place: &PlaceId) -> Vec<String> {
    let ops = diff::difference(facts.wanted, facts.seen);
    ops.iter().filter(|op| op.place() == Some(place)).map(ToString::to_string).collect()
}
