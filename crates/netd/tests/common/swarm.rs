//! A swarm's objects for the laboratory: one overlay, the gateway bridge, tasks on both.

use super::{Namespace, bridge_network, endpoint};
use skep_model::id::{ContainerId, EndpointId, NetworkId};
use skep_model::netstate::{DesiredEndpoint, DesiredNetwork, NetworkKind, Subnet};
use skep_model::network::mac_of;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub fn overlay_id() -> NetworkId {
    NetworkId("overlaynetworkidoflength25".into())
}

pub fn overlay() -> DesiredNetwork {
    DesiredNetwork {
        id: overlay_id(),
        name: "mesh".into(),
        kind: NetworkKind::Overlay { vni: 4097, vxlan_port: 4789 },
        subnets: vec![Subnet { net: "10.0.1.0/24".parse().unwrap(), gateway: Some("10.0.1.1".parse().unwrap()) }],
        internal: false,
        mtu: 0,
        dns: true,
    }
}

/// The gateway bridge: containers do not see each other there.
pub fn gateway_bridge() -> DesiredNetwork {
    let mut network = bridge_network(9);
    network.dns = false;
    if let NetworkKind::Bridge { inter_container, .. } = &mut network.kind {
        *inter_container = false;
    }
    network
}

/// Both legs of task `last`: the overlay first, the way out second.
pub fn legs(last: u8, namespace: &Namespace) -> Vec<DesiredEndpoint> {
    let address: IpAddr = format!("10.0.1.{last}").parse().unwrap();
    let mut out = endpoint(9, last, &namespace.path());
    out.interface = "eth1".into();
    let overlay_leg = DesiredEndpoint {
        id: EndpointId(format!("overlay{last}")),
        network: overlay_id(),
        interface: "eth0".into(),
        addresses: vec![format!("{address}/24").parse().unwrap()],
        mac: mac_of(address),
        default_route: false,
        ..out.clone()
    };
    vec![overlay_leg, out]
}

pub fn container(last: u8) -> ContainerId {
    endpoint(9, last, std::path::Path::new("/")).container
}

/// How often each word came first in an answer.
pub fn spread(answers: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}
