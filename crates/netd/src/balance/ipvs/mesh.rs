//! The routing mesh's ports as services of IPVS on the host.

use super::table::{Destination, Service, Services};
use crate::nft::expression::Family;
use crate::rules::ingress::IngressPort;
use skep_model::network::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Marks of the mesh's ports; on the host other marks are not ours.
pub const MARK: u32 = 0x5ce0_0000;
pub const MARK_MASK: u32 = 0xfffc_0000;

/// Whether this is a port of the mesh.
pub fn is_mesh(service: &Service) -> bool {
    service.mark & MARK_MASK == MARK
}

/// The mark of a port: its protocol and number, so that there is nothing to remember.
pub fn mark_of(port: &IngressPort) -> u32 {
    let protocol: u32 = match port.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    };
    MARK | protocol << 16 | u32::from(port.published_port)
}

/// All ports with their targets; one that is named several times weighs as much. `hops`
/// lead to the other nodes of the mesh.
pub fn services(ports: &[IngressPort], hops: &[IpAddr]) -> Services {
    let of_port = |port: &IngressPort| {
        // Not every kernel balances IPv6, and not every node has it.
        let has_ipv6 = port.everywhere.iter().chain(&port.draining).any(|target| target.address.is_ipv6());
        let families = if has_ipv6 { &[Family::V4, Family::V6][..] } else { &[Family::V4] };
        let service =
            |family: &Family| (Service { mark: mark_of(port), family: *family }, destinations(port, hops, *family));
        families.iter().map(service).collect::<Vec<_>>()
    };
    ports.iter().flat_map(of_port).collect()
}

fn destinations(port: &IngressPort, hops: &[IpAddr], family: Family) -> BTreeMap<Destination, u32> {
    let mut weights = BTreeMap::new();
    let is_meant = |address: &IpAddr| Family::of(*address) == family;
    // Removing a destination cuts its connections: they may end in peace where a task is
    // told to stop, here or on another node. Of UDP nobody knows when it ends.
    if port.protocol != Protocol::Udp {
        let idle =
            hops.iter().filter(|hop| is_meant(hop)).map(|hop| Destination { address: *hop, port: port.published_port });
        weights.extend(idle.map(|destination| (destination, 0)));
    }
    let draining = port.draining.iter().filter(|target| is_meant(&target.address));
    weights.extend(draining.map(|target| (Destination { address: target.address, port: target.port }, 0)));
    for target in port.everywhere.iter().filter(|target| is_meant(&target.address)) {
        *weights.entry(Destination { address: target.address, port: target.port }).or_default() += 1;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ingress::Target;

    fn target(text: &str) -> Target {
        let (address, port) = text.split_once(':').unwrap();
        Target { address: address.parse().unwrap(), port: port.parse().unwrap() }
    }

    fn port(protocol: Protocol, everywhere: &[&str], draining: &[&str]) -> IngressPort {
        let list = |texts: &[&str]| texts.iter().map(|text| target(text)).collect::<Vec<_>>();
        IngressPort {
            published_port: 8080,
            protocol,
            everywhere: list(everywhere),
            here: Vec::new(),
            draining: list(draining),
        }
    }

    fn check(port: &IngressPort, expect: &[(&str, u32)]) {
        let hops = ["198.18.0.3".parse().unwrap(), "198.18.0.4".parse().unwrap()];
        let services = services(std::slice::from_ref(port), &hops);
        let destinations = services.values().flatten();
        let lines: Vec<_> = destinations.map(|(to, weight)| (format!("{}:{}", to.address, to.port), *weight)).collect();
        assert_eq!(lines, expect.iter().map(|(to, weight)| ((*to).to_owned(), *weight)).collect::<Vec<_>>());
    }

    #[test]
    fn nodes_weigh_as_many_tasks_as_they_have_and_are_never_cut_off() {
        let everywhere = ["172.18.0.3:80", "198.18.0.3:8080", "198.18.0.3:8080"];
        check(
            &port(Protocol::Tcp, &everywhere, &["172.18.0.9:80"]),
            &[("172.18.0.3:80", 1), ("172.18.0.9:80", 0), ("198.18.0.3:8080", 2), ("198.18.0.4:8080", 0)],
        );
        check(&port(Protocol::Udp, &everywhere, &[]), &[("172.18.0.3:80", 1), ("198.18.0.3:8080", 2)]);
        let mut dual = port(Protocol::Udp, &["172.18.0.3:80"], &[]);
        dual.everywhere.push(Target { address: "fd00::3".parse().unwrap(), port: 80 });
        check(&dual, &[("172.18.0.3:80", 1), ("fd00::3:80", 1)]);
    }

    #[test]
    fn marks_tell_protocols_and_ports_apart_and_are_known_again() {
        let (tcp, udp) = (mark_of(&port(Protocol::Tcp, &[], &[])), mark_of(&port(Protocol::Udp, &[], &[])));
        assert_ne!(tcp, udp);
        for mark in [tcp, udp] {
            assert!(is_mesh(&Service { mark, family: Family::V4 }));
        }
        assert!(!is_mesh(&Service { mark: 0x0a00_0105, family: Family::V4 }));
    }
}
