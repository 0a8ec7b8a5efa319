//! Forgetting UDP flows whose backend is gone: the kernel would lead a client's
//! further datagrams to the old address for as long as they keep coming.

use crate::kernel::netlink::{Answer, Attrs, Request, Socket, attributes, be32};
use crate::kernel::route::ip;
use crate::nft::expression::{PROTOCOL_UDP, octets};
use std::io;
use std::net::{IpAddr, SocketAddr};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ZONE: u16 = 18;
const STATUS_DNAT: u32 = 0x20;
const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
/// The answers of one send must fit the socket's receive buffer.
const DELETIONS_PER_SEND: usize = 64;

/// Deletes every translated UDP flow that is led to one of the addresses, and to its port
/// where one is named, and returns how many there were.
///
/// # Errors
/// What the kernel says; a flow that ended by itself meanwhile is no error.
pub fn flush_udp(socket: &mut Socket, targets: &[(IpAddr, Option<u16>)]) -> io::Result<usize> {
    let wanted: Vec<Target> = targets
        .iter()
        .map(|(address, port)| Target { address: octets(*address), port: port.map(u16::to_be_bytes) })
        .collect();
    let flows = socket.dump(&Request::new(SUBSYSTEM | GET, 0, &[0; HEADER], &Attrs::new()))?;
    let deletions: Vec<_> = flows.iter().filter_map(|flow| deletion(flow, &wanted)).collect();
    let mut deleted = 0;
    for batch in deletions.chunks(DELETIONS_PER_SEND) {
        for outcome in socket.send_all(batch)? {
            match outcome {
                Ok(()) => deleted += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(deleted)
}

/// A connection whose destination was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// Where the client meant to go.
    pub asked: SocketAddr,
    /// Who answers.
    pub answers: SocketAddr,
}

/// Every translated connection of TCP and UDP that the place tracks.
///
/// # Errors
/// What the kernel says.
pub fn flows(socket: &mut Socket) -> io::Result<Vec<Flow>> {
    let answers = socket.dump(&Request::new(SUBSYSTEM | GET, 0, &[0; HEADER], &Attrs::new()))?;
    Ok(answers.iter().filter_map(flow_of).collect())
}

fn flow_of(answer: &Answer) -> Option<Flow> {
    let found = attributes(&answer.body, HEADER);
    if be32(found.get(&STATUS)?)? & STATUS_DNAT == 0 {
        return None;
    }
    let (original, reply) = (attributes(found.get(&TUPLE_ORIGINAL)?, 0), attributes(found.get(&TUPLE_REPLY)?, 0));
    let protocol = *attributes(original.get(&2)?, 0).get(&1)?.first()?;
    let socket = |tuple: &std::collections::BTreeMap<u16, &[u8]>, v4: u16, v6: u16, port: u16| {
        let addresses = attributes(tuple.get(&1)?, 0);
        let address = ip(addresses.get(&v4).or_else(|| addresses.get(&v6))?)?;
        let ports = attributes(tuple.get(&2)?, 0);
        Some(SocketAddr::new(address, u16::from_be_bytes(ports.get(&port)?.get(..2)?.try_into().ok()?)))
    };
    Some(Flow { protocol, asked: socket(&original, 2, 4, 3)?, answers: socket(&reply, 1, 3, 2)? })
}

struct Target {
    address: Vec<u8>,
    port: Option<[u8; 2]>,
}

fn deletion(flow: &Answer, targets: &[Target]) -> Option<Request> {
    let family = *flow.body.first()?;
    let found = attributes(&flow.body, HEADER);
    let reply = attributes(found.get(&TUPLE_REPLY)?, 0);
    let protocol = attributes(reply.get(&2)?, 0);
    let source = attributes(reply.get(&1)?, 0);
    let source = source.get(&1).or_else(|| source.get(&3))?;
    let is_udp = protocol.get(&1)?.first() == Some(&PROTOCOL_UDP);
    let is_translated = be32(found.get(&STATUS)?)? & STATUS_DNAT != 0;
    let port = protocol.get(&2).copied().unwrap_or_default();
    let is_gone = |target: &Target| target.address == *source && target.port.is_none_or(|wanted| wanted == *port);
    if !is_udp || !is_translated || !targets.iter().any(is_gone) {
        return None;
    }
    let mut a = Attrs::new();
    a.bytes(TUPLE_ORIGINAL | NESTED, found.get(&TUPLE_ORIGINAL)?);
    if let Some(zone) = found.get(&ZONE) {
        a.bytes(ZONE, zone);
    }
    Some(Request::new(SUBSYSTEM | DELETE, 0, &[family, 0, 0, 0], &a))
}
