//! IPVS over generic netlink: changes and questions as the bytes the kernel takes, and
//! its answers read back.

use super::table::{Change, Destination, Service, Timeouts};
use crate::kernel::netlink::{Attrs, attributes, ne32, text};
use crate::nft::expression::{Family, octets};
use std::net::{Ipv4Addr, Ipv6Addr};

const VERSION: u8 = 1;
const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DELETE_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const DELETE_DESTINATION: u8 = 7;
const GET_DESTINATION: u8 = 8;
const SET_CONFIG: u8 = 12;
const GET_CONFIG: u8 = 13;
const HEADER: usize = 4;

const ATTR_SERVICE: u16 = 1;
const ATTR_DESTINATION: u16 = 2;
const ATTR_TIMEOUT_TCP: u16 = 4;
const ATTR_TIMEOUT_TCP_END: u16 = 5;
const ATTR_TIMEOUT_UDP: u16 = 6;
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
/// The kernel's own bookkeeping among the flags.
const FLAG_HASHED: u32 = 2;
/// No weight of ours: what has it differs.
const WEIGHT_ALTERED: u32 = u32::MAX;

/// The generic-netlink payload of a change: its header and attributes.
pub fn encode(change: &Change) -> Vec<u8> {
    match change {
        Change::SetTimeouts(timeouts) => {
            let mut a = Attrs::new();
            a.u32(ATTR_TIMEOUT_TCP, timeouts.tcp_s).u32(ATTR_TIMEOUT_TCP_END, timeouts.tcp_end_s);
            a.u32(ATTR_TIMEOUT_UDP, timeouts.udp_s);
            payload(SET_CONFIG, &a)
        }
        Change::NewService(service) => service_payload(NEW_SERVICE, *service, None),
        Change::SetService(service) => service_payload(SET_SERVICE, *service, None),
        Change::DeleteService(service) => service_payload(DELETE_SERVICE, *service, None),
        Change::NewDestination(service, to, weight) => service_payload(NEW_DESTINATION, *service, Some((*to, *weight))),
        Change::SetDestination(service, to, weight) => service_payload(SET_DESTINATION, *service, Some((*to, *weight))),
        Change::DeleteDestination(service, to) => service_payload(DELETE_DESTINATION, *service, Some((*to, 0))),
    }
}

/// Asks for all services.
pub fn ask_services() -> Vec<u8> {
    payload(GET_SERVICE, &Attrs::new())
}

/// Asks for the destinations of one.
pub fn ask_destinations(service: Service) -> Vec<u8> {
    service_payload(GET_DESTINATION, service, None)
}

/// Asks for the timeouts.
pub fn ask_timeouts() -> Vec<u8> {
    payload(GET_CONFIG, &Attrs::new())
}

fn payload(command: u8, attrs: &Attrs) -> Vec<u8> {
    let mut payload = vec![command, VERSION, 0, 0];
    payload.extend_from_slice(&attrs.0);
    payload
}

fn service_payload(command: u8, service: Service, destination: Option<(Destination, u32)>) -> Vec<u8> {
    let mut attrs = Attrs::new();
    attrs.nest(ATTR_SERVICE, |a| {
        a.bytes(SERVICE_FAMILY, &u16::from(service.family.number()).to_ne_bytes()).u32(SERVICE_MARK, service.mark);
        if matches!(command, NEW_SERVICE | SET_SERVICE) {
            a.text(SERVICE_SCHEDULER, SCHEDULER);
            // No flags, all of them meant.
            a.bytes(SERVICE_FLAGS, &[0, 0, 0, 0, 255, 255, 255, 255]).u32(SERVICE_TIMEOUT, 0);
            let netmask = if service.family == Family::V4 { u32::MAX } else { 128 };
            a.u32(SERVICE_NETMASK, netmask);
        }
    });
    if let Some((to, weight)) = destination {
        attrs.nest(ATTR_DESTINATION, |a| write_destination(a, to, weight, command != DELETE_DESTINATION));
    }
    payload(command, &attrs)
}

