//! The nftables expressions that our rules are made of, as the bytes the kernel
//! takes. Registers are counted in 32-bit words from 0, so that a concatenated key
//! is simply loaded word after word.

use crate::kernel::netlink::{Attrs, attribute_list};
use ipnet::IpNet;
use std::net::IpAddr;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const META_MARK: u32 = 3;
const META_OIFNAME: u32 = 7;
const META_IIFNAME: u32 = 6;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

pub(super) const BASE_LINK: u32 = 0;
pub(super) const BASE_NETWORK: u32 = 1;
pub(super) const BASE_TRANSPORT: u32 = 2;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
const CT_DIRECTION_REPLY: u8 = 1;
pub const CT_ESTABLISHED: u32 = 2;
pub const CT_RELATED: u32 = 4;
pub const CT_NEW: u32 = 8;
pub const CT_STATUS_DNAT: u32 = 0x20;

const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_FLAG_DESTINATION: u32 = 2;
const ADDRESS_TYPE_LOCAL: u32 = 2;

const ROUTE_TCP_MSS: u32 = 3;
const BYTE_ORDER_TO_NETWORK: u32 = 1;
const TCP_OPTION_MSS: u8 = 2;
const HEADER_OPERATION_TCP_OPTION: u32 = 1;

const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;

const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
const REJECT_TCP_RESET: u32 = 1;
const REJECT_ICMPX_UNREACHABLE: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;

/// Length of an interface name in a register.
pub const INTERFACE_NAME_LENGTH: usize = 16;

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;
pub const PROTOCOL_SCTP: u8 = 132;

/// Internet protocol version of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `NFPROTO_*`
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Length of an address in 32-bit words.
    pub fn words(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
}

