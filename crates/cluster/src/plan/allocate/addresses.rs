//! Addresses of a network, given out in turn: one just freed is not reused at once,
//! because caches and connections out there may still mean its last holder.

use crate::store::Store;
use ipnet::{IpNet, Ipv4Net};
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::service::ClusterNetwork;
use std::net::{IpAddr, Ipv4Addr};

/// Carried between nodes, so its addresses are ours to give.
pub(crate) fn is_overlay(network: &ClusterNetwork) -> bool {
    !network.node_local && network.spec.driver == "overlay"
}

/// Whether a subnet overlaps one of a network's.
pub(crate) fn overlaps(spec: &NetworkSpec, subnet: &IpNet) -> bool {
    let own = spec.ipam.iter().filter_map(|config| config.subnet.as_ref());
    own.into_iter().any(|net| net.contains(subnet) || subnet.contains(net))
}

/// The first address a gateway may have.
pub(crate) fn first_host(subnet: &Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// With so few addresses left somebody may be waiting for one.
const FEW_ADDRESSES: u64 = 8;

/// Whether some network is so full that nodes may wait for an address on it.
pub(crate) fn any_is_nearly_full(store: &Store) -> bool {
    store.networks().filter(|network| is_overlay(network)).any(|network| {
        let hosts: u64 =
            network.spec.ipam.iter().filter_map(host_range).map(|(_, low, high)| u64::from(high - low) + 1).sum();
        let used = store.addresses(network.id.as_str()).map_or(0, |used| used.len() as u64);
        hosts > 0 && hosts <= used + FEW_ADDRESSES
    })
}

/// The next free address after the last one given out, with its subnet's prefix length.
///
/// # Errors
/// Why the caller has to wait.
pub(super) fn next_free(store: &Store, network: &ClusterNetwork) -> Result<IpNet, String> {
    let used = store.addresses(network.id.as_str());
    let is_free = |address: &Ipv4Addr| {
        let address = IpAddr::V4(*address);
        !used.is_some_and(|used| used.contains_key(&address)) && !is_reserved(&network.spec, &address)
    };
    let ranges: Vec<(Ipv4Net, u32, u32)> = network.spec.ipam.iter().filter_map(host_range).collect();
    let hosts: u64 = ranges.iter().map(|(_, low, high)| u64::from(high - low) + 1).sum();
    let full = || format!("network {} has no free address ({hosts} of {hosts})", network.spec.name);
    // Holders are never outside the ranges, so a full network needs no search.
    let gateways = network.spec.ipam.iter().filter(|config| gateway_is_host(config)).count() as u64;
    if used.map_or(0, |used| used.len() as u64) + gateways >= hosts {
        return Err(full());
    }
    let last = match network.last_address {
        Some(IpAddr::V4(last)) => u32::from(last),
        Some(IpAddr::V6(_)) | None => 0,
    };
    // First what lies behind the last address, then from the start again.
    let behind =
        ranges.iter().filter(|(_, _, high)| *high > last).map(|(net, low, high)| (net, (*low).max(last + 1), *high));
    let again = ranges.iter().map(|(net, low, high)| (net, *low, *high));
    let found = behind.chain(again).find_map(|(net, low, high)| {
        let address = (low..=high).map(Ipv4Addr::from).find(is_free)?;
        Ipv4Net::new(address, net.prefix_len()).ok()
    });
    found.map(IpNet::V4).ok_or_else(full)
}

/// Whether the gateway takes one of the addresses that could be given out.
fn gateway_is_host(config: &IpamConfig) -> bool {
    let Some(IpAddr::V4(gateway)) = config.gateway else { return false };
    host_range(config).is_some_and(|(_, low, high)| (low..=high).contains(&u32::from(gateway)))
}

fn is_reserved(spec: &NetworkSpec, address: &IpAddr) -> bool {
    spec.ipam.iter().any(|config| {
        config.gateway.as_ref() == Some(address) || config.aux_addresses.values().any(|reserved| reserved == address)
    })
}

/// Subnet, first and last address that may be given out.
fn host_range(config: &IpamConfig) -> Option<(Ipv4Net, u32, u32)> {
    let IpNet::V4(subnet) = config.subnet? else { return None };
    let (mut low, mut high) =
        (u32::from(subnet.network()).checked_add(1)?, u32::from(subnet.broadcast()).checked_sub(1)?);
    if let Some(IpNet::V4(range)) = config.ip_range {
        low = low.max(u32::from(range.network()));
        high = high.min(u32::from(range.broadcast()));
    }
    (low <= high).then_some((subnet, low, high))
}
