//! DNS messages: from a query's bytes to an answer's bytes, or the decision to ask
//! upstream. Whatever the bytes are, there is an outcome.

use super::lookup::{Known, lookup};
use crate::desired::Desired;
use rand::seq::SliceRandom;
use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use std::net::IpAddr;
use std::path::Path;

/// Tasks come and go: an address must not be remembered for longer.
const TTL_SECONDS: u32 = 3;
const HEADER_LENGTH: usize = 12;
const LABEL_LENGTH_MAX: u8 = 63;
/// What a client without extensions takes by UDP.
const UDP_LENGTH_DEFAULT: usize = 512;
/// More than this is not sent by UDP whatever the client says: it would be fragmented.
const UDP_LENGTH_MAX: usize = 1232;

/// How a query arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Reply(Vec<u8>),
    Forward,
    /// Not a query at all.
    Ignore,
}

/// Decides on a query from a namespace.
pub fn answer(desired: &Desired, namespace: &Path, query: &[u8], transport: Transport) -> Outcome {
    let is_query = query.get(2).is_some_and(|flags| flags & 0x80 == 0);
    if query.len() < HEADER_LENGTH || !is_query {
        return Outcome::Ignore;
    }
    let Ok(packet) = Packet::parse(query) else {
        return unparsed(query);
    };
    let [question] = packet.questions.as_slice() else {
        return reply(&packet, RCODE::FormatError, Vec::new(), transport);
    };
    if packet.opcode() != OPCODE::StandardQuery {
        return reply(&packet, RCODE::NotImplemented, Vec::new(), transport);
    }
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return Outcome::Forward;
    }
    let name = question.qname.to_string().to_ascii_lowercase();
    match lookup(desired, namespace, name.trim_end_matches('.')) {
        Known::Addresses(mut addresses) => {
            addresses.shuffle(&mut rand::rng());
            let records = addresses.into_iter().filter_map(|address| address_record(question, address));
            reply(&packet, RCODE::NoError, records.collect(), transport)
        }
        Known::Name(name) => {
            let records = if asks_for(question, TYPE::PTR) { name_record(question, &name) } else { None };
            reply(&packet, RCODE::NoError, records.into_iter().collect(), transport)
        }
        Known::NoSuchName => reply(&packet, RCODE::NameError, Vec::new(), transport),
        Known::Unreachable => reply(&packet, RCODE::ServerFailure, Vec::new(), transport),
        Known::Foreign => Outcome::Forward,
    }
}

/// Perhaps a type that this parser does not know, but upstream does. What does not even begin
/// like a question is nobody's.
fn unparsed(query: &[u8]) -> Outcome {
    let (operation, questions) = (query[2] & 0x78, &query[4..6]);
    let begins_with_name = query.get(HEADER_LENGTH).is_some_and(|length| *length <= LABEL_LENGTH_MAX);
    if operation == 0 && questions == [0, 1] && begins_with_name { Outcome::Forward } else { Outcome::Ignore }
}

/// The answer when upstream gave none; empty for bytes that are no query.
pub fn server_failure(query: &[u8]) -> Vec<u8> {
    let Some(header) = query.get(..HEADER_LENGTH) else { return Vec::new() };
    // The question may be of a kind that cannot be parsed, so only the header comes back.
    let mut failure = header.to_vec();
    failure[2] = (failure[2] & 0x79) | 0x80;
    failure[3] = 0x80 | 2;
    failure[4..].fill(0);
    match Packet::parse(query) {
        Ok(packet) => match reply(&packet, RCODE::ServerFailure, Vec::new(), Transport::Udp) {
            Outcome::Reply(bytes) => bytes,
            _ => failure,
        },
        Err(_) => failure,
    }
}

fn asks_for(question: &Question<'_>, kind: TYPE) -> bool {
    question.qtype == QTYPE::TYPE(kind) || question.qtype == QTYPE::ANY
}

fn address_record<'a>(question: &Question<'a>, address: IpAddr) -> Option<ResourceRecord<'a>> {
    let data = match address {
        IpAddr::V4(v4) if asks_for(question, TYPE::A) => RData::A(A { address: v4.into() }),
        IpAddr::V6(v6) if asks_for(question, TYPE::AAAA) => RData::AAAA(AAAA { address: v6.into() }),
        _ => return None,
    };
    Some(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, data))
}

fn name_record<'a>(question: &Question<'a>, name: &str) -> Option<ResourceRecord<'a>> {
    let name = Name::new(name).ok()?.into_owned();
    Some(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, RData::PTR(PTR(name))))
}

