//! Subnets and VXLAN identifiers for new networks.

use super::addresses::{first_host, is_overlay, overlaps};
use crate::plan::draft::Draft;
use crate::store::Store;
use ipnet::{IpNet, Ipv4Net};
use skep_model::network::IpamConfig;
use skep_model::service::ClusterNetwork;
use std::net::IpAddr;
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
        && !subnets.is_empty()
        && subnets.iter().all(|config| config.subnet.is_some() && config.gateway.is_some())
}

fn allocate(store: &Store, network: &ClusterNetwork) -> Result<ClusterNetwork, String> {
    let mut network = network.clone();
    if network.vni == 0 {
        network.vni = free_vni(store, &network)?;
    }
    if network.spec.ipam.is_empty() {
        let nothing = IpamConfig { subnet: None, ip_range: None, gateway: None, aux_addresses: Default::default() };
        network.spec.ipam.push(nothing);
    }
    for config in &mut network.spec.ipam {
        let subnet = match config.subnet {
            Some(subnet) => subnet,
            None => IpNet::V4(free_subnet(store)?),
        };
        config.subnet = Some(subnet);
        if let (None, IpNet::V4(subnet)) = (config.gateway, subnet) {
            config.gateway = Some(IpAddr::V4(first_host(&subnet)));
        }
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
