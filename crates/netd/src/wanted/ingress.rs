//! Which backends a published port's connections are spread over, on this node.

use super::mesh::Mesh;
use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::rules::address_of;
use crate::rules::ingress::{IngressPort, Target};
use skep_model::id::ContainerId;
use skep_model::netstate::{DesiredEndpoint, DesiredIngress, IngressBackend, NetworkKind};
use std::net::IpAddr;

/// All ports; what cannot be had is said in `impossible`.
pub(super) fn ports(desired: &Desired, mesh: Option<&Mesh<'_>>, impossible: &mut Vec<String>) -> Vec<IngressPort> {
    desired.cluster.ingress.iter().map(|port| port_of(desired, mesh, port, impossible)).collect()
}

fn port_of(
    desired: &Desired,
    mesh: Option<&Mesh<'_>>,
    port: &DesiredIngress,
    impossible: &mut Vec<String>,
) -> IngressPort {
    let (mut local, mut draining, mut remote) = (Vec::new(), Vec::new(), Vec::new());
    let published_port = port.published_port;
    for backend in &port.backends {
        match backend {
            IngressBackend::Local { task, container, draining: is_draining } => {
                match local_address(desired, container) {
                    Some(address) if *is_draining => draining.push(Target { address, port: port.target_port }),
                    Some(address) => local.push(Target { address, port: port.target_port }),
                    // It is on its way out, and its container may be gone before its state is known.
                    None if *is_draining => {}
                    None => {
                        impossible
                            .push(format!("ingress {published_port}: task {task} has no leg on the gateway bridge"));
                    }
                }
            }
            IngressBackend::Remote { task, node_address } => match mesh.and_then(|mesh| mesh.hop_of(*node_address)) {
                Some(address) => remote.push(Target { address, port: published_port }),
                None => impossible.push(format!(
                    "ingress {published_port}: task {task} is on a node that this one does not know as {node_address}"
                )),
            },
        }
    }
    local.sort_unstable();
    draining.sort_unstable();
    remote.sort_unstable();
    // Other nodes may send for a moment what they think is still welcome here.
    let here = if local.is_empty() { draining.clone() } else { local.clone() };
    local.extend(remote);
    IngressPort { published_port, protocol: port.protocol, everywhere: local, here, draining }
}

/// Where a task's container answers on the gateway bridge.
fn local_address(desired: &Desired, container: &ContainerId) -> Option<IpAddr> {
    let on_bridge = |endpoint: &&DesiredEndpoint| {
        endpoint.container == *container
            && desired
                .network(&endpoint.network)
                .is_some_and(|network| matches!(network.kind, NetworkKind::Bridge { .. }))
    };
    desired.local.endpoints.iter().find(on_bridge).and_then(|endpoint| address_of(&endpoint.addresses, Family::V4))
}
