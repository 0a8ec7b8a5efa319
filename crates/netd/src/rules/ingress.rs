//! The routing mesh's share of the host's table: published ports spread over tasks here
//! and on other nodes, and the way back of what came through the tunnel.

use super::{PRIORITY_MANGLE, PRIORITY_RAW, address_port, protocol_port_key};
use crate::nft::expression::{
    CT_ESTABLISHED, CT_NEW, CT_RELATED, CT_STATUS_DNAT, Family, PROTOCOL_TCP, Rule, Verdict, octets,
};
use crate::nft::table::{Chain, DataType, HOOK_OUTPUT, HOOK_POSTROUTING, HOOK_PREROUTING, Set, SetKind, Table, Value};
use crate::plan::MESH_TUNNEL;
use crate::wanted::mesh::{MARK, MARK_MASK, Mesh};
use skep_model::network::Protocol;
use std::net::IpAddr;

const INGRESS: &str = "ingress";
const INGRESS_HERE: &str = "ingress_here";
const INGRESS_PORTS: &str = "ingress_ports";
const STATIONS: &str = "mesh_stations";
const ZONES: &str = "mesh_zones";
/// After the translation of sources.
const PRIORITY_LAST: i32 = 300;

/// Where a connection may be led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub address: IpAddr,
    pub port: u16,
}

/// A port of the routing mesh with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressPort {
    pub published_port: u16,
    pub protocol: Protocol,
    /// Tasks here, and other nodes, each as often as it has tasks.
    pub everywhere: Vec<Target>,
    /// For what comes from other nodes: it ends here.
    pub here: Vec<Target>,
    /// Tasks here that are told to stop.
    pub draining: Vec<Target>,
}

/// Adds the maps of all ports.
pub(super) fn add_ports(ports: &[IngressPort], table: &mut Table) {
    let key = DataType::PROTOCOL.and(DataType::PORT);
    let mut everywhere = Set::new(key, SetKind::VerdictMap);
    let mut here = Set::new(key, SetKind::VerdictMap);
    let mut reserved = Set::new(key, SetKind::Set);
    for port in ports {
        let key = protocol_port_key(port.protocol, port.published_port);
        reserved.elements.insert(key.clone(), Value::None);
        let name = format!("ingress_{}_{}", port.protocol.as_str(), port.published_port);
        if let Some(verdict) = add_balancer(&name, &port.everywhere, table) {
            everywhere.elements.insert(key.clone(), verdict);
        }
        if let Some(verdict) = add_balancer(&format!("{name}_here"), &port.here, table) {
            here.elements.insert(key, verdict);
        }
    }
    table.sets.insert(INGRESS.into(), everywhere);
    table.sets.insert(INGRESS_HERE.into(), here);
    table.sets.insert(INGRESS_PORTS.into(), reserved);
}

/// A chain that takes turns between the targets of a packet's family; `None` without any.
fn add_balancer(chain: &str, targets: &[Target], table: &mut Table) -> Option<Value> {
    let mut rules = Vec::new();
    for (family, ending) in [(Family::V4, ""), (Family::V6, "_ipv6")] {
        let own: Vec<_> = targets.iter().filter(|target| Family::of(target.address) == family).collect();
        let Some(count) = u32::try_from(own.len()).ok().filter(|count| *count > 0) else { continue };
        let map = format!("{chain}_backends{ending}");
        let mut backends = Set::new(DataType::INDEX, SetKind::Map(DataType::address(family).and(DataType::PORT)));
        for (index, target) in (0..count).zip(own) {
            let value = Value::Data(address_port(target.address, target.port));
            backends.elements.insert(index.to_ne_bytes().to_vec(), value);
        }
        table.sets.insert(map.clone(), backends);
        rules.push(Rule::new().family_is(family).round_robin(count).map_value(&map).destination_nat(family, true));
    }
    if rules.is_empty() {
        return None;
    }
    table.chains.insert(chain.to_owned(), Chain::plain(rules));
    Some(Value::Verdict(Verdict::Jump(chain.to_owned())))
}

/// For connections to this host's addresses that did not come through the tunnel.
pub(super) fn publish_rule() -> Rule {
    Rule::new().destination_is_local().load_protocol(0).load_destination_port(1).map_verdict(INGRESS)
}

/// What came through the tunnel goes to a task here, or nowhere.
pub(super) fn prerouting_rules() -> Vec<Rule> {
    let from_tunnel = || Rule::new().iif_is(MESH_TUNNEL);
    vec![
        from_tunnel().load_protocol(0).load_destination_port(1).map_verdict(INGRESS_HERE),
        from_tunnel().verdict(&Verdict::Accept),
    ]
}

