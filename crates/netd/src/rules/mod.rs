//! Desired state to nftables tables: pure functions, one per kind of namespace.

pub mod guard;
pub mod host;
pub mod ingress;
mod marked;
pub mod overlay;
pub mod resolver;

use crate::nft::expression::{Family, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, octets};
use skep_model::network::Protocol;
use std::net::IpAddr;

/// Priorities of the base chains, by nftables' names.
const PRIORITY_RAW: i32 = -300;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// Of frames, before the bridge learns from them.
const PRIORITY_BRIDGE_FILTER: i32 = -200;

/// The protocol's number in an IP header.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
        Protocol::Sctp => PROTOCOL_SCTP,
    }
}

/// `protocol . port` as a key.
fn protocol_port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol_number(protocol), 0, 0, 0, high, low, 0, 0]
}

/// `address . port` as a map's value or a key's part.
fn address_port(address: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = octets(address);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// The first address of a family.
pub(crate) fn address_of(addresses: &[ipnet::IpNet], family: Family) -> Option<IpAddr> {
    addresses.iter().map(ipnet::IpNet::addr).find(|address| Family::of(*address) == family)
}