fn write_destination(a: &mut Attrs, to: Destination, weight: u32, complete: bool) {
    let mut padded = octets(to.address);
    padded.resize(ADDRESS_LENGTH, 0);
    a.bytes(DESTINATION_FAMILY, &u16::from(Family::of(to.address).number()).to_ne_bytes());
    a.bytes(DESTINATION_ADDRESS, &padded).bytes(DESTINATION_PORT, &to.port.to_be_bytes());
    if complete {
        a.u32(DESTINATION_FORWARDING, FORWARD_MASQUERADE).u32(DESTINATION_WEIGHT, weight);
        a.u32(DESTINATION_UPPER_THRESHOLD, 0).u32(DESTINATION_LOWER_THRESHOLD, 0);
    }
}

/// The service of a dump's message, and whether scheduler and flags are as we set them;
/// `None` for services that are not by mark.
pub fn decode_service(payload: &[u8]) -> Option<(Service, bool)> {
    let found = attributes(payload, HEADER);
    let found = attributes(found.get(&ATTR_SERVICE)?, 0);
    let service = Service { mark: ne32(found.get(&SERVICE_MARK)?)?, family: family(found.get(&SERVICE_FAMILY)?)? };
    let scheduler = found.get(&SERVICE_SCHEDULER).map(|value| text(value));
    let flags = found.get(&SERVICE_FLAGS).and_then(|value| ne32(value)).unwrap_or_default();
    Some((service, scheduler.as_deref() == Some(SCHEDULER) && flags & !FLAG_HASHED == 0))
}

/// The destination of a dump's message with its weight.
pub fn decode_destination(payload: &[u8], service: Service) -> Option<(Destination, u32)> {
    let found = attributes(payload, HEADER);
    let found = attributes(found.get(&ATTR_DESTINATION)?, 0);
    let family = found.get(&DESTINATION_FAMILY).map_or(Some(service.family), |value| family(value))?;
    let bytes = found.get(&DESTINATION_ADDRESS)?;
    let address = match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).into(),
    };
    let port = u16::from_be_bytes(found.get(&DESTINATION_PORT)?.get(..2)?.try_into().ok()?);
    let weight = ne32(found.get(&DESTINATION_WEIGHT)?)?;
    let forwarding = found.get(&DESTINATION_FORWARDING).and_then(|value| ne32(value));
    let weight = if forwarding == Some(FORWARD_MASQUERADE) { weight } else { WEIGHT_ALTERED };
    Some((Destination { address, port }, weight))
}

/// The timeouts of an answer.
pub fn decode_timeouts(payload: &[u8]) -> Option<Timeouts> {
    let found = attributes(payload, HEADER);
    let seconds = |kind: u16| ne32(found.get(&kind)?);
    Some(Timeouts {
        tcp_s: seconds(ATTR_TIMEOUT_TCP)?,
        tcp_end_s: seconds(ATTR_TIMEOUT_TCP_END)?,
        udp_s: seconds(ATTR_TIMEOUT_UDP)?,
    })
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
    fn answers_are_read_back_as_they_were_asked_for() {
        for address in ["10.0.1.2", "fd00::1"] {
            let to = Destination { address: address.parse().unwrap(), port: 80 };
            let payload = encode(&Change::SetDestination(SERVICE, to, 3));
            assert_eq!(payload[0], SET_DESTINATION);
            assert_eq!(decode_destination(&payload, SERVICE), Some((to, 3)));
        }
        assert_eq!(decode_service(&encode(&Change::NewService(SERVICE))), Some((SERVICE, true)));
        assert_eq!(decode_service(&ask_destinations(SERVICE)), Some((SERVICE, false)));
        let timeouts = Timeouts::CONNTRACK;
        assert_eq!(decode_timeouts(&encode(&Change::SetTimeouts(timeouts))), Some(timeouts));
    }

    #[test]
    fn foreign_bytes_are_nothing() {
        assert_eq!(decode_service(b"xx"), None);
        assert_eq!(decode_destination(&[0; 64], SERVICE), None);
        assert_eq!(decode_timeouts(&[255; 9]), None);
    }
}
