//! The host's table: isolation of bridges, masquerading, published ports, ingress.
//!
//! Per-network rules are few and change with networks only; what changes with every
//! container is an element of a map, so that attaching costs the same however many
//! containers there are.

use super::ingress::{self, IngressPort};
use super::marked;
use super::{
    PRIORITY_DESTINATION_NAT, PRIORITY_FILTER, PRIORITY_RAW, PRIORITY_SOURCE_NAT, address_of, address_port,
    protocol_port_key,
};
use crate::nft::expression::{
    CT_ESTABLISHED, CT_RELATED, CT_STATUS_DNAT, Family, PROTOCOL_TCP, Rule, Verdict, interface_name, octets,
};
use crate::nft::table::{
    Chain, DataType, HOOK_FORWARD, HOOK_INPUT, HOOK_OUTPUT, HOOK_POSTROUTING, HOOK_PREROUTING, Set, SetKind, Table,
    Value,
};
use crate::wanted::mesh::Mesh;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::netstate::{DesiredEndpoint, DesiredNetwork, DesiredPort, NetworkKind};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

const BRIDGES: &str = "bridges";
const OPEN_BRIDGES: &str = "open_bridges";
const INTERNAL: &str = "internal";
const PUBLISH: &str = "publish";

/// What the host's table is made of besides its bridges.
pub struct Facts<'a> {
    pub ingress: &'a [IngressPort],
    /// This node's view of the mesh, `None` when it is not on it.
    pub mesh: Option<&'a Mesh<'a>>,
    /// IPVS balances the mesh's ports.
    pub marked: bool,
    /// Answers from containers to `::1` do not arrive: where bridged frames pass the rules for
    /// routed ones, they are translated back before the kernel looks for `::1` on the wire.
    pub refuses_loopback_ipv6: bool,
}

/// The host's table; `None` when there is nothing to rule.
pub fn table<'a>(
    networks: impl Iterator<Item = &'a DesiredNetwork>,
    published: impl Iterator<Item = &'a DesiredEndpoint>,
    facts: &Facts<'_>,
) -> Option<Table> {
    let bridges: Vec<Bridge<'_>> = networks.filter_map(Bridge::of).collect();
    if bridges.is_empty() && facts.ingress.is_empty() && facts.mesh.is_none() {
        return None;
    }
    let mut table = Table::default();
    add_bridge_sets(&bridges, &mut table);
    add_published(published, &mut table);
    ingress::add_ports(facts.ingress, &mut table);
    if facts.marked {
        marked::add(facts.ingress, &mut table);
    }
    add_base_chains(&bridges, facts, &mut table);
    if let Some(mesh) = facts.mesh {
        ingress::add_mesh(mesh, &mut table);
    }
    Some(table)
}

struct Bridge<'a> {
    name: &'a str,
    inter_container: bool,
    masquerade: bool,
    network: &'a DesiredNetwork,
}

impl<'a> Bridge<'a> {
    fn of(network: &'a DesiredNetwork) -> Option<Self> {
        match &network.kind {
            NetworkKind::Bridge { bridge, inter_container, masquerade } => {
                Some(Self { name: bridge, inter_container: *inter_container, masquerade: *masquerade, network })
            }
            NetworkKind::Overlay { .. } | NetworkKind::Mesh { .. } => None,
        }
    }
}

fn add_bridge_sets(bridges: &[Bridge<'_>], table: &mut Table) {
    let names = |keep: &dyn Fn(&Bridge<'_>) -> bool| {
        let mut set = Set::new(DataType::INTERFACE, SetKind::Set);
        for bridge in bridges.iter().filter(|bridge| keep(bridge)) {
            set.elements.insert(interface_name(bridge.name).to_vec(), Value::None);
        }
        set
    };
    table.sets.insert(BRIDGES.into(), names(&|_| true));
    table.sets.insert(INTERNAL.into(), names(&|bridge| bridge.network.internal));
    let mut open = Set::new(DataType::INTERFACE.and(DataType::INTERFACE), SetKind::Set);
    for bridge in bridges.iter().filter(|bridge| bridge.inter_container) {
        open.elements.insert(interface_name(bridge.name).repeat(2), Value::None);
    }
    table.sets.insert(OPEN_BRIDGES.into(), open);
}

fn published_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "published4",
        Family::V6 => "published6",
    }
}

fn published_at_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "published_at4",
        Family::V6 => "published_at6",
    }
}

fn add_published<'a>(endpoints: impl Iterator<Item = &'a DesiredEndpoint>, table: &mut Table) {
    for family in [Family::V4, Family::V6] {
        let target = SetKind::Map(DataType::address(family).and(DataType::PORT));
        let key = DataType::PROTOCOL.and(DataType::PORT);
        table.sets.insert(published_map(family).into(), Set::new(key, target));
        let key = DataType::address(family).and(DataType::PROTOCOL).and(DataType::PORT);
        table.sets.insert(published_at_map(family).into(), Set::new(key, target));
    }
    for endpoint in endpoints {
        for port in &endpoint.ports {
            for family in [Family::V4, Family::V6] {
                if let Some((map, key, value)) = published_element(endpoint, port, family)
                    && let Some(set) = table.sets.get_mut(map)
                {
                    set.elements.insert(key, value);
                }
            }
        }
    }
}

