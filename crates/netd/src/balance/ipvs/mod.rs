//! Balancing by IPVS: a rule marks the packets to a virtual address, IPVS has a service
//! for each mark and picks the backend, and the source becomes the balancer's own
//! address, so that the answer comes back this way wherever the backend runs.

pub mod mesh;
pub mod message;
pub mod table;

use super::Balancer;
use crate::nft::expression::{Family, Rule, octets};
use crate::nft::table::{Chain, DataType, HOOK_INPUT, HOOK_POSTROUTING, Set, SetKind, Table, Value};
use crate::rules::ingress::IngressPort;
use skep_model::netstate::DesiredService;
use std::net::IpAddr;
use table::{Destination, Service, Services};

/// Before IPVS, which looks where packets come in.
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// Behind everything that may ask for the mark.
const PRIORITY_LAST: i32 = 300;

/// How IPVS has to behave in a namespace where we balance.
const SETTINGS: [(&str, &str); 4] = [
    // Its connections are the packet filter's as well: else their source could not be translated.
    ("net/ipv4/vs/conntrack", "1"),
    // A client whose backend was removed is led to another one at once.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // A client that takes a port again may get another backend, a draining one never.
    ("net/ipv4/vs/conn_reuse_mode", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

pub struct Ipvs;

impl Balancer for Ipvs {
    fn name(&self) -> &'static str {
        "ipvs"
    }

    fn rules(&self, services: &[&DesiredService], own: &[IpAddr]) -> Table {
        let mut table = Table::default();
        for family in [Family::V4, Family::V6] {
            let mut marks = Set::new(DataType::address(family), SetKind::Map(DataType::INDEX));
            for (vip, service) in services.iter().filter_map(|service| takes_connections(service, family)) {
                marks.elements.insert(octets(vip), Value::Data(service.mark.to_ne_bytes().to_vec()));
            }
            table.sets.insert(marks_map(family).into(), marks);
        }
        let mark = |family: Family| {
            Rule::new().family_is(family).load_destination(family, 0).map_value(marks_map(family)).set_mark()
        };
        let sources = own.iter().map(|address| {
            let family = Family::of(*address);
            Rule::new().family_is(family).is_marked().immediate(0, &octets(*address)).source_nat(family)
        });
        // The tunnel would route its outer packet by the inner one's mark.
        let unmark = vec![Rule::new().is_marked().immediate(0, &[0; 4]).set_mark()];
        let marking = [Family::V4, Family::V6].map(mark).into();
        let chains = [
            ("balance", Chain::at("filter", HOOK_INPUT, PRIORITY_MANGLE, marking)),
            ("postrouting", Chain::at("nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT, sources.collect())),
            ("unmark", Chain::at("filter", HOOK_POSTROUTING, PRIORITY_LAST, unmark)),
        ];
        table.chains.extend(chains.map(|(name, chain)| (name.to_owned(), chain)));
        table
    }

    fn balanced(&self, services: &[&DesiredService]) -> Option<Services> {
        let mut balanced = Services::new();
        for (service, vip) in services.iter().flat_map(|service| service.vips().map(move |vip| (service, vip))) {
            let destinations = service
                .backends
                .iter()
                .filter(|backend| Family::of(backend.address) == Family::of(vip))
                .map(|backend| (Destination { address: backend.address, port: 0 }, u32::from(backend.weight)));
            balanced.insert(service_of(vip), destinations.collect());
        }
        Some(balanced)
    }

    fn mesh(&self, ports: &[IngressPort], hops: &[IpAddr]) -> Option<Services> {
        Some(mesh::services(ports, hops))
    }

    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        &SETTINGS
    }
}

fn marks_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "marks4",
        Family::V6 => "marks6",
    }
}

/// The mark is the address itself, or its last four bytes: nothing to remember, and
/// unique, as virtual addresses are given out from one subnet.
fn service_of(vip: IpAddr) -> Service {
    let bytes = octets(vip);
    let last = bytes.last_chunk::<4>().copied().unwrap_or_default();
    Service { mark: u32::from_be_bytes(last), family: Family::of(vip) }
}

/// Without a backend for new connections the address itself refuses them.
fn takes_connections(service: &DesiredService, family: Family) -> Option<(IpAddr, Service)> {
    let vip = service.vips().find(|vip| Family::of(*vip) == family)?;
    let is_open = service.backends.iter().any(|backend| backend.weight > 0 && Family::of(backend.address) == family);
    is_open.then(|| (vip, service_of(vip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::id::{NetworkId, ServiceId, TaskId};
    use skep_model::netstate::Backend;

    fn service(vip: &str, backends: &[(&str, u16)]) -> DesiredService {
        let backend = |(address, weight): &(&str, u16)| Backend {
            task: TaskId((*address).to_owned()),
            address: address.parse().unwrap(),
            name: String::new(),
            weight: *weight,
        };
        DesiredService {
            id: ServiceId("s".into()),
            name: "s".into(),
            aliases: Vec::new(),
            network: NetworkId("n".into()),
            vip: Some(vip.parse().unwrap()),
            vip_ipv6: None,
            backends: backends.iter().map(backend).collect(),
        }
    }

    #[test]
    fn a_draining_backend_stays_known_and_a_service_of_such_takes_nothing_new() {
        let (open, drained) = (service("10.0.1.5", &[("10.0.1.7", 1), ("10.0.1.8", 0)]), service("10.0.1.6", &[]));
        let all = [&open, &drained];
        let balanced = Ipvs.balanced(&all).unwrap();
        let destinations = &balanced[&Service { mark: 0x0a00_0105, family: Family::V4 }];
        assert_eq!(destinations.values().copied().collect::<Vec<_>>(), [1, 0]);
        assert_eq!(balanced.len(), 2);
        let table = Ipvs.rules(&all, &["10.0.1.2".parse().unwrap()]);
        let marked: Vec<_> = table.sets["marks4"].elements.keys().cloned().collect();
        assert_eq!(marked, [vec![10, 0, 1, 5]]);
        assert_eq!(table.chains["postrouting"].rules.len(), 1);
    }

    #[test]
    fn services_without_an_address_are_not_balanced() {
        let mut unnamed = service("fd00::1:5", &[("fd00::1:7", 1)]);
        assert_eq!(Ipvs.balanced(&[&unnamed]).unwrap().keys().next().unwrap().mark, 0x0001_0005);
        unnamed.vip_ipv6 = Some("fd00::2:6".parse().unwrap());
        let services = Ipvs.balanced(&[&unnamed]).unwrap();
        assert_eq!(services.keys().map(|service| service.mark).collect::<Vec<_>>(), [0x0001_0005, 0x0002_0006]);
        (unnamed.vip, unnamed.vip_ipv6) = (None, None);
        assert!(Ipvs.balanced(&[&unnamed]).unwrap().is_empty());
    }
}
