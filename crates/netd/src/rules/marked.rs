//! The routing mesh's ports where IPVS balances them: what comes in for one is marked,
//! and IPVS has a service for each mark. What this host itself asks for stays with the
//! packet rules: IPVS does not lead connections from the loopback elsewhere.

use super::ingress::IngressPort;
use super::{PRIORITY_MANGLE, protocol_port_key};
use crate::balance::ipvs::mesh::{MARK, MARK_MASK, mark_of};
use crate::nft::expression::{Family, Rule, Verdict};
use crate::nft::table::{Chain, DataType, HOOK_INPUT, Set, SetKind, Table, Value};
use crate::plan::MESH_TUNNEL;

const MARKS: &str = "ingress_marks";

/// Adds the marking. A port without a target is left alone, and refused as everywhere.
pub(super) fn add(ports: &[IngressPort], table: &mut Table) {
    let mut marks = Set::new(DataType::PROTOCOL.and(DataType::PORT), SetKind::Map(DataType::INDEX));
    for port in ports.iter().filter(|port| port.everywhere.iter().any(|target| target.address.is_ipv4())) {
        let key = protocol_port_key(port.protocol, port.published_port);
        marks.elements.insert(key, Value::Data(mark_of(port).to_ne_bytes().to_vec()));
    }
    table.sets.insert(MARKS.into(), marks);
    // What another node sent ends here or nowhere.
    let rule = Rule::new().iif_is_not(MESH_TUNNEL).family_is(Family::V4).destination_is_local();
    let rule = rule.load_protocol(0).load_destination_port(1).map_value(MARKS).set_mark();
    table.chains.insert("ingress_mark".into(), Chain::at("filter", HOOK_INPUT, PRIORITY_MANGLE, vec![rule]));
}

/// On its way to IPVS, which looks behind the filters.
pub(super) fn input_rule() -> Rule {
    is_balanced(Rule::new()).verdict(&Verdict::Accept)
}

/// The packet belongs to a connection that IPVS leads.
pub(super) fn is_balanced(rule: Rule) -> Rule {
    rule.mark_is(MARK, MARK_MASK)
}