/// The map, key and value of a published port in one family; a host address is taken
/// exactly, never widened.
fn published_element(
    endpoint: &DesiredEndpoint,
    port: &DesiredPort,
    family: Family,
) -> Option<(&'static str, Vec<u8>, Value)> {
    let value = Value::Data(address_port(address_of(&endpoint.addresses, family)?, port.container_port));
    let any = protocol_port_key(port.protocol, port.host_port);
    match port.host_ip {
        None => Some((published_map(family), any, value)),
        Some(address) if Family::of(address) != family => None,
        Some(address) if address.is_unspecified() => Some((published_map(family), any, value)),
        Some(address) => {
            let mut key = octets(address);
            key.extend_from_slice(&any);
            Some((published_at_map(family), key, value))
        }
    }
}

fn add_base_chains(bridges: &[Bridge<'_>], facts: &Facts<'_>, table: &mut Table) {
    let (mesh, marked) = (facts.mesh.is_some(), facts.marked);
    let jump = || Rule::new().destination_is_local().verdict(&Verdict::Jump(PUBLISH.into()));
    let mut prerouting = if mesh { ingress::prerouting_rules() } else { Vec::new() };
    prerouting.push(jump());
    let to_loopback = || Rule::new().destination_in(loopbacks()[1]);
    let mut output: Vec<Rule> =
        facts.refuses_loopback_ipv6.then(|| to_loopback().verdict(&Verdict::Accept)).into_iter().collect();
    output.push(jump());
    let mut publish = publish_rules();
    // What comes in stays for IPVS then.
    if marked { &mut output } else { &mut publish }.push(ingress::publish_rule());
    let mut input = ingress::input_rules(mesh, marked);
    if facts.refuses_loopback_ipv6 {
        // The reserving socket would let the client wait, who has 127.0.0.1 as well.
        let published =
            |rule: Rule| rule.load_protocol(0).load_destination_port(1).map_value(published_map(Family::V6));
        input.push(published(to_loopback().protocol_is(PROTOCOL_TCP)).reject_tcp_reset());
        input.push(published(to_loopback()).reject_port_unreachable());
    }
    let chains: BTreeMap<&str, Chain> = [
        (PUBLISH, Chain::plain(publish)),
        ("raw", Chain::at("filter", HOOK_PREROUTING, PRIORITY_RAW, vec![loopback_guard()])),
        ("prerouting", Chain::at("nat", HOOK_PREROUTING, PRIORITY_DESTINATION_NAT, prerouting)),
        ("output", Chain::at("nat", HOOK_OUTPUT, PRIORITY_DESTINATION_NAT, output)),
        ("input", Chain::at("filter", HOOK_INPUT, PRIORITY_FILTER, input)),
        ("forward", Chain::at("filter", HOOK_FORWARD, PRIORITY_FILTER, forward_rules(mesh))),
        (
            "postrouting",
            Chain::at("nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT, postrouting_rules(bridges, mesh, marked)),
        ),
    ]
    .into();
    table.chains.extend(chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)));
}

/// `route_localnet` on a bridge would let a container reach the host's loopback.
fn loopback_guard() -> Rule {
    Rule::new().iif_is_not("lo").destination_in(loopback()).verdict(&Verdict::Drop)
}

pub(super) fn loopback() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()
}

/// Of both families. The kernel itself guards the second.
pub(super) fn loopbacks() -> [IpNet; 2] {
    [loopback(), Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into()]
}

fn publish_rules() -> Vec<Rule> {
    let translate = |family: Family| {
        let words = family.words();
        let exact = Rule::new()
            .family_is(family)
            .load_destination(family, 0)
            .load_protocol(words)
            .load_destination_port(words + 1)
            .map_value(published_at_map(family))
            .destination_nat(family, true);
        let any = Rule::new()
            .family_is(family)
            .load_protocol(0)
            .load_destination_port(1)
            .map_value(published_map(family))
            .destination_nat(family, true);
        [exact, any]
    };
    [Family::V4, Family::V6].into_iter().flat_map(translate).collect()
}

fn forward_rules(mesh: bool) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new().ct_state_any(CT_ESTABLISHED | CT_RELATED).verdict(&Verdict::Accept),
        Rule::new().load_iif_name(0).load_oif_name(4).in_set(OPEN_BRIDGES).verdict(&Verdict::Accept),
        Rule::new().load_iif_name(0).in_set(INTERNAL).verdict(&Verdict::Drop),
        Rule::new().load_oif_name(0).in_set(INTERNAL).verdict(&Verdict::Drop),
        Rule::new().ct_status_any(CT_STATUS_DNAT).verdict(&Verdict::Accept),
        // Into a bridge only what is published or answers: neither other bridges nor
        // the outside reach a container's other ports, nor each other without
        // inter-container traffic.
        Rule::new().load_oif_name(0).in_set(BRIDGES).verdict(&Verdict::Drop),
    ];
    if mesh {
        rules.push(ingress::forward_guard());
    }
    rules
}

fn postrouting_rules(bridges: &[Bridge<'_>], mesh: bool, marked: bool) -> Vec<Rule> {
    let of_loopback = |net| Rule::new().source_in(net).load_oif_name(0).in_set(BRIDGES).masquerade();
    let mut rules: Vec<Rule> = loopbacks().map(of_loopback).into();
    if mesh {
        rules.extend(ingress::postrouting_rules(marked));
    }
    for bridge in bridges {
        for subnet in &bridge.network.subnets {
            // A container that comes back to its own bridge by a published port: the
            // answer must take the same way back.
            let comes_back = || Rule::new().source_in(subnet.net).oif_is(bridge.name);
            rules.push(comes_back().ct_status_any(CT_STATUS_DNAT).masquerade());
            rules.extend(marked.then(|| marked::is_balanced(comes_back()).masquerade()));
            if bridge.masquerade && !bridge.network.internal {
                rules.push(Rule::new().source_in(subnet.net).oif_is_not(bridge.name).masquerade());
            }
        }
    }
    rules
}
