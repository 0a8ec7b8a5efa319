//! Expressions about frames on a bridge, counters, and zones of connections.

use crate::kernel::netlink::{attribute_list, attributes};
use crate::nft::expression::{BASE_LINK, BASE_NETWORK, BASE_TRANSPORT, Family, Rule, register};
use ipnet::IpNet;

/// Ethernet's numbers for what a frame carries.
pub const PROTOCOL_IPV4: u16 = 0x0800;
pub const PROTOCOL_ARP: u16 = 0x0806;
pub const PROTOCOL_IPV6: u16 = 0x86dd;

const META_PROTOCOL: u32 = 1;
const LOOKUP_INVERTED: u32 = 1;
const CT_ZONE: u32 = 17;
const CT_DIRECTION_ORIGINAL: u8 = 0;
const COUNTER: &[u8] = b"counter\0";

/// What the kernel counted at a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

impl Rule {
    pub fn frame_is(self, protocol: u16) -> Self {
        self.meta(META_PROTOCOL, 0).compare(true, &protocol.to_be_bytes())
    }

    /// Puts the frame's source station at a word.
    pub fn load_station(self, word: u32) -> Self {
        self.payload(BASE_LINK, 6, 6, word)
    }

    /// Puts the source address at a word; the rule must match what the frame carries before.
    pub fn load_source(self, family: Family, word: u32) -> Self {
        let offset = if family == Family::V4 { 12 } else { 8 };
        self.payload(BASE_NETWORK, offset, family.words() * 4, word)
    }

    /// Puts the address that an ARP message speaks for at a word.
    pub fn load_arp_sender(self, word: u32) -> Self {
        self.payload(BASE_NETWORK, 14, 4, word)
    }

    /// The ICMP message's type; the rule must match the protocol before.
    pub fn icmp_type_is(self, kind: u8) -> Self {
        self.payload(BASE_TRANSPORT, 0, 1, 0).compare(true, &[kind])
    }

    /// Puts the address that a neighbour advertisement speaks for at a word.
    pub fn load_advertised(self, word: u32) -> Self {
        self.payload(BASE_TRANSPORT, 8, 16, word)
    }

    /// A neighbour advertisement speaks for an address in a range.
    pub fn advertises_in(self, net: IpNet) -> Self {
        let (address, mask) =
            (crate::nft::expression::octets(net.network()), crate::nft::expression::octets(net.netmask()));
        self.load_advertised(0).mask(&mask).compare(true, &address)
    }

    /// The source address of the frame's IPv6 packet lies in a range.
    pub fn frame_source_in(self, net: IpNet) -> Self {
        let (address, mask) =
            (crate::nft::expression::octets(net.network()), crate::nft::expression::octets(net.netmask()));
        self.load_source(Family::of(net.addr()), 0).mask(&mask).compare(true, &address)
    }

    /// The key that starts at word 0 is not in the set.
    pub fn not_in_set(self, set: &str) -> Self {
        self.push("lookup", |a| {
            a.text(1, set).be32(2, register(0)).be32(5, LOOKUP_INVERTED);
        })
    }

    /// Has the connection's first direction told apart by the number at word 0, so that equal
    /// addresses and ports with another number are another connection.
    pub fn set_original_zone(self) -> Self {
        self.push("ct", |a| {
            a.be32(4, register(0)).be32(2, CT_ZONE).u8(3, CT_DIRECTION_ORIGINAL);
        })
    }

    /// Counts what has come so far in the rule.
    pub fn counter(self) -> Self {
        self.push("counter", |_| {})
    }

    /// The first counter of a rule that the kernel gave.
    pub fn counted(&self) -> Option<Counted> {
        let be64 = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?));
        attribute_list(&self.0).into_iter().find_map(|(_, expression)| {
            let expression = attributes(expression, 0);
            let data = attributes(expression.get(&2).filter(|_| expression.get(&1) == Some(&COUNTER))?, 0);
            Some(Counted { bytes: be64(data.get(&1)?)?, packets: be64(data.get(&2)?)? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Attrs;

    #[test]
    fn counters_are_read_from_what_the_kernel_gives() {
        let mut counted = Attrs::new();
        counted.nest(1, |element| {
            element.text(1, "counter").nest(2, |data| {
                data.bytes(1, &840_u64.to_be_bytes()).bytes(2, &10_u64.to_be_bytes());
            });
        });
        assert_eq!(Rule(counted.0).counted(), Some(Counted { packets: 10, bytes: 840 }));
        assert_eq!(Rule::new().counter().counted(), None);
        assert_eq!(Rule(vec![7; 9]).counted(), None);
    }
}