/// What arrives here was not led to a task: a mesh port without a backend. The reserving
/// socket would let the client wait; a refusal is better. Nothing else comes in by the tunnel
/// but answers to what this host itself asked.
pub(super) fn input_rules(mesh: bool, marked: bool) -> Vec<Rule> {
    let reserved = || Rule::new().load_protocol(0).load_destination_port(1).in_set(INGRESS_PORTS);
    let mut rules: Vec<Rule> = marked.then(super::marked::input_rule).into_iter().collect();
    rules.extend([reserved().protocol_is(PROTOCOL_TCP).reject_tcp_reset(), reserved().reject_port_unreachable()]);
    if mesh {
        let answers = CT_ESTABLISHED | CT_RELATED;
        rules.push(Rule::new().iif_is(MESH_TUNNEL).ct_state_any(answers).verdict(&Verdict::Accept));
        rules.push(Rule::new().iif_is(MESH_TUNNEL).verdict(&Verdict::Drop));
    }
    rules
}

/// A node must not be a router for what others put into the tunnel.
pub(super) fn forward_guard() -> Rule {
    Rule::new().iif_is(MESH_TUNNEL).verdict(&Verdict::Drop)
}

/// The chains of the way through the tunnel and back.
pub(super) fn add_mesh(mesh: &Mesh<'_>, table: &mut Table) {
    let mut stations = Set::new(DataType::STATION, SetKind::Map(DataType::MARK));
    let mut zones = Set::new(DataType::STATION, SetKind::Map(DataType::ZONE));
    let mut nodes = [Family::V4, Family::V6].map(|family| Set::new(DataType::address(family), SetKind::Set));
    for peer in &mesh.peers {
        let mark = MARK | u32::from(peer.number);
        stations.elements.insert(peer.mac.to_vec(), Value::Data(mark.to_ne_bytes().to_vec()));
        zones.elements.insert(peer.mac.to_vec(), Value::Data(peer.number.to_ne_bytes().to_vec()));
    }
    for node in &mesh.node_addresses {
        let [v4, v6] = &mut nodes;
        let set = if node.is_ipv4() { v4 } else { v6 };
        set.elements.insert(octets(*node), Value::None);
    }
    table.sets.insert(STATIONS.into(), stations);
    table.sets.insert(ZONES.into(), zones);
    for (family, set) in [Family::V4, Family::V6].into_iter().zip(nodes) {
        table.sets.insert(nodes_set(family).into(), set);
    }
    let to_mark = |rule: Rule| rule.connection_mark_is(MARK, MARK_MASK).is_reply().load_connection_mark().set_mark();
    let came_from = Rule::new()
        .iif_is(MESH_TUNNEL)
        .ct_state_any(CT_NEW)
        .load_source_station()
        .map_value(STATIONS)
        .set_connection_mark();
    // A client may use one port of its own for connections through several nodes.
    let apart = Rule::new().iif_is(MESH_TUNNEL).load_source_station().map_value(ZONES).set_original_zone();
    let chains = [
        ("mesh_zone", Chain::at("filter", HOOK_PREROUTING, PRIORITY_RAW, vec![apart])),
        (
            "mesh_in",
            Chain::at(
                "filter",
                HOOK_PREROUTING,
                PRIORITY_MANGLE,
                vec![came_from, to_mark(Rule::new().iif_is_not(MESH_TUNNEL))],
            ),
        ),
        // Refusals are this host's own packets.
        ("mesh_own", Chain::at("route", HOOK_OUTPUT, PRIORITY_MANGLE, vec![to_mark(Rule::new())])),
        ("mesh_out", Chain::at("filter", HOOK_POSTROUTING, PRIORITY_LAST, last_rules())),
    ];
    table.chains.extend(chains.map(|(name, chain)| (name.to_owned(), chain)));
}

/// The tunnel would route its outer packet by the inner one's mark, which leads into the
/// tunnel again.
fn last_rules() -> Vec<Rule> {
    let into_tunnel = || Rule::new().oif_is(MESH_TUNNEL);
    vec![into_tunnel().clamp_segment_size(), into_tunnel().immediate(0, &[0; 4]).set_mark()]
}

/// Another node's own connection may be led back to that node, which would take a packet
/// with its own source for a forgery.
pub(super) fn postrouting_rules(marked: bool) -> Vec<Rule> {
    let from_node =
        |family: Family| Rule::new().oif_is(MESH_TUNNEL).family_is(family).source_in_set(family, nodes_set(family));
    let from_loopback = |net| Rule::new().source_in(net).oif_is(MESH_TUNNEL).masquerade();
    let families = [Family::V4, Family::V6];
    let translated = families.map(|family| from_node(family).ct_status_any(CT_STATUS_DNAT).masquerade());
    let mut rules: Vec<Rule> = translated.into_iter().chain(super::host::loopbacks().map(from_loopback)).collect();
    if marked {
        rules.extend(families.map(|family| super::marked::is_balanced(from_node(family)).masquerade()));
    }
    rules
}

fn nodes_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "mesh_nodes4",
        Family::V6 => "mesh_nodes6",
    }
}
