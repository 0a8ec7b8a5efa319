//! Fixed forwarding entries: which station is behind which tunnel, and who has which
//! address there.

use crate::kernel::netlink::{Answer, Attrs, CREATE, REPLACE, Request, attributes, ne32};
use crate::kernel::route::{family_number, ip};
use crate::nft::expression::octets;
use crate::plan::Forwarding;
use std::collections::BTreeMap;

pub(super) const NEW_NEIGHBOUR: u16 = 28;
pub(super) const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;
pub(super) const HEADER: usize = 12;

const FAMILY_BRIDGE: u8 = 7;
/// Never asked for, never forgotten.
pub(super) const STATE_PERMANENT: u16 = 0x80;
/// A bridge calls its fixed entries so; its permanent ones are its own address.
pub(super) const STATE_NO_ARP: u16 = 0x40;
const FLAG_SELF: u8 = 0x02;
const FLAG_MASTER: u8 = 0x04;
/// Does not move when the station shows up at another port.
const FLAG_STICKY: u8 = 0x40;

const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;

/// Adds an entry or replaces the one in its place; `index` is its link's.
pub fn add(entry: &Forwarding, index: u32) -> Request {
    request(NEW_NEIGHBOUR, CREATE | REPLACE, entry, index)
}

pub fn delete(entry: &Forwarding, index: u32) -> Request {
    request(DELETE_NEIGHBOUR, 0, entry, index)
}

fn request(kind: u16, flags: u16, entry: &Forwarding, index: u32) -> Request {
    let mut a = Attrs::new();
    let (family, state, entry_flags) = match entry {
        Forwarding::Tunnel { mac, node, .. } => {
            a.bytes(LINK_ADDRESS, mac).bytes(DESTINATION, &octets(*node));
            (FAMILY_BRIDGE, STATE_PERMANENT, FLAG_SELF)
        }
        Forwarding::Bridge { mac, .. } => {
            a.bytes(LINK_ADDRESS, mac);
            (FAMILY_BRIDGE, STATE_NO_ARP, FLAG_MASTER | FLAG_STICKY)
        }
        Forwarding::Neighbour { address, mac, .. } => {
            a.bytes(DESTINATION, &octets(*address)).bytes(LINK_ADDRESS, mac);
            (family_number(*address), STATE_PERMANENT, 0)
        }
    };
    Request::new(kind, flags, &header(family, index, state, entry_flags), &a)
}

fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

/// The forwarding tables of bridges and tunnels.
pub fn dump_bridges() -> Request {
    Request::new(GET_NEIGHBOUR, 0, &header(FAMILY_BRIDGE, 0, 0, 0), &Attrs::new())
}

/// The tables of neighbours of all families.
pub fn dump_neighbours() -> Request {
    Request::new(GET_NEIGHBOUR, 0, &header(0, 0, 0, 0), &Attrs::new())
}

/// The fixed entries of some links, whose names are given by index.
pub fn read(answers: &[Answer], links: &BTreeMap<u32, &String>) -> Vec<Forwarding> {
    answers.iter().filter_map(|answer| read_one(answer, links)).collect()
}

fn read_one(answer: &Answer, links: &BTreeMap<u32, &String>) -> Option<Forwarding> {
    let family = *answer.body.first()?;
    let link = (*links.get(&ne32(answer.body.get(4..8)?)?)?).clone();
    let state = u16::from_ne_bytes(answer.body.get(8..10)?.try_into().ok()?);
    let flags = *answer.body.get(10)?;
    let found = attributes(&answer.body, HEADER);
    let mac: [u8; 6] = found.get(&LINK_ADDRESS)?.get(..6)?.try_into().ok()?;
    let destination = found.get(&DESTINATION).and_then(|bytes| ip(bytes));
    let is_permanent = state & STATE_PERMANENT != 0;
    match (family, destination) {
        (FAMILY_BRIDGE, Some(node)) if flags & FLAG_SELF != 0 && is_permanent => {
            Some(Forwarding::Tunnel { link, mac, node })
        }
        // A dump does not say that it is the bridge's; only a bridge has sticky ones.
        (FAMILY_BRIDGE, None) if flags & FLAG_STICKY != 0 => Some(Forwarding::Bridge { link, mac }),
        (FAMILY_BRIDGE, _) => None,
        (_, Some(address)) if is_permanent => Some(Forwarding::Neighbour { link, address, mac }),
        _ => None,
    }
}

/// Whether a message about a neighbour is about a fixed entry; the kernel learns and
/// forgets others all the time.
pub(super) fn is_fixed(body: &[u8]) -> bool {
    let state = body.get(8..10).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    state & STATE_PERMANENT != 0 || (body.first() == Some(&FAMILY_BRIDGE) && state & STATE_NO_ARP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let name = "vxlan0".to_owned();
        let links = BTreeMap::from([(7, &name)]);
        let mac = [2, 0x42, 10, 0, 1, 9];
        let link = || name.clone();
        let entries = [
            Forwarding::Tunnel { link: link(), mac, node: "192.0.2.7".parse().unwrap() },
            Forwarding::Tunnel { link: link(), mac, node: "2001:db8::7".parse().unwrap() },
            Forwarding::Bridge { link: link(), mac },
            Forwarding::Neighbour { link: link(), address: "10.0.1.9".parse().unwrap(), mac },
            Forwarding::Neighbour { link: link(), address: "fd00::9".parse().unwrap(), mac },
        ];
        for entry in entries {
            let request = add(&entry, 7);
            let answer = Answer { message_type: NEW_NEIGHBOUR, body: request.body.clone() };
            let answers = [answer];
            assert_eq!(read(&answers, &BTreeMap::new()), []);
            assert_eq!(read(&answers, &links), [entry]);
            assert!(is_fixed(&request.body));
        }
        let learned = header(FAMILY_BRIDGE, 7, 0x02, FLAG_MASTER);
        assert!(!is_fixed(&learned) && !is_fixed(b""));
    }
}