impl Verdict {
    /// The attributes of a verdict.
    pub fn write(&self, attrs: &mut Attrs) {
        let (code, chain) = match self {
            Self::Accept => (VERDICT_ACCEPT, None),
            Self::Drop => (VERDICT_DROP, None),
            Self::Jump(chain) => (VERDICT_JUMP, Some(chain)),
            Self::Goto(chain) => (VERDICT_GOTO, Some(chain)),
        };
        attrs.nest(DATA_VERDICT, |verdict| {
            verdict.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }
}

/// A rule under construction: a list of expressions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule(pub Vec<u8>);

/// Kernel's number for the register that starts at a word. Whole 128-bit registers
/// must be named by their old number because dumps do so.
pub(super) fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn push(mut self, name: &str, fill: impl FnOnce(&mut Attrs)) -> Self {
        let mut list = Attrs(std::mem::take(&mut self.0));
        list.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
        });
        Self(list.0)
    }

    pub(super) fn meta(self, key: u32, word: u32) -> Self {
        self.push("meta", |a| {
            a.be32(1, register(word)).be32(2, key);
        })
    }

    pub(super) fn payload(self, base: u32, offset: u32, length: u32, word: u32) -> Self {
        self.push("payload", |a| {
            a.be32(1, register(word)).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    pub(super) fn compare(self, equal: bool, value: &[u8]) -> Self {
        self.push("cmp", |a| {
            a.be32(1, register(0)).be32(2, u32::from(!equal)).nest(3, |data| {
                data.bytes(DATA_VALUE, value);
            });
        })
    }

    pub(super) fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.push("bitwise", |a| {
            a.be32(1, register(0)).be32(2, register(0)).be32(3, length);
            a.nest(4, |data| {
                data.bytes(DATA_VALUE, mask);
            });
            a.nest(5, |data| {
                data.bytes(DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    /// Puts the input interface's name at a word.
    pub fn load_iif_name(self, word: u32) -> Self {
        self.meta(META_IIFNAME, word)
    }

    /// Puts the output interface's name at a word.
    pub fn load_oif_name(self, word: u32) -> Self {
        self.meta(META_OIFNAME, word)
    }

    /// Puts the transport protocol's number at a word.
    pub fn load_protocol(self, word: u32) -> Self {
        self.meta(META_L4PROTO, word)
    }

    /// Puts the transport's destination port at a word.
    pub fn load_destination_port(self, word: u32) -> Self {
        self.payload(BASE_TRANSPORT, 2, 2, word)
    }

    /// Puts the destination address at a word; the rule must match the family before.
    pub fn load_destination(self, family: Family, word: u32) -> Self {
        match family {
            Family::V4 => self.payload(BASE_NETWORK, 16, 4, word),
            Family::V6 => self.payload(BASE_NETWORK, 24, 16, word),
        }
    }

    pub fn iif_is(self, name: &str) -> Self {
        self.load_iif_name(0).compare(true, &interface_name(name))
    }

    pub fn iif_is_not(self, name: &str) -> Self {
        self.load_iif_name(0).compare(false, &interface_name(name))
    }

    pub fn oif_is(self, name: &str) -> Self {
        self.load_oif_name(0).compare(true, &interface_name(name))
    }

    pub fn oif_is_not(self, name: &str) -> Self {
        self.load_oif_name(0).compare(false, &interface_name(name))
    }

    pub fn family_is(self, family: Family) -> Self {
        self.meta(META_NFPROTO, 0).compare(true, &[family.number()])
    }

    pub fn protocol_is(self, protocol: u8) -> Self {
        self.load_protocol(0).compare(true, &[protocol])
    }

    pub fn destination_port_is(self, port: u16) -> Self {
        self.load_destination_port(0).compare(true, &port.to_be_bytes())
    }

    /// The source address lies in a range; implies the family.
    pub fn source_in(self, net: IpNet) -> Self {
        self.address_in(net, 12, 8)
    }

    /// The destination address lies in a range; implies the family.
    pub fn destination_in(self, net: IpNet) -> Self {
        self.address_in(net, 16, 24)
    }

    fn address_in(self, net: IpNet, v4_offset: u32, v6_offset: u32) -> Self {
        let family = Family::of(net.addr());
        let rule = self.family_is(family);
        let (address, mask, offset) = match (net.network(), net.netmask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => (address.octets().to_vec(), mask.octets().to_vec(), v4_offset),
            (address, mask) => (octets(address), octets(mask), v6_offset),
        };
        let length = family.words() * 4;
        let rule = rule.payload(BASE_NETWORK, offset, length, 0);
        // The kernel keeps a full mask as it is sent, but it would be work per packet.
        let rule = if mask.iter().all(|byte| *byte == 255) { rule } else { rule.mask(&mask) };
        rule.compare(true, &address)
    }

    /// The packet is for an address of this namespace.
    pub fn destination_is_local(self) -> Self {
        self.push("fib", |a| {
            a.be32(1, register(0)).be32(2, FIB_RESULT_ADDRESS_TYPE).be32(3, FIB_FLAG_DESTINATION);
        })
        .compare(true, &ADDRESS_TYPE_LOCAL.to_ne_bytes())
    }

    /// The packet's mark has this value in the masked bits.
    pub fn mark_is(self, value: u32, mask: u32) -> Self {
        self.meta(META_MARK, 0).mask(&mask.to_ne_bytes()).compare(true, &value.to_ne_bytes())
    }

    /// The packet carries a mark.
    pub fn is_marked(self) -> Self {
        self.meta(META_MARK, 0).compare(false, &[0; 4])
    }

    /// Any of the connection-state bits.
    pub fn ct_state_any(self, bits: u32) -> Self {
        self.ct_bits(CT_STATE, bits)
    }

    /// Any of the connection-status bits.
    pub fn ct_status_any(self, bits: u32) -> Self {
        self.ct_bits(CT_STATUS, bits)
    }

    fn ct_bits(self, key: u32, bits: u32) -> Self {
        self.push("ct", |a| {
            a.be32(1, register(0)).be32(2, key);
        })
        .mask(&bits.to_ne_bytes())
        .compare(false, &[0; 4])
    }

    /// The key that starts at word 0 is in the set.
    pub fn in_set(self, set: &str) -> Self {
        self.push("lookup", |a| {
            a.text(1, set).be32(2, register(0));
        })
    }

    /// Replaces the key that starts at word 0 by the map's value; no entry ends the rule.
    pub fn map_value(self, map: &str) -> Self {
        self.push("lookup", |a| {
            a.text(1, map).be32(2, register(0)).be32(3, register(0));
        })
    }

    /// Follows the verdict that the map has for the key at word 0, if any.
    pub fn map_verdict(self, map: &str) -> Self {
        self.push("lookup", |a| {
            a.text(1, map).be32(2, register(0)).be32(3, 0);
        })
    }

    /// Counts 0, 1, ... `modulus - 1` and again, one step for each packet, at word 0.
    pub fn round_robin(self, modulus: u32) -> Self {
        self.push("numgen", |a| {
            a.be32(1, register(0)).be32(2, modulus).be32(3, 0).be32(4, 0);
        })
    }

    /// Puts the frame's source station at word 0; what has none ends the rule.
    pub fn load_source_station(self) -> Self {
        self.payload(BASE_LINK, 6, 6, 0)
    }

    /// The source address is in the set; the rule must match the family before.
    pub fn source_in_set(self, family: Family, set: &str) -> Self {
        let offset = if family == Family::V4 { 12 } else { 8 };
        self.payload(BASE_NETWORK, offset, family.words() * 4, 0).in_set(set)
    }

    /// The packet goes against the direction that its connection was opened in.
    pub fn is_reply(self) -> Self {
        self.push("ct", |a| {
            a.be32(1, register(0)).be32(2, CT_DIRECTION);
        })
        .compare(true, &[CT_DIRECTION_REPLY])
    }

    /// The connection's mark has this value in the masked bits.
    pub fn connection_mark_is(self, value: u32, mask: u32) -> Self {
        self.load_connection_mark().mask(&mask.to_ne_bytes()).compare(true, &value.to_ne_bytes())
    }

    /// Puts the connection's mark at word 0.
    pub fn load_connection_mark(self) -> Self {
        self.push("ct", |a| {
            a.be32(1, register(0)).be32(2, CT_MARK);
        })
    }

    /// Marks the connection with the number at word 0.
    pub fn set_connection_mark(self) -> Self {
        self.push("ct", |a| {
            a.be32(4, register(0)).be32(2, CT_MARK);
        })
    }

    /// Marks the packet with the number at word 0.
    pub fn set_mark(self) -> Self {
        self.push("meta", |a| {
            a.be32(3, register(0)).be32(2, META_MARK);
        })
    }

    /// A segment that opens a connection announces no larger segments than its route takes.
    pub fn clamp_segment_size(self) -> Self {
        const FLAGS_OFFSET: u32 = 13;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        self.protocol_is(PROTOCOL_TCP)
            .payload(BASE_TRANSPORT, FLAGS_OFFSET, 1, 0)
            .mask(&[SYN | RST])
            .compare(true, &[SYN])
            .push("rt", |a| {
                a.be32(1, register(0)).be32(2, ROUTE_TCP_MSS);
            })
            .push("byteorder", |a| {
                a.be32(1, register(0)).be32(2, register(0)).be32(3, BYTE_ORDER_TO_NETWORK).be32(4, 2).be32(5, 2);
            })
            .push("exthdr", |a| {
                a.be32(7, register(0)).u8(2, TCP_OPTION_MSS).be32(3, 2).be32(4, 2);
                a.be32(6, HEADER_OPERATION_TCP_OPTION);
            })
    }

    /// Puts bytes at a word.
    pub fn immediate(self, word: u32, value: &[u8]) -> Self {
        self.push("immediate", |a| {
            a.be32(1, register(word)).nest(2, |data| {
                data.bytes(DATA_VALUE, value);
            });
        })
    }

    /// Translates the destination to the address at word 0 and, with `port`, to the
    /// port in the word behind it.
    pub fn destination_nat(self, family: Family, port: bool) -> Self {
        self.push("nat", |a| {
            a.be32(1, NAT_DESTINATION).be32(2, u32::from(family.number())).be32(3, register(0));
            if port {
                a.be32(5, register(family.words()));
            }
        })
    }

    /// Translates the source to the address at word 0.
    pub fn source_nat(self, family: Family) -> Self {
        self.push("nat", |a| {
            a.be32(1, NAT_SOURCE).be32(2, u32::from(family.number())).be32(3, register(0));
        })
    }

    pub fn masquerade(self) -> Self {
        self.push("masq", |_| {})
    }

    /// Answers a TCP segment with a reset.
    pub fn reject_tcp_reset(self) -> Self {
        self.push("reject", |a| {
            a.be32(1, REJECT_TCP_RESET);
        })
    }

    /// Answers with "port unreachable".
    pub fn reject_port_unreachable(self) -> Self {
        self.push("reject", |a| {
            a.be32(1, REJECT_ICMPX_UNREACHABLE).u8(2, ICMPX_PORT_UNREACHABLE);
        })
    }

    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.push("immediate", |a| {
            a.be32(1, 0).nest(2, |data| verdict.write(data));
        })
    }
}

/// An interface's name as a register holds it.
pub fn interface_name(name: &str) -> [u8; INTERFACE_NAME_LENGTH] {
    let mut padded = [0; INTERFACE_NAME_LENGTH];
    for (slot, byte) in padded.iter_mut().zip(name.bytes().take(INTERFACE_NAME_LENGTH - 1)) {
        *slot = byte;
    }
    padded
}

/// An address's bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whether the kernel's dump of a rule says everything that we sent. A dump adds
/// defaults that were not sent, so each sent attribute must be there with its value,
/// expressions in the same number and order.
pub fn covers(sent: &[u8], dumped: &[u8]) -> bool {
    if sent == dumped {
        return true;
    }
    let (sent, dumped) = (attribute_list(sent), attribute_list(dumped));
    sent.len() == dumped.len()
        && sent.iter().zip(&dumped).all(|((_, ours), (_, theirs))| {
            let (ours, theirs) = (attribute_list(ours), attribute_list(theirs));
            value_of(&ours, EXPRESSION_NAME) == value_of(&theirs, EXPRESSION_NAME)
                && data_covers(value_of(&ours, EXPRESSION_DATA), value_of(&theirs, EXPRESSION_DATA))
        })
}

fn value_of<'a>(list: &[(u16, &'a [u8])], kind: u16) -> &'a [u8] {
    list.iter().find(|(found, _)| *found == kind).map_or(&[], |(_, value)| value)
}

fn data_covers(ours: &[u8], theirs: &[u8]) -> bool {
    let theirs = attribute_list(theirs);
    attribute_list(ours).iter().all(|(kind, value)| {
        theirs.iter().any(|(found, other)| found == kind && (value == other || nested_equal(value, other)))
    })
}

/// Nested data may come back with the nesting flag set or not; compare what is inside.
fn nested_equal(ours: &[u8], theirs: &[u8]) -> bool {
    let (ours, theirs) = (attribute_list(ours), attribute_list(theirs));
    !ours.is_empty()
        && ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|(a, b)| a.0 == b.0 && (a.1 == b.1 || nested_equal(a.1, b.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_follow_the_kernels_two_numberings() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(register), [1, 9, 10, 11, 2, 13]);
    }

    #[test]
    fn a_rule_covers_itself_and_not_another() {
        let one = Rule::new().oif_is("br0").masquerade();
        let other = Rule::new().oif_is("br1").masquerade();
        assert!(covers(&one.0, &one.0));
        assert!(!covers(&one.0, &other.0));
        assert!(!covers(&one.0, &Rule::new().oif_is("br0").0));
        assert!(!covers(&one.0, b"\x04"));
    }

    #[test]
    fn a_dump_with_added_defaults_still_covers() {
        let sent = Rule::new().in_set("bridges");
        let mut dumped = Attrs::new();
        dumped.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, "lookup").nest(EXPRESSION_DATA, |a| {
                a.text(1, "bridges").be32(2, 1).be32(5, 0);
            });
        });
        assert!(covers(&sent.0, &dumped.0));
    }
}
