//! What tasks may send into an overlay's bridge: frames from their own station, with their own
//! addresses. Whoever poses as another is not heard, and counted.

use super::PRIORITY_BRIDGE_FILTER;
use crate::nft::expression::{Family, PROTOCOL_ICMPV6, Rule, Verdict, interface_name, octets};
use crate::nft::frame::{PROTOCOL_ARP, PROTOCOL_IPV4, PROTOCOL_IPV6};
use crate::nft::table::{Chain, DataType, HOOK_PREROUTING, Set, SetKind, Table, Value};
use crate::plan::OVERLAY_TUNNEL;
use crate::wanted::port_name;
use ipnet::{IpNet, Ipv6Net};
use skep_model::netstate::DesiredEndpoint;
use std::net::Ipv6Addr;

/// Of ICMPv6 (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const CHAIN: &str = "from_tasks";
const STATIONS: &str = "stations";

/// The bridge table of one overlay, for the endpoints on it.
pub fn table<'a>(endpoints: impl Iterator<Item = &'a DesiredEndpoint>) -> Table {
    let mut stations = Set::new(DataType::INTERFACE.and(DataType::PADDED_STATION), SetKind::Set);
    let mut addresses = [Family::V4, Family::V6]
        .map(|family| Set::new(DataType::INTERFACE.and(DataType::address(family)), SetKind::Set));
    for endpoint in endpoints {
        let port = interface_name(&port_name(endpoint));
        stations.elements.insert([port.as_slice(), &endpoint.mac, &[0, 0]].concat(), Value::None);
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            let [v4, v6] = &mut addresses;
            let set = if address.is_ipv4() { v4 } else { v6 };
            set.elements.insert([port.as_slice(), &octets(address)].concat(), Value::None);
        }
    }
    let mut table = Table::default();
    table.sets.insert(STATIONS.into(), stations);
    for (family, set) in [Family::V4, Family::V6].into_iter().zip(addresses) {
        table.sets.insert(addresses_set(family).into(), set);
    }
    table.chains.insert(CHAIN.into(), Chain::at("filter", HOOK_PREROUTING, PRIORITY_BRIDGE_FILTER, rules()));
    table
}

/// Frames that were dropped, as the kernel counted them in a table of ours.
pub fn dropped(table: &Table) -> u64 {
    let rules = table.chains.get(CHAIN).map_or(&[][..], |chain| &chain.rules);
    rules.iter().filter_map(Rule::counted).map(|counted| counted.packets).sum()
}

fn rules() -> Vec<Rule> {
    let drop = |rule: Rule| rule.counter().verdict(&Verdict::Drop);
    let of = |protocol| Rule::new().frame_is(protocol);
    let discovery = |kind| of(PROTOCOL_IPV6).protocol_is(PROTOCOL_ICMPV6).icmp_type_is(kind);
    let in_net = |net: Ipv6Net| Rule::new().frame_is(PROTOCOL_IPV6).frame_source_in(net.into());
    let unspecified = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128);
    let link_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    vec![
        // Other nodes have looked at what their tasks send.
        Rule::new().iif_is(OVERLAY_TUNNEL).verdict(&Verdict::Accept),
        drop(Rule::new().load_iif_name(0).load_station(4).not_in_set(STATIONS)),
        drop(of(PROTOCOL_IPV4).load_iif_name(0).load_source(Family::V4, 4).not_in_set(addresses_set(Family::V4))),
        drop(of(PROTOCOL_ARP).load_iif_name(0).load_arp_sender(4).not_in_set(addresses_set(Family::V4))),
        // Who answers for an address, as by ARP; only a router may send the others.
        drop(discovery(ROUTER_ADVERTISEMENT)),
        drop(discovery(REDIRECT)),
        discovery(NEIGHBOUR_ADVERTISEMENT).advertises_in(link_local.into()).verdict(&Verdict::Accept),
        drop(
            discovery(NEIGHBOUR_ADVERTISEMENT)
                .load_iif_name(0)
                .load_advertised(4)
                .not_in_set(addresses_set(Family::V6)),
        ),
        // The kernel's own talk on every link.
        in_net(unspecified).verdict(&Verdict::Accept),
        in_net(link_local).verdict(&Verdict::Accept),
        drop(of(PROTOCOL_IPV6).load_iif_name(0).load_source(Family::V6, 4).not_in_set(addresses_set(Family::V6))),
        of(PROTOCOL_IPV4).verdict(&Verdict::Accept),
        of(PROTOCOL_ARP).verdict(&Verdict::Accept),
        of(PROTOCOL_IPV6).verdict(&Verdict::Accept),
        // In a VLAN or another protocol nobody would look inside.
        drop(Rule::new()),
    ]
}

fn addresses_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "addresses4",
        Family::V6 => "addresses6",
    }
}
