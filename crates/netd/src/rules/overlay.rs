//! The table of an overlay's namespace: virtual addresses spread over backends.
//!
//! A task asks for the virtual address by ARP, this namespace answers and translates
//! to a backend; the source becomes the balancer's own address, so that the answer
//! comes back this way wherever the backend runs.

use super::{PRIORITY_DESTINATION_NAT, PRIORITY_SOURCE_NAT};
use crate::nft::expression::{CT_STATUS_DNAT, Family, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Rule, Verdict, octets};
use crate::nft::table::{Chain, DataType, HOOK_POSTROUTING, HOOK_PREROUTING, Set, SetKind, Table, Value};
use skep_model::netstate::{Backend, DesiredService};
use std::net::IpAddr;

/// Weights are reduced to fit this many slots of a round.
const SLOTS_MAX: u32 = 1024;

/// The balancing table of one overlay. `balancer` are this node's own addresses there.
pub fn table(services: &[&DesiredService], balancer: &[IpAddr]) -> Table {
    let mut table = Table::default();
    for family in [Family::V4, Family::V6] {
        table.sets.insert(vip_map(family).into(), Set::new(DataType::address(family), SetKind::VerdictMap));
    }
    for service in services {
        for vip in service.vips() {
            add_service(service, vip, &mut table);
        }
    }
    let dispatch = [Family::V4, Family::V6]
        .map(|family| Rule::new().family_is(family).load_destination(family, 0).map_verdict(vip_map(family)));
    // A ping is answered by the address itself.
    let mut prerouting: Vec<Rule> = [PROTOCOL_ICMP, PROTOCOL_ICMPV6]
        .map(|protocol| Rule::new().protocol_is(protocol).verdict(&Verdict::Accept))
        .into();
    prerouting.extend(dispatch);
    let sources = balancer.iter().map(|address| {
        let family = Family::of(*address);
        let rule = Rule::new().family_is(family).ct_status_any(CT_STATUS_DNAT);
        rule.immediate(0, &octets(*address)).source_nat(family)
    });
    table.chains.insert("prerouting".into(), Chain::at("nat", HOOK_PREROUTING, PRIORITY_DESTINATION_NAT, prerouting));
    table
        .chains
        .insert("postrouting".into(), Chain::at("nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT, sources.collect()));
    table
}

fn vip_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "vips4",
        Family::V6 => "vips6",
    }
}

fn add_service(service: &DesiredService, vip: IpAddr, table: &mut Table) {
    let family = Family::of(vip);
    let slots = slots(&service.backends, family);
    if slots.is_empty() {
        // The address itself refuses the connection.
        return;
    }
    let chain = format!("service_{}_{}", service.id, if family == Family::V4 { 4 } else { 6 });
    let map = format!("{chain}_backends");
    let mut backends = Set::new(DataType::INDEX, SetKind::Map(DataType::address(family)));
    let mut count = 0_u32;
    for address in slots {
        backends.elements.insert(count.to_ne_bytes().to_vec(), Value::Data(octets(address)));
        count += 1;
    }
    let rule = Rule::new().round_robin(count).map_value(&map).destination_nat(family, false);
    table.sets.insert(map, backends);
    table.chains.insert(chain.clone(), Chain::plain(vec![rule]));
    if let Some(vips) = table.sets.get_mut(vip_map(family)) {
        vips.elements.insert(octets(vip), Value::Verdict(Verdict::Goto(chain)));
    }
}

/// One round of the round robin: each backend as often as its weight says, in turns.
/// A weight of 0 takes no new connection; open ones are the kernel's memory.
pub fn slots(backends: &[Backend], family: Family) -> Vec<IpAddr> {
    let mut live: Vec<_> = backends
        .iter()
        .filter(|backend| backend.weight > 0 && Family::of(backend.address) == family)
        .map(|backend| (backend.address, u32::from(backend.weight)))
        .collect();
    live.sort_unstable();
    let divisor = live.iter().fold(0, |divisor, (_, weight)| greatest_common_divisor(divisor, *weight)).max(1);
    let total: u32 = live.iter().map(|(_, weight)| weight / divisor).sum();
    let shrink = total.div_ceil(SLOTS_MAX).max(1);
    let rounds = live.iter().map(|(_, weight)| (weight / divisor).div_ceil(shrink)).max().unwrap_or_default();
    let in_round = |round: u32| {
        live.iter().filter(move |(_, weight)| (weight / divisor).div_ceil(shrink) > round).map(|(address, _)| *address)
    };
    (0..rounds).flat_map(in_round).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::id::TaskId;
    use std::net::Ipv4Addr;

    fn check(weights: &[u16], expect: &[u8]) {
        let backends: Vec<_> = weights
            .iter()
            .zip(1_u8..)
            .map(|(weight, last)| Backend {
                task: TaskId(last.to_string()),
                address: Ipv4Addr::new(10, 0, 0, last).into(),
                name: String::new(),
                weight: *weight,
            })
            .collect();
        let slots: Vec<_> = slots(&backends, Family::V4)
            .into_iter()
            .map(|address| if let IpAddr::V4(v4) = address { v4.octets()[3] } else { 0 })
            .collect();
        assert_eq!(slots, expect);
    }

    #[test]
    fn equal_weights_take_one_slot_each_and_zero_takes_none() {
        check(&[1, 1, 1], &[1, 2, 3]);
        check(&[100, 100], &[1, 2]);
        check(&[1, 0, 1], &[1, 3]);
        check(&[0], &[]);
        check(&[], &[]);
    }

    #[test]
    fn weights_are_shares_of_a_round() {
        check(&[3, 1], &[1, 2, 1, 1]);
        check(&[4, 2], &[1, 2, 1]);
        let backend = |last, weight| Backend {
            task: TaskId::default(),
            address: Ipv4Addr::new(10, 0, 0, last).into(),
            name: String::new(),
            weight,
        };
        let all: Vec<_> = (1..=4).map(|last| backend(last, u16::MAX - u16::from(last))).collect();
        assert!(slots(&all, Family::V4).len() <= 1030);
    }
}
