//! IPVS over generic netlink, as values and bytes: services by firewall mark, their
//! destinations, and the difference between wanted and present. Sending them needs a
//! kernel with ip_vs; until the balancer is complete, [`super::choose`] refuses it.

use crate::kernel::netlink::{Attrs, attributes, ne32};
use crate::nft::expression::{Family, octets};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VERSION: u8 = 1;
const NEW_SERVICE: u8 = 1;
const DELETE_SERVICE: u8 = 3;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const DELETE_DESTINATION: u8 = 7;
const HEADER: usize = 4;

const ATTR_SERVICE: u16 = 1;
const ATTR_DESTINATION: u16 = 2;
const SERVICE_FAMILY: u16 = 1;
const SERVICE_MARK: u16 = 5;
const SERVICE_SCHEDULER: u16 = 6;
const SERVICE_FLAGS: u16 = 7;
const SERVICE_TIMEOUT: u16 = 8;
const SERVICE_NETMASK: u16 = 9;
const DESTINATION_ADDRESS: u16 = 1;
const DESTINATION_PORT: u16 = 2;
const DESTINATION_FORWARDING: u16 = 3;
const DESTINATION_WEIGHT: u16 = 4;
const DESTINATION_UPPER_THRESHOLD: u16 = 5;
const DESTINATION_LOWER_THRESHOLD: u16 = 6;
const DESTINATION_FAMILY: u16 = 11;

/// Translate the destination, as opposed to tunnelling or direct routing.
const FORWARD_MASQUERADE: u32 = 0;
/// Weighted round robin; plain round robin ignores the weights.
const SCHEDULER: &str = "wrr";
const ADDRESS_LENGTH: usize = 16;

/// A service known by the firewall mark of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub mark: u32,
    pub family: Family,
}

/// Each service with its destinations and their weights; 0 takes no new connection.
pub type Services = BTreeMap<Service, BTreeMap<IpAddr, u32>>;

/// One change of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    NewService(Service),
    DeleteService(Service),
    NewDestination(Service, IpAddr, u32),
    SetDestination(Service, IpAddr, u32),
    DeleteDestination(Service, IpAddr),
}

/// What turns `have` into `want`, destinations before the services they need to leave.
pub fn difference(want: &Services, have: &Services) -> Vec<Change> {
    let mut changes = Vec::new();
    let nothing = BTreeMap::new();
    for (service, wanted) in want {
        if !have.contains_key(service) {
            changes.push(Change::NewService(*service));
        }
        let present = have.get(service).unwrap_or(&nothing);
        for (address, weight) in wanted {
            match present.get(address) {
                None => changes.push(Change::NewDestination(*service, *address, *weight)),
                Some(other) if other != weight => changes.push(Change::SetDestination(*service, *address, *weight)),
                Some(_) => {}
            }
        }
        let gone = present.keys().filter(|address| !wanted.contains_key(*address));
        changes.extend(gone.map(|address| Change::DeleteDestination(*service, *address)));
    }
    let gone = have.keys().filter(|service| !want.contains_key(service));
    changes.extend(gone.map(|service| Change::DeleteService(*service)));
    changes
}

/// The generic-netlink payload of a change: its header and attributes.
pub fn encode(change: &Change) -> Vec<u8> {
    let (command, service, destination) = match change {
        Change::NewService(service) => (NEW_SERVICE, service, None),
        Change::DeleteService(service) => (DELETE_SERVICE, service, None),
        Change::NewDestination(service, address, weight) => (NEW_DESTINATION, service, Some((*address, *weight))),
        Change::SetDestination(service, address, weight) => (SET_DESTINATION, service, Some((*address, *weight))),
        Change::DeleteDestination(service, address) => (DELETE_DESTINATION, service, Some((*address, 0))),
    };
    let mut attrs = Attrs::new();
    attrs.nest(ATTR_SERVICE, |a| {
        a.bytes(SERVICE_FAMILY, &u16::from(service.family.number()).to_ne_bytes()).u32(SERVICE_MARK, service.mark);
        if command == NEW_SERVICE {
            a.text(SERVICE_SCHEDULER, SCHEDULER);
            // No flags, all of them meant.
            a.bytes(SERVICE_FLAGS, &[0, 0, 0, 0, 255, 255, 255, 255]).u32(SERVICE_TIMEOUT, 0);
            let netmask = if service.family == Family::V4 { u32::MAX } else { 128 };
            a.u32(SERVICE_NETMASK, netmask);
        }
    });
    if let Some((address, weight)) = destination {
        attrs.nest(ATTR_DESTINATION, |a| write_destination(a, address, weight, command != DELETE_DESTINATION));
    }
    let mut payload = vec![command, VERSION, 0, 0];
    payload.extend_from_slice(&attrs.0);
    payload
}

