//! The table of a container's namespace: the resolver's well-known address leads to
//! the port that netd listens on there, so that port 53 stays free for the container.

use super::PRIORITY_DESTINATION_NAT;
use crate::nft::expression::{Family, PROTOCOL_TCP, PROTOCOL_UDP, Rule, octets};
use crate::nft::table::{Chain, HOOK_OUTPUT, Table};
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;

/// Where containers ask for names.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;

pub fn table(port: u16) -> Table {
    let mut value = octets(ADDRESS.into());
    value.extend_from_slice(&port.to_be_bytes());
    value.extend_from_slice(&[0, 0]);
    let net: IpNet = Ipv4Net::new_assert(ADDRESS, 32).into();
    let rule = |protocol: u8| {
        Rule::new()
            .destination_in(net)
            .protocol_is(protocol)
            .destination_port_is(PORT)
            .immediate(0, &value[..4])
            .immediate(1, &value[4..6])
            .destination_nat(Family::V4, true)
    };
    let rules = vec![rule(PROTOCOL_UDP), rule(PROTOCOL_TCP)];
    let output = Chain::at("nat", HOOK_OUTPUT, PRIORITY_DESTINATION_NAT, rules);
    Table { sets: std::collections::BTreeMap::new(), chains: [("output".to_owned(), output)].into() }
}
