//! Addresses of a network, given out in turn: one just freed is not reused at once,
//! because caches and connections out there may still mean its last holder.

use crate::store::{Holder, Store};
use ipnet::IpNet;
use skep_model::network::{IpamConfig, NetworkSpec};
use skep_model::service::ClusterNetwork;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Internet protocol version of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The families that everybody on a network has an address of.
pub(crate) fn families(network: &ClusterNetwork) -> &'static [Family] {
    if network.spec.enable_ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] }
}

/// Carried between nodes, so its addresses are ours to give.
pub(crate) fn is_overlay(network: &ClusterNetwork) -> bool {
    !network.node_local && network.spec.driver == "overlay"
}

/// A network's subnet that overlaps this one.
pub(crate) fn overlapping(spec: &NetworkSpec, subnet: &IpNet) -> Option<IpNet> {
    let mut own = spec.ipam.iter().filter_map(|config| config.subnet);
    own.find(|net| net.contains(subnet) || subnet.contains(net))
}

/// Whether a subnet overlaps one of a network's.
pub(crate) fn overlaps(spec: &NetworkSpec, subnet: &IpNet) -> bool {
    overlapping(spec, subnet).is_some()
}

/// The first address a gateway may have.
pub(crate) fn first_host(subnet: &IpNet) -> IpAddr {
    address_of(number_of(subnet.network()).saturating_add(1), Family::of(subnet.addr()))
}

/// With so few addresses left somebody may be waiting for one.
const FEW_ADDRESSES: u128 = 8;
/// Of a larger range only so many are given out, so that their last four bytes tell them
/// apart on their network: balancers know virtual addresses by those.
const RANGE_MAX: u128 = u32::MAX as u128 - 1;

/// Whether some network is so full that nodes may wait for an address on it.
pub(crate) fn any_is_nearly_full(store: &Store) -> bool {
    store.networks().filter(|network| is_overlay(network)).any(|network| {
        families(network).iter().any(|family| {
            let hosts: u128 = ranges(&network.spec, *family).map(|range| range.count()).sum();
            hosts > 0 && is_used_up(store, network, *family, hosts.saturating_sub(FEW_ADDRESSES))
        })
    })
}

/// Notes an address as the last one given out of its family.
pub(super) fn note_last(network: &mut ClusterNetwork, address: IpAddr) {
    match Family::of(address) {
        Family::V4 => network.last_address = Some(address),
        Family::V6 => network.last_address_ipv6 = Some(address),
    }
}

/// The next free address of a family after the last one given out, with its subnet's prefix
/// length.
///
/// # Errors
/// Why the caller has to wait.
pub(super) fn next_free(store: &Store, network: &ClusterNetwork, family: Family) -> Result<IpNet, String> {
    let used = store.addresses(network.id.as_str());
    let is_free = |number: &u128| {
        let address = address_of(*number, family);
        // Balancers take a mark of zero for none.
        let has_mark = family == Family::V4 || !number.is_multiple_of(1 << 32);
        has_mark && !used.is_some_and(|used| used.contains_key(&address)) && !is_reserved(&network.spec, &address)
    };
    let ranges: Vec<Range> = ranges(&network.spec, family).collect();
    let hosts: u128 = ranges.iter().map(Range::count).sum();
    let full = || full_text(&network.spec, family, hosts);
    // Holders are never outside the ranges, so a full network needs no search.
    let gateways = network.spec.ipam.iter().filter(|config| gateway_is_host(config, family)).count() as u128;
    if is_used_up(store, network, family, hosts.saturating_sub(gateways)) {
        return Err(full());
    }
    let last = match family {
        Family::V4 => network.last_address,
        Family::V6 => network.last_address_ipv6,
    };
    let last = last.filter(|last| Family::of(*last) == family).map_or(0, number_of);
    // First what lies behind the last address, then from the start again.
    let behind =
        ranges.iter().filter(|range| range.high > last).map(|range| Range { low: range.low.max(last + 1), ..*range });
    let found = behind.chain(ranges.iter().copied()).find_map(|range| {
        let number = (range.low..=range.high).find(is_free)?;
        IpNet::new(address_of(number, family), range.prefix).ok()
    });
    found.ok_or_else(full)
}

/// IPv4 is what everybody means who says nothing.
fn full_text(spec: &NetworkSpec, family: Family, hosts: u128) -> String {
    match family {
        Family::V4 => format!("network {} has no free address ({hosts} of {hosts})", spec.name),
        Family::V6 => {
            let subnets = spec.ipam.iter().filter_map(|config| config.subnet).filter(|net| net.addr().is_ipv6());
            let subnets: Vec<String> = subnets.map(|net| net.to_string()).collect();
            format!("network {} has no free IPv6 address in {} ({hosts} of {hosts})", spec.name, subnets.join(", "))
        }
    }
}

/// Whether at least so many addresses of a family are in use.
fn is_used_up(store: &Store, network: &ClusterNetwork, family: Family, room: u128) -> bool {
    let Some(used) = store.addresses(network.id.as_str()) else { return room == 0 };
    if (used.len() as u128) < room {
        return false;
    }
    let count = |used: &BTreeMap<IpAddr, Holder>| used.keys().filter(|address| Family::of(**address) == family).count();
    !network.spec.enable_ipv6 || count(used) as u128 >= room
}

/// Whether the gateway takes one of the addresses that could be given out.
fn gateway_is_host(config: &IpamConfig, family: Family) -> bool {
    let Some(gateway) = config.gateway.filter(|gateway| Family::of(*gateway) == family) else { return false };
    host_range(config, family).is_some_and(|range| (range.low..=range.high).contains(&number_of(gateway)))
}

fn is_reserved(spec: &NetworkSpec, address: &IpAddr) -> bool {
    spec.ipam.iter().any(|config| {
        config.gateway.as_ref() == Some(address) || config.aux_addresses.values().any(|reserved| reserved == address)
    })
}

/// The addresses of one subnet that may be given out, as numbers.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: u128,
    high: u128,
    /// The subnet's length.
    prefix: u8,
}

impl Range {
    fn count(&self) -> u128 {
        self.high - self.low + 1
    }
}

fn ranges(spec: &NetworkSpec, family: Family) -> impl Iterator<Item = Range> + '_ {
    spec.ipam.iter().filter_map(move |config| host_range(config, family))
}

fn host_range(config: &IpamConfig, family: Family) -> Option<Range> {
    let subnet = config.subnet.filter(|subnet| Family::of(subnet.addr()) == family)?;
    let last = number_of(subnet.broadcast());
    let (mut low, mut high) = match family {
        Family::V4 => (number_of(subnet.network()).checked_add(1)?, last.checked_sub(1)?),
        // The first one is every router's, and there is no broadcast.
        Family::V6 => (number_of(subnet.network()).checked_add(1)?, last),
    };
    if let Some(range) = config.ip_range.filter(|range| Family::of(range.addr()) == family) {
        low = low.max(number_of(range.network()));
        high = high.min(number_of(range.broadcast()));
    }
    high = high.min(low.saturating_add(RANGE_MAX));
    (low <= high).then_some(Range { low, high, prefix: subnet.prefix_len() })
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address_of(number: u128, family: Family) -> IpAddr {
    match family {
        // A number of a range of IPv4 fits.
        Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}