fn write_destination(a: &mut Attrs, address: IpAddr, weight: u32, complete: bool) {
    let mut padded = octets(address);
    padded.resize(ADDRESS_LENGTH, 0);
    a.bytes(DESTINATION_FAMILY, &u16::from(Family::of(address).number()).to_ne_bytes());
    // Services by mark have no port: it is kept as it came.
    a.bytes(DESTINATION_ADDRESS, &padded).bytes(DESTINATION_PORT, &[0, 0]);
    if complete {
        a.u32(DESTINATION_FORWARDING, FORWARD_MASQUERADE).u32(DESTINATION_WEIGHT, weight);
        a.u32(DESTINATION_UPPER_THRESHOLD, 0).u32(DESTINATION_LOWER_THRESHOLD, 0);
    }
}

/// The service of a dump's message; `None` for services that are not by mark.
pub fn decode_service(payload: &[u8]) -> Option<Service> {
    let found = attributes(payload, HEADER);
    let found = attributes(found.get(&ATTR_SERVICE)?, 0);
    Some(Service { mark: ne32(found.get(&SERVICE_MARK)?)?, family: family(found.get(&SERVICE_FAMILY)?)? })
}

/// The destination of a dump's message with its weight.
pub fn decode_destination(payload: &[u8], service: Service) -> Option<(IpAddr, u32)> {
    let found = attributes(payload, HEADER);
    let found = attributes(found.get(&ATTR_DESTINATION)?, 0);
    let family = found.get(&DESTINATION_FAMILY).map_or(Some(service.family), |value| family(value))?;
    let bytes = found.get(&DESTINATION_ADDRESS)?;
    let address = match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).into(),
    };
    Some((address, ne32(found.get(&DESTINATION_WEIGHT)?)?))
}

fn family(value: &[u8]) -> Option<Family> {
    match u16::from_ne_bytes(value.get(..2)?.try_into().ok()?) {
        2 => Some(Family::V4),
        10 => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service = Service { mark: 0x100, family: Family::V4 };

    fn services(destinations: &[(&str, u32)]) -> Services {
        let parsed = destinations.iter().map(|(address, weight)| (address.parse().unwrap(), *weight)).collect();
        BTreeMap::from([(SERVICE, parsed)])
    }

    #[test]
    fn messages_are_what_the_kernel_takes() {
        if cfg!(target_endian = "big") {
            return;
        }
        // As ipvsadm -A -f 256 -s wrr.
        let expect = "0101000048000180060001000200000008000500000100000800060077727200\
                      0c00070000000000ffffffff08000800000000000800090 0ffffffff";
        let expect: String = expect.chars().filter(|c| !c.is_whitespace()).collect();
        let hex: String = encode(&Change::NewService(SERVICE)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[16..], &expect[16..]);
        assert_eq!(&hex[..8], "01010000");
    }

    #[test]
    fn destinations_round_trip() {
        for address in ["10.0.1.2", "fd00::1"] {
            let address: IpAddr = address.parse().unwrap();
            let payload = encode(&Change::SetDestination(SERVICE, address, 3));
            assert_eq!(payload[0], SET_DESTINATION);
            assert_eq!(decode_service(&payload), Some(SERVICE));
            assert_eq!(decode_destination(&payload, SERVICE), Some((address, 3)));
        }
        assert_eq!(decode_service(b"xx"), None);
        assert_eq!(decode_destination(&[0; 64], SERVICE), None);
    }

    #[test]
    fn differences_are_minimal_and_weights_change_in_place() {
        let base = services(&[("10.0.0.1", 1), ("10.0.0.2", 1)]);
        assert!(difference(&base, &base).is_empty());
        assert_eq!(difference(&base, &Services::new()).len(), 3);
        assert_eq!(difference(&Services::new(), &base), [Change::DeleteService(SERVICE)]);
        let drained = services(&[("10.0.0.1", 0), ("10.0.0.3", 1)]);
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(
            difference(&drained, &base),
            [
                Change::SetDestination(SERVICE, address("10.0.0.1"), 0),
                Change::NewDestination(SERVICE, address("10.0.0.3"), 1),
                Change::DeleteDestination(SERVICE, address("10.0.0.2")),
            ]
        );
    }
}
