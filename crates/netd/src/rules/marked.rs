//! The routing mesh's ports where IPVS balances them: what comes in for one is marked,
//! and IPVS has a service for each mark. What this host itself asks for stays with the
//! packet rules: IPVS does not lead connections from the loopback elsewhere.

use super::ingress::IngressPort;
use super::{PRIORITY_MANGLE, protocol_port_key};
use crate::balance::ipvs::mesh::{MARK, MARK_MASK, mark_of};
use crate::nft::expression::{Family, Rule, Verdict};
use crate::nft::table::{Chain, DataType, HOOK_INPUT, Set, SetKind, Table, Value};
use crate::plan::MESH_TUNNEL;

/// Adds the marking. A port without a target of a packet's family is left alone, and refused as
/// everywhere.
pub(super) fn add(ports: &[IngressPort], table: &mut Table) {
    let rules = [Family::V4, Family::V6].map(|family| {
        let mut marks = Set::new(DataType::PROTOCOL.and(DataType::PORT), SetKind::Map(DataType::INDEX));
        let has_target =
            |port: &&IngressPort| port.everywhere.iter().any(|target| Family::of(target.address) == family);
        for port in ports.iter().filter(has_target) {
            let key = protocol_port_key(port.protocol, port.published_port);
            marks.elements.insert(key, Value::Data(mark_of(port).to_ne_bytes().to_vec()));
        }
        let name = match family {
            Family::V4 => "ingress_marks",
            Family::V6 => "ingress_marks_ipv6",
        };
        table.sets.insert(name.into(), marks);
        // What another node sent ends here or nowhere.
        let rule = Rule::new().iif_is_not(MESH_TUNNEL).family_is(family).destination_is_local();
        rule.load_protocol(0).load_destination_port(1).map_value(name).set_mark()
    });
    table.chains.insert("ingress_mark".into(), Chain::at("filter", HOOK_INPUT, PRIORITY_MANGLE, rules.into()));
}

/// On its way to IPVS, which looks behind the filters.
pub(super) fn input_rule() -> Rule {
    is_balanced(Rule::new()).verdict(&Verdict::Accept)
}

/// The packet belongs to a connection that IPVS leads.
pub(super) fn is_balanced(rule: Rule) -> Rule {
    rule.mark_is(MARK, MARK_MASK)
}
