//! Routing by mark: rules, and tables of one route each.

use crate::kernel::netlink::{Answer, Attrs, CREATE, EXCLUSIVE, REPLACE, Request, attributes, ne32};
use crate::kernel::route::{family_number, ip};
use crate::nft::expression::{Family, octets};
use crate::plan::{PolicyRule, RuleAction, TableRoute};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
const HEADER: usize = 12;

/// Marks rules and routes as ours, as `proto` in listings.
const PROTOCOL: u8 = 83;

const ACTION_TABLE: u8 = 1;
const ACTION_GOTO: u8 = 2;
const ACTION_NOTHING: u8 = 3;
const FLAG_INVERT: u32 = 2;
const RULE_GOTO: u16 = 4;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const RULE_PROTOCOL: u16 = 21;

const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_TABLE: u16 = 15;
const ROUTE_DESTINATION: u16 = 1;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const TABLE_LOCAL: u8 = 255;
/// A single address of IPv6.
const LOOPBACK_LENGTH: u8 = 128;

pub fn add_rule(rule: &PolicyRule) -> Request {
    rule_request(NEW_RULE, CREATE | EXCLUSIVE, rule)
}

pub fn delete_rule(rule: &PolicyRule) -> Request {
    rule_request(DELETE_RULE, 0, rule)
}

fn rule_request(kind: u16, flags: u16, rule: &PolicyRule) -> Request {
    let mut a = Attrs::new();
    a.u32(RULE_PRIORITY, rule.priority).u8(RULE_PROTOCOL, PROTOCOL);
    if rule.mask != 0 {
        a.u32(RULE_MARK, rule.mark).u32(RULE_MASK, rule.mask);
    }
    let (action, rule_flags) = match rule.action {
        RuleAction::Table(table) => {
            a.u32(RULE_TABLE, table);
            (ACTION_TABLE, 0)
        }
        RuleAction::OthersGoto(priority) => {
            a.u32(RULE_GOTO, priority);
            (ACTION_GOTO, FLAG_INVERT)
        }
        RuleAction::Nothing => (ACTION_NOTHING, 0),
    };
    let mut header = [0; HEADER];
    header[0] = rule.family.number();
    header[7] = action;
    header[8..12].copy_from_slice(&u32::to_ne_bytes(rule_flags));
    Request::new(kind, flags, &header, &a)
}

pub fn dump_rules() -> Request {
    Request::new(GET_RULE, 0, &[0; HEADER], &Attrs::new())
}

/// Our rules.
pub fn read_rules(answers: &[Answer]) -> Vec<PolicyRule> {
    answers.iter().filter_map(read_rule).collect()
}

fn read_rule(answer: &Answer) -> Option<PolicyRule> {
    let found = attributes(&answer.body, HEADER);
    if found.get(&RULE_PROTOCOL)?.first() != Some(&PROTOCOL) {
        return None;
    }
    let number = |kind: u16| found.get(&kind).and_then(|value| ne32(value));
    let action = match *answer.body.get(7)? {
        ACTION_TABLE => RuleAction::Table(number(RULE_TABLE)?),
        ACTION_GOTO => RuleAction::OthersGoto(number(RULE_GOTO)?),
        ACTION_NOTHING => RuleAction::Nothing,
        _ => return None,
    };
    Some(PolicyRule {
        family: family(*answer.body.first()?)?,
        priority: number(RULE_PRIORITY).unwrap_or(0),
        mark: number(RULE_MARK).unwrap_or(0),
        mask: number(RULE_MASK).unwrap_or(0),
        action,
    })
}

fn family(number: u8) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|family| family.number() == number)
}

/// Adds or replaces a table's default route.
pub fn set_route(route: &TableRoute, index: u32) -> Request {
    route_request(NEW_ROUTE, CREATE | REPLACE, route, Some(index))
}

pub fn delete_route(route: &TableRoute) -> Request {
    route_request(DELETE_ROUTE, 0, route, None)
}

