//! Virtual addresses and published ports of services.

use super::addresses::{Family, families, is_overlay, next_free, note_last};
use super::networks::is_allocated;
use crate::plan::draft::Draft;
use crate::store::Store;
use skep_model::service::{ClusterNetwork, EndpointMode, PortConfig, PublishMode, Service, ServiceEndpoint, VirtualIp};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where ports come from when the user names none.
const DYNAMIC_PORTS: RangeInclusive<u16> = 30_000..=32_767;

pub(crate) fn services(draft: &mut Draft<'_>, ids: &BTreeSet<String>) {
    for id in ids {
        let Some(service) = draft.store.service(id).cloned() else { continue };
        if service.pending_delete || unallocated(&draft.store, &service).is_none() {
            continue;
        }
        match endpoint(&draft.store, &service) {
            Ok(endpoint) => {
                for vip in &endpoint.virtual_ips {
                    if !service.endpoint.virtual_ips.contains(vip) {
                        draft.edit_network(vip.network.as_str(), |network| note_last(network, vip.address.addr()));
                    }
                }
                draft.edit_service(id, |service| service.endpoint = endpoint);
            }
            Err(reason) => draft.waiting(|| format!("service {}: {reason}", service.spec.name)),
        }
    }
}

/// Why tasks of a service have to wait for it, if they have to.
pub(super) fn unallocated(store: &Store, service: &Service) -> Option<String> {
    let endpoint = &service.endpoint;
    let have: BTreeSet<(&str, Family)> =
        endpoint.virtual_ips.iter().map(|vip| (vip.network.as_str(), Family::of(vip.address.addr()))).collect();
    let networks = networks_with_vip(store, service);
    let want: BTreeSet<(&str, Family)> = networks
        .iter()
        .flat_map(|network| families(network).iter().map(|family| (network.id.as_str(), *family)))
        .collect();
    let ports_match =
        endpoint.spec == service.spec.endpoint && endpoint.ports.len() == service.spec.endpoint.ports.len();
    if have == want && ports_match {
        return None;
    }
    Some(self::endpoint(store, service).err().unwrap_or_else(|| "addresses and ports are being allocated".into()))
}

/// What the service should have, keeping what it has.
fn endpoint(store: &Store, service: &Service) -> Result<ServiceEndpoint, String> {
    let mut endpoint = ServiceEndpoint { spec: service.spec.endpoint.clone(), ..ServiceEndpoint::default() };
    for network in networks_with_vip(store, service) {
        for family in families(&network) {
            let is_it = |vip: &&VirtualIp| vip.network == network.id && Family::of(vip.address.addr()) == *family;
            let vip = match service.endpoint.virtual_ips.iter().find(is_it) {
                Some(vip) => vip.clone(),
                None if is_allocated(&network) => {
                    VirtualIp { network: network.id.clone(), address: next_free(store, &network, *family)? }
                }
                None => return Err(format!("network {} has no subnet yet", network.spec.name)),
            };
            endpoint.virtual_ips.push(vip);
        }
    }
    for port in &service.spec.endpoint.ports {
        let allocated = allocate_port(store, service, port, &endpoint.ports)?;
        endpoint.ports.push(allocated);
    }
    Ok(endpoint)
}

/// One address on each of its networks, and one on the mesh's if it publishes ports there.
fn networks_with_vip(store: &Store, service: &Service) -> Vec<Arc<ClusterNetwork>> {
    if service.spec.endpoint.mode != EndpointMode::Vip {
        return Vec::new();
    }
    let attached = service.spec.task.networks.iter().filter_map(|config| store.network(&config.target));
    let published = service.spec.endpoint.ports.iter().any(|port| port.publish_mode == PublishMode::Ingress);
    let mesh = store.ingress_network().filter(|_| published);
    mesh.into_iter().chain(attached).filter(|network| is_overlay(network)).cloned().collect()
}

fn allocate_port(
    store: &Store,
    service: &Service,
    port: &PortConfig,
    given: &[PortConfig],
) -> Result<PortConfig, String> {
    if port.publish_mode == PublishMode::Host {
        return Ok(port.clone());
    }
    let protocol = port.protocol;
    let holder = |number: u16| store.port_holder(protocol, number).filter(|holder| *holder != service.id.as_str());
    if port.published_port != 0 {
        return match holder(port.published_port) {
            Some(holder) => Err(format!("port {} is still used by service {holder}", port.published_port)),
            None => Ok(port.clone()),
        };
    }
    let is_free = |number: u16| {
        let named = service.spec.endpoint.ports.iter().chain(given);
        let taken = named.into_iter().any(|other| other.protocol == protocol && other.published_port == number);
        !taken && holder(number).is_none()
    };
    // What it was given before stays, so that clients need not learn a new number.
    let before = service.endpoint.ports.iter().find(|old| {
        old.protocol == protocol && old.target_port == port.target_port && DYNAMIC_PORTS.contains(&old.published_port)
    });
    let number = before.map(|old| old.published_port).filter(|number| is_free(*number));
    let number = number.or_else(|| DYNAMIC_PORTS.clone().find(|number| is_free(*number)));
    let published_port = number.ok_or("no free port between 30000 and 32767")?;
    Ok(PortConfig { published_port, ..port.clone() })
}