fn reply(query: &Packet<'_>, code: RCODE, records: Vec<ResourceRecord<'_>>, transport: Transport) -> Outcome {
    let limit = match (transport, query.opt()) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_LENGTH_DEFAULT,
        (Transport::Udp, Some(extension)) => {
            usize::from(extension.udp_packet_size).clamp(UDP_LENGTH_DEFAULT, UDP_LENGTH_MAX)
        }
    };
    let full = build(query, code, records, false);
    match full {
        Some(bytes) if bytes.len() <= limit => Outcome::Reply(bytes),
        // The client comes back by TCP.
        Some(_) => build(query, code, Vec::new(), true).map_or(Outcome::Ignore, Outcome::Reply),
        None => Outcome::Ignore,
    }
}

fn build(query: &Packet<'_>, code: RCODE, records: Vec<ResourceRecord<'_>>, truncated: bool) -> Option<Vec<u8>> {
    let mut packet = Packet::new_reply(query.id());
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if truncated {
        packet.set_flags(PacketFlag::TRUNCATION);
    }
    *packet.opcode_mut() = query.opcode();
    *packet.rcode_mut() = code;
    packet.questions = query.questions.clone();
    packet.answers = records;
    if query.opt().is_some() {
        let size = u16::try_from(UDP_LENGTH_MAX).unwrap_or(u16::MAX);
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: size, version: 0 });
    }
    packet.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use skep_model::id::{ContainerId, EndpointId, NetworkId};
    use skep_model::netstate::{DesiredEndpoint, DesiredNetwork, NetworkKind};

    fn world(count: u8) -> Desired {
        let mut desired = Desired::default();
        desired.local.networks = vec![DesiredNetwork {
            id: NetworkId("a".into()),
            name: "net".into(),
            kind: NetworkKind::Bridge { bridge: "br".into(), inter_container: true, masquerade: true },
            subnets: Vec::new(),
            internal: false,
            mtu: 0,
            dns: true,
        }];
        desired.local.endpoints = (1..=count)
            .map(|last| DesiredEndpoint {
                id: EndpointId(last.to_string()),
                network: NetworkId("a".into()),
                container: ContainerId(last.to_string()),
                netns: "/one".into(),
                interface: "eth0".into(),
                addresses: vec![format!("10.0.0.{last}/24").parse().unwrap()],
                mac: [2; 6],
                default_route: false,
                dns_names: vec!["one".into()],
                ports: Vec::new(),
                sysctls: std::collections::BTreeMap::new(),
            })
            .collect();
        desired
    }

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.questions.push(Question::new(Name::new(name).unwrap(), kind.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    fn ask(desired: &Desired, query: &[u8], transport: Transport) -> Outcome {
        answer(desired, Path::new("/one"), query, transport)
    }

    fn check(count: u8, name: &str, kind: TYPE, expect: (RCODE, usize, bool)) {
        let Outcome::Reply(bytes) = ask(&world(count), &query(name, kind), Transport::Udp) else { panic!("no reply") };
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.id(), 7);
        assert_eq!((packet.rcode(), packet.answers.len(), packet.has_flags(PacketFlag::TRUNCATION)), expect);
    }

    #[test]
    fn known_names_are_answered_in_every_type() {
        check(1, "one", TYPE::A, (RCODE::NoError, 1, false));
        check(3, "ONE.Net", TYPE::A, (RCODE::NoError, 3, false));
        check(1, "one", TYPE::AAAA, (RCODE::NoError, 0, false));
        check(1, "one", TYPE::MX, (RCODE::NoError, 0, false));
        check(1, "1.0.0.10.in-addr.arpa", TYPE::PTR, (RCODE::NoError, 1, false));
        assert_eq!(ask(&world(1), &query("example.com", TYPE::A), Transport::Udp), Outcome::Forward);
    }

    #[test]
    fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
        check(100, "one", TYPE::A, (RCODE::NoError, 0, true));
        let Outcome::Reply(bytes) = ask(&world(100), &query("one", TYPE::A), Transport::Tcp) else {
            panic!("no reply")
        };
        assert_eq!(Packet::parse(&bytes).unwrap().answers.len(), 100);
    }

    #[test]
    fn a_failure_repeats_the_question() {
        let bytes = server_failure(&query("example.com", TYPE::A));
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.rcode(), packet.questions.len()), (7, RCODE::ServerFailure, 1));
        assert!(server_failure(b"short").is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let world = world(3);
            ask(&world, &bytes, Transport::Udp);
            server_failure(&bytes);
        }

        #[test]
        fn no_damaged_query_makes_it_panic(position in 0_usize..60, value: u8, cut in 0_usize..60) {
            let mut bytes = query("some-name.with.labels.net", TYPE::A);
            let position = position % bytes.len();
            bytes[position] = value;
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            ask(&world(3), &bytes, Transport::Tcp);
            server_failure(&bytes);
        }
    }
}
