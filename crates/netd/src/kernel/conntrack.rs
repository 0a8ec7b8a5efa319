//! Forgetting UDP flows whose backend is gone: the kernel would lead a client's
//! further datagrams to the old address for as long as they keep coming.

use crate::kernel::netlink::{Answer, Attrs, Request, Socket, attributes, be32};
use crate::nft::expression::{PROTOCOL_UDP, octets};
use std::io;
use std::net::IpAddr;

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

/// Deletes every translated UDP flow that is led to one of the addresses and returns
/// how many there were.
///
/// # Errors
/// What the kernel says; a flow that ended by itself meanwhile is no error.
pub fn flush_udp(socket: &mut Socket, addresses: &[IpAddr]) -> io::Result<usize> {
    let wanted: Vec<Vec<u8>> = addresses.iter().map(|address| octets(*address)).collect();
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

fn deletion(flow: &Answer, addresses: &[Vec<u8>]) -> Option<Request> {
    let family = *flow.body.first()?;
    let found = attributes(&flow.body, HEADER);
    let reply = attributes(found.get(&TUPLE_REPLY)?, 0);
    let protocol = attributes(reply.get(&2)?, 0);
    let source = attributes(reply.get(&1)?, 0);
    let source = source.get(&1).or_else(|| source.get(&3))?;
    let is_udp = protocol.get(&1)?.first() == Some(&PROTOCOL_UDP);
    let is_translated = be32(found.get(&STATUS)?)? & STATUS_DNAT != 0;
    if !is_udp || !is_translated || !addresses.iter().any(|address| address == source) {
        return None;
    }
    let mut a = Attrs::new();
    a.bytes(TUPLE_ORIGINAL | NESTED, found.get(&TUPLE_ORIGINAL)?);
    if let Some(zone) = found.get(&ZONE) {
        a.bytes(ZONE, zone);
    }
    Some(Request::new(SUBSYSTEM | DELETE, 0, &[family, 0, 0, 0], &a))
}
