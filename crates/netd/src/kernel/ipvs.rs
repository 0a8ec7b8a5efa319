//! IPVS of one namespace over generic netlink: reads its table and applies changes.

use crate::balance::ipvs::message;
use crate::balance::ipvs::table::{Change, SeenBalancing, Service, Timeouts};
use crate::kernel::netlink::{Attrs, Request, Socket, attributes};
use crate::kernel::place::Place;
use crate::kernel::sysctl;
use netlink_sys::protocols::NETLINK_GENERIC;
use std::io;
use std::path::Path;

const GENERIC_CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const CONTROL_HEADER: usize = 4;
/// The kernel answers all of one system call before any answer is read.
const CHANGES_PER_CALL: usize = 64;
/// There once ip_vs is loaded, in every namespace.
const LOADED: &str = "/proc/thread-self/net/ip_vs";

/// Whether the kernel has IPVS as we need it (loading the module when it may).
///
/// # Errors
/// When generic netlink cannot be asked.
pub fn is_usable() -> io::Result<bool> {
    let known = family(&mut Socket::open(NETLINK_GENERIC)?)?.is_some();
    // Without its part in connection tracking the source of a packet cannot be changed.
    Ok(known && sysctl::read("net/ipv4/vs/conntrack").is_some())
}

/// The table of a namespace; `None` when IPVS is not loaded, or not to be.
///
/// # Errors
/// What the kernel says.
pub fn read(place: &Place, is_wanted: bool) -> io::Result<Option<SeenBalancing>> {
    place.run(|| {
        if !is_wanted && !Path::new(LOADED).exists() {
            return Ok(None);
        }
        let mut socket = Socket::open(NETLINK_GENERIC)?;
        let Some(family) = family(&mut socket)? else { return Ok(None) };
        read_table(&mut socket, family).map(Some)
    })
}

/// Does all changes in order.
///
/// # Errors
/// The first refusal; the others were tried nevertheless.
pub fn apply(place: &Place, changes: &[Change]) -> io::Result<()> {
    place.run(|| {
        let mut socket = Socket::open(NETLINK_GENERIC)?;
        let family = family(&mut socket)?.ok_or_else(|| io::Error::other("the kernel has no IPVS"))?;
        let mut outcome = Ok(());
        for part in changes.chunks(CHANGES_PER_CALL) {
            let requests: Vec<Request> = part.iter().map(|change| request(family, message::encode(change))).collect();
            for result in socket.send_all(&requests)? {
                outcome = outcome.and(result);
            }
        }
        outcome
    })
}

/// The number of IPVS' netlink family.
fn family(socket: &mut Socket) -> io::Result<Option<u16>> {
    let mut a = Attrs::new();
    a.text(FAMILY_NAME, "IPVS");
    let answer = match socket.ask(&Request::new(GENERIC_CONTROL, 0, &[GET_FAMILY, 1, 0, 0], &a)) {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let number = |body: &[u8]| -> Option<u16> {
        let found = attributes(body, CONTROL_HEADER);
        Some(u16::from_ne_bytes(found.get(&FAMILY_ID)?.get(..2)?.try_into().ok()?))
    };
    Ok(answer.and_then(|answer| number(&answer.body)))
}

fn request(family: u16, body: Vec<u8>) -> Request {
    Request { message_type: family, flags: 0, body }
}

fn read_table(socket: &mut Socket, family: u16) -> io::Result<SeenBalancing> {
    let mut seen = SeenBalancing { conntrack: conntrack_timeouts(), ..SeenBalancing::default() };
    for answer in socket.dump(&request(family, message::ask_services()))? {
        let Some((service, as_set)) = message::decode_service(&answer.body) else { continue };
        if !as_set {
            seen.altered.insert(service);
        }
        let destinations = read_destinations(socket, family, service)?;
        seen.services.insert(service, destinations.into_iter().collect());
    }
    let answer = socket.ask(&request(family, message::ask_timeouts()))?;
    if let Some(timeouts) = answer.and_then(|answer| message::decode_timeouts(&answer.body)) {
        seen.timeouts = timeouts;
    }
    Ok(seen)
}

fn read_destinations(
    socket: &mut Socket,
    family: u16,
    service: Service,
) -> io::Result<Vec<(crate::balance::ipvs::table::Destination, u32)>> {
    let answers = socket.dump(&request(family, message::ask_destinations(service)))?;
    Ok(answers.iter().filter_map(|answer| message::decode_destination(&answer.body, service)).collect())
}

/// What the machine's owner set, of the calling thread's namespace.
fn conntrack_timeouts() -> Timeouts {
    let read = |name: &str| {
        let text = sysctl::read(&format!("net/netfilter/nf_conntrack_{name}"));
        text.and_then(|text| text.parse::<u32>().ok())
    };
    let longest = |names: &[&str], default: u32| names.iter().filter_map(|name| read(name)).max().unwrap_or(default);
    let ends = ["tcp_timeout_fin_wait", "tcp_timeout_time_wait", "tcp_timeout_close_wait", "tcp_timeout_last_ack"];
    Timeouts {
        tcp_s: longest(&["tcp_timeout_established"], Timeouts::CONNTRACK.tcp_s),
        tcp_end_s: longest(&ends, Timeouts::CONNTRACK.tcp_end_s),
        udp_s: longest(&["udp_timeout_stream", "udp_timeout"], Timeouts::CONNTRACK.udp_s),
    }
}
