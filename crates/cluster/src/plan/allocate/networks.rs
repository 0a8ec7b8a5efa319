//! Subnets and VXLAN identifiers for new networks.

use super::addresses::{Family, first_host, is_overlay, overlaps};
use crate::plan::draft::Draft;
use crate::store::Store;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::hash::fnv1a;
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::service::ClusterNetwork;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Identifiers below are left to people, as in the reference.
pub(crate) const VNI_MIN: u32 = 4096;
const VNI_MAX: u32 = (1 << 24) - 1;
/// A network option naming the identifier.
pub(crate) const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

pub(crate) fn networks(draft: &mut Draft<'_>) {
    let new = |network: &&Arc<ClusterNetwork>| is_overlay(network) && !network.pending_delete && !is_allocated(network);
    let waiting: Vec<Arc<ClusterNetwork>> = draft.store.networks().filter(new).cloned().collect();
    for network in waiting {
        match allocate(&draft.store, &network) {
            Ok(allocated) => draft.edit_network(network.id.as_str(), |network| *network = allocated),
            Err(reason) => draft.waiting(|| format!("network {}: {reason}", network.spec.name)),
        }
    }
}

pub(super) fn is_allocated(network: &ClusterNetwork) -> bool {
    let subnets = &network.spec.ipam;
    network.vni != 0
        && has_family(&network.spec, Family::V4)
        && (!network.spec.enable_ipv6 || has_family(&network.spec, Family::V6))
        && subnets.iter().all(|config| config.subnet.is_some() && config.gateway.is_some())
}

/// Whether a network has a subnet of that family.
pub(crate) fn has_family(spec: &NetworkSpec, family: Family) -> bool {
    spec.ipam.iter().any(|config| config.subnet.is_some_and(|subnet| Family::of(subnet.addr()) == family))
}

fn allocate(store: &Store, network: &ClusterNetwork) -> Result<ClusterNetwork, String> {
    let mut network = network.clone();
    if network.vni == 0 {
        network.vni = free_vni(store, &network)?;
    }
    let open = |subnet| IpamConfig { subnet, ip_range: None, gateway: None, aux_addresses: Default::default() };
    let spec = &mut network.spec;
    if !has_family(spec, Family::V4) && spec.ipam.iter().all(|config| config.subnet.is_some()) {
        spec.ipam.insert(0, open(None));
    }
    for config in spec.ipam.iter_mut().filter(|config| config.subnet.is_none()) {
        config.subnet = Some(IpNet::V4(free_subnet(store)?));
    }
    if spec.enable_ipv6 && !has_family(spec, Family::V6) {
        spec.ipam.push(open(Some(IpNet::V6(free_subnet_ipv6(store)?))));
    }
    for config in spec.ipam.iter_mut().filter(|config| config.gateway.is_none()) {
        config.gateway = config.subnet.as_ref().map(first_host);
    }
    Ok(network)
}

fn free_vni(store: &Store, network: &ClusterNetwork) -> Result<u32, String> {
    if let Some(wanted) = network.spec.options.get(VNI_OPTION) {
        return wanted_vni(store, wanted);
    }
    (VNI_MIN..=VNI_MAX).find(|vni| store.vni_holder(*vni).is_none()).ok_or_else(|| "no free VXLAN identifier".into())
}

/// The identifier that the option names.
pub(crate) fn wanted_vni(store: &Store, wanted: &str) -> Result<u32, String> {
    let vni = wanted.split(',').next().and_then(|text| text.trim().parse::<u32>().ok());
    let vni = vni.filter(|vni| (1..=VNI_MAX).contains(vni));
    let vni = vni.ok_or_else(|| format!("{VNI_OPTION} {wanted} is not a VXLAN identifier"))?;
    match store.vni_holder(vni) {
        Some(holder) => Err(format!("VXLAN identifier {vni} is used by network {holder}")),
        None => Ok(vni),
    }
}

/// The first subnet of the pools that overlaps no network's.
pub(crate) fn free_subnet(store: &Store) -> Result<Ipv4Net, String> {
    let Some(cluster) = store.cluster() else { return Err("there is no cluster object".into()) };
    let pools = cluster.default_address_pools.iter().filter_map(|pool| match pool {
        IpNet::V4(pool) => pool.subnets(cluster.subnet_size.max(pool.prefix_len())).ok(),
        IpNet::V6(_) => None,
    });
    let is_free = |subnet: &Ipv4Net| !store.networks().any(|network| overlaps(&network.spec, &IpNet::V4(*subnet)));
    pools.flatten().find(is_free).ok_or_else(|| "could not find an available, non-overlapping IPv4 address pool".into())
}

/// Subnets of IPv6 are as long as everybody expects.
const SUBNET_LENGTH_IPV6: u8 = 64;
/// What starts a unique local range (RFC 4193), of which 40 bits are the swarm's own.
const LOCAL_RANGE: u128 = 0xfd << 120;

/// The first subnet of the swarm's own unique local range that overlaps no network's.
pub(crate) fn free_subnet_ipv6(store: &Store) -> Result<Ipv6Net, String> {
    let Some(cluster) = store.cluster() else { return Err("there is no cluster object".into()) };
    let range = own_range(cluster.id.as_str());
    let number = |number: u16| Ipv6Addr::from(range | u128::from(number) << 64);
    let mut subnets = (0..=u16::MAX).filter_map(|n| Ipv6Net::new(number(n), SUBNET_LENGTH_IPV6).ok());
    let is_free = |subnet: &Ipv6Net| !store.networks().any(|network| overlaps(&network.spec, &IpNet::V6(*subnet)));
    subnets.find(is_free).ok_or_else(|| {
        let range = Ipv6Addr::from(range);
        format!("could not find an available, non-overlapping IPv6 address pool in {range}/48")
    })
}

/// The same for everybody who knows the swarm's id, and another for other swarms.
fn own_range(cluster: &str) -> u128 {
    LOCAL_RANGE | u128::from(fnv1a(cluster) >> 24) << 80
}
