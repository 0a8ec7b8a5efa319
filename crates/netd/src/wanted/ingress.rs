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
                let addresses = local_addresses(desired, container);
                // It is on its way out, and its container may be gone before its state is known.
                if addresses.is_empty() && !*is_draining {
                    impossible.push(format!("ingress {published_port}: task {task} has no leg on the gateway bridge"));
                }
                let targets = addresses.into_iter().map(|address| Target { address, port: port.target_port });
                if *is_draining { &mut draining } else { &mut local }.extend(targets);
            }
            IngressBackend::Remote { task, node_address, ipv6 } => {
                let families = if *ipv6 { &[Family::V4, Family::V6][..] } else { &[Family::V4] };
                let hops = families.iter().filter_map(|family| mesh?.hop_of(*node_address, *family));
                let before = remote.len();
                remote.extend(hops.map(|address| Target { address, port: published_port }));
                if remote.len() == before {
                    let on = format!("is on a node that this one does not know as {node_address}");
                    impossible.push(format!("ingress {published_port}: task {task} {on}"));
                }
            }
        }
    }
    local.sort_unstable();
    draining.sort_unstable();
    remote.sort_unstable();
    // Other nodes may send for a moment what they think is still welcome here.
    let here = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        let of = |targets: &[Target]| {
            targets.iter().filter(|target| Family::of(target.address) == family).copied().collect::<Vec<_>>()
        };
        if of(&local).is_empty() { of(&draining) } else { of(&local) }
    });
    let here = here.collect();
    local.extend(remote);
    IngressPort { published_port, protocol: port.protocol, everywhere: local, here, draining }
}

/// Where a task's container answers on the gateway bridge, at most one address of each family.
fn local_addresses(desired: &Desired, container: &ContainerId) -> Vec<IpAddr> {
    let on_bridge = |endpoint: &&DesiredEndpoint| {
        endpoint.container == *container
            && desired
                .network(&endpoint.network)
                .is_some_and(|network| matches!(network.kind, NetworkKind::Bridge { .. }))
    };
    let endpoint = desired.local.endpoints.iter().find(on_bridge);
    let of = |family| endpoint.and_then(|endpoint| address_of(&endpoint.addresses, family));
    [Family::V4, Family::V6].into_iter().filter_map(of).collect()
}