fn route_request(kind: u16, flags: u16, route: &TableRoute, index: Option<u32>) -> Request {
    let header = [family_number(route.gateway), 0, 0, 0, 0, PROTOCOL, 0, UNICAST, 0, 0, 0, 0];
    let mut a = Attrs::new();
    a.u32(ROUTE_TABLE, route.table).bytes(ROUTE_GATEWAY, &octets(route.gateway));
    if let Some(index) = index {
        a.u32(ROUTE_INTERFACE, index);
    }
    Request::new(kind, flags, &header, &a)
}

/// Our tables' routes of a dump of all routes.
pub fn read_routes(answers: &[Answer], links: &BTreeMap<u32, &String>) -> Vec<TableRoute> {
    answers.iter().filter_map(|answer| read_route(answer, links)).collect()
}

fn read_route(answer: &Answer, links: &BTreeMap<u32, &String>) -> Option<TableRoute> {
    if *answer.body.get(1)? != 0 || *answer.body.get(5)? != PROTOCOL {
        return None;
    }
    let found = attributes(&answer.body, HEADER);
    Some(TableRoute {
        table: ne32(found.get(&ROUTE_TABLE)?)?,
        interface: (*links.get(&ne32(found.get(&ROUTE_INTERFACE)?)?)?).clone(),
        gateway: ip(found.get(&ROUTE_GATEWAY)?)?,
    })
}

/// Adds a link's route to `::1`.
pub fn set_loopback_route(index: u32) -> Request {
    let family = Family::V6.number();
    let header = [family, LOOPBACK_LENGTH, 0, 0, TABLE_LOCAL, PROTOCOL, 0, LOCAL, 0, 0, 0, 0];
    let mut a = Attrs::new();
    a.bytes(ROUTE_DESTINATION, &Ipv6Addr::LOCALHOST.octets()).u32(ROUTE_INTERFACE, index);
    // Each link has its own: it must not take another's place.
    Request::new(NEW_ROUTE, CREATE, &header, &a)
}

/// The links that have such a route of ours, of a dump of all routes.
pub fn read_loopback_routes(answers: &[Answer], links: &BTreeMap<u32, &String>) -> Vec<String> {
    let read = |answer: &Answer| {
        let is_ours = *answer.body.get(4)? == TABLE_LOCAL && *answer.body.get(5)? == PROTOCOL;
        let found = attributes(&answer.body, HEADER);
        let is_it = is_ours && *found.get(&ROUTE_DESTINATION)? == Ipv6Addr::LOCALHOST.octets();
        let link = links.get(&ne32(found.get(&ROUTE_INTERFACE)?)?)?;
        is_it.then(|| (*link).clone())
    };
    answers.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_routes_round_trip() {
        let actions = [RuleAction::Table(79_460_001), RuleAction::OthersGoto(982), RuleAction::Nothing];
        for action in actions {
            let (mark, mask) = if action == RuleAction::Nothing { (0, 0) } else { (0x7946_0001, 0xffff_ffff) };
            let rule = PolicyRule { family: Family::V6, priority: 981, mark, mask, action };
            let answer = Answer { message_type: NEW_RULE, body: add_rule(&rule).body };
            assert_eq!(read_rules(&[answer]), [rule]);
        }
        let foreign = Answer { message_type: NEW_RULE, body: vec![2, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0] };
        assert_eq!(read_rules(&[foreign]), []);
        let name = "mesh".to_owned();
        let route = TableRoute { table: 79_460_002, interface: name.clone(), gateway: "198.18.0.2".parse().unwrap() };
        let answer = Answer { message_type: NEW_ROUTE, body: set_route(&route, 5).body };
        let links = BTreeMap::from([(5, &name)]);
        assert_eq!(read_routes(&[answer], &links), [route]);
        let answer = Answer { message_type: NEW_ROUTE, body: set_loopback_route(5).body };
        assert_eq!(read_loopback_routes(&[answer], &links), std::slice::from_ref(&name));
    }
}
