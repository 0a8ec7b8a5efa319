//! The pure difference between wanted and seen, as operations in an order in which
//! they can succeed: removals, namespaces, links, addresses, sysctls, routes, rules.

use crate::nft::table::{self, Change};
use crate::plan::{DefaultRoute, Link, LinkKind, PlaceId, Seen, SeenLink, SeenPlace, Wanted, WantedPlace};
use ipnet::IpNet;
use skep_model::id::NetworkId;
use std::fmt;

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    CreateNamespace(NetworkId),
    RemoveNamespace(NetworkId),
    DeleteLink { place: PlaceId, name: String },
    CreateLink { place: PlaceId, name: String, link: Link },
    UpdateLink { place: PlaceId, name: String, link: Link },
    AddAddress { place: PlaceId, link: String, address: IpNet },
    RemoveAddress { place: PlaceId, link: String, address: IpNet },
    SetSysctl { place: PlaceId, key: String, value: String, optional: bool },
    SetDefaultRoute { place: PlaceId, route: DefaultRoute },
    Rules { place: PlaceId, changes: Vec<Change> },
}

impl Op {
    /// The namespace that changes.
    pub fn place(&self) -> Option<&PlaceId> {
        match self {
            Self::CreateNamespace(_) | Self::RemoveNamespace(_) => None,
            Self::DeleteLink { place, .. }
            | Self::CreateLink { place, .. }
            | Self::UpdateLink { place, .. }
            | Self::AddAddress { place, .. }
            | Self::RemoveAddress { place, .. }
            | Self::SetSysctl { place, .. }
            | Self::SetDefaultRoute { place, .. }
            | Self::Rules { place, .. } => Some(place),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNamespace(network) => write!(f, "overlay {network}: namespace is missing"),
            Self::RemoveNamespace(network) => write!(f, "overlay {network}: namespace is not wanted"),
            Self::DeleteLink { place, name } => write!(f, "{place}: link {name} is not wanted"),
            Self::CreateLink { place, name, .. } => write!(f, "{place}: link {name} is missing"),
            Self::UpdateLink { place, name, .. } => write!(f, "{place}: link {name} differs"),
            Self::AddAddress { place, link, address } => write!(f, "{place}: address {address} of {link} is missing"),
            Self::RemoveAddress { place, link, address } => {
                write!(f, "{place}: address {address} of {link} is not wanted")
            }
            Self::SetSysctl { place, key, value, .. } => write!(f, "{place}: sysctl {key} is not {value}"),
            Self::SetDefaultRoute { place, route } => {
                write!(f, "{place}: default route by {} over {} is missing", route.gateway, route.interface)
            }
            Self::Rules { place, changes } => write!(f, "{place}: packet rules differ in {} points", changes.len()),
        }
    }
}

/// What must be done; empty when the kernel is as wanted. Container namespaces that
/// are gone are left alone: their links died with them.
pub fn difference(wanted: &Wanted, seen: &Seen) -> Vec<Op> {
    let mut ops = Vec::new();
    removals(wanted, seen, &mut ops);
    let missing = SeenPlace::default();
    for (place, want) in &wanted.places {
        match (place, seen.places.get(place)) {
            (_, Some(have)) => place_difference(place, want, have, seen, &mut ops),
            (PlaceId::Container(_), None) => {}
            (PlaceId::Overlay(network), None) => {
                ops.push(Op::CreateNamespace(network.clone()));
                place_difference(place, want, &missing, seen, &mut ops);
            }
            (PlaceId::Host, None) => place_difference(place, want, &missing, seen, &mut ops),
        }
    }
    ops
}

/// What attaches containers: their ports where the containers lack the interface, and
/// everything inside the containers. The places of the ports were not looked at.
pub fn attachment(wanted: &Wanted, seen: &Seen) -> Vec<Op> {
    let mut ops = Vec::new();
    for (place, want) in &wanted.places {
        if let (PlaceId::Container(_), Some(have)) = (place, seen.places.get(place)) {
            place_difference(place, want, have, seen, &mut ops);
            continue;
        }
        for (name, link) in &want.links {
            let LinkKind::Port(port) = &link.kind else { continue };
            let container = seen.places.get(&PlaceId::Container(port.namespace.clone()));
            if container.is_some_and(|container| !container.links.contains_key(&port.interface)) {
                ops.push(Op::CreateLink { place: place.clone(), name: name.clone(), link: link.clone() });
            }
        }
    }
    ops
}

fn removals(wanted: &Wanted, seen: &Seen, ops: &mut Vec<Op>) {
    let nothing = WantedPlace::default();
    for (place, have) in &seen.places {
        match (place, wanted.places.get(place)) {
            (PlaceId::Container(_), _) => {}
            (PlaceId::Overlay(network), None) => ops.push(Op::RemoveNamespace(network.clone())),
            (_, want) => {
                let want = want.unwrap_or(&nothing);
                let extra = have.links.iter().filter(|(name, link)| is_leftover(place, name, link, want));
                ops.extend(extra.map(|(name, _)| Op::DeleteLink { place: place.clone(), name: name.clone() }));
                if !wanted.places.contains_key(place) && have.table.is_some() {
                    ops.push(Op::Rules { place: place.clone(), changes: vec![Change::DeleteTable] });
                }
            }
        }
        let Some(want) = wanted.places.get(place) else { continue };
        for name in broken_ports(want, have, seen) {
            ops.push(Op::DeleteLink { place: place.clone(), name });
        }
    }
}

/// A link that netd made and that nobody wants: marked as ours, or anything that is
/// plugged into an overlay's bridge.
fn is_leftover(place: &PlaceId, name: &str, link: &SeenLink, want: &WantedPlace) -> bool {
    if want.links.contains_key(name) {
        return false;
    }
    link.is_ours() || (matches!(place, PlaceId::Overlay(_)) && !link.bridge.is_empty())
}

/// Ports whose other end is not the wanted interface of the container any more.
fn broken_ports(want: &WantedPlace, have: &SeenPlace, seen: &Seen) -> Vec<String> {
    let is_broken = |name: &String, link: &Link| {
        let LinkKind::Port(port) = &link.kind else { return false };
        let container = seen.places.get(&PlaceId::Container(port.namespace.clone()));
        have.links.contains_key(name) && container.is_some_and(|place| !place.links.contains_key(&port.interface))
    };
    want.links.iter().filter(|(name, link)| is_broken(name, link)).map(|(name, _)| name.clone()).collect()
}

fn place_difference(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, seen: &Seen, ops: &mut Vec<Op>) {
    let broken = broken_ports(want, have, seen);
    links(place, want, have, seen, &broken, ops);
    for (link, address) in want.addresses.difference(&have.addresses) {
        ops.push(Op::AddAddress { place: place.clone(), link: link.clone(), address: *address });
    }
    for (link, address) in have.addresses.difference(&want.addresses) {
        // Of a bridge that we made every address is ours; elsewhere others may add some.
        let is_our_bridge = want.links.get(link).is_some_and(|wanted| matches!(wanted.kind, LinkKind::Bridge { .. }))
            && have.links.get(link).is_some_and(SeenLink::is_ours);
        if is_our_bridge {
            ops.push(Op::RemoveAddress { place: place.clone(), link: link.clone(), address: *address });
        }
    }
    let is_new = have.links.is_empty();
    for (key, value) in want.sysctls.iter().filter(|(key, value)| have.sysctls.get(*key) != Some(value)) {
        ops.push(Op::SetSysctl { place: place.clone(), key: key.clone(), value: value.clone(), optional: false });
    }
    for (key, value) in &want.optional_sysctls {
        if have.sysctls.get(key).map_or(is_new, |present| present != value) {
            ops.push(Op::SetSysctl { place: place.clone(), key: key.clone(), value: value.clone(), optional: true });
        }
    }
    for route in want.routes.difference(&have.routes) {
        ops.push(Op::SetDefaultRoute { place: place.clone(), route: route.clone() });
    }
    let changes = table::difference(want.table.as_ref(), have.table.as_ref());
    if !changes.is_empty() {
        ops.push(Op::Rules { place: place.clone(), changes });
    }
}

fn links(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, seen: &Seen, broken: &[String], ops: &mut Vec<Op>) {
    // Bridges come before what is plugged into them.
    let rank = |link: &Link| u8::from(!matches!(link.kind, LinkKind::Bridge { .. }));
    let mut ordered: Vec<_> = want.links.iter().collect();
    ordered.sort_by_key(|(_, link)| rank(link));
    for (name, link) in ordered {
        let present = have.links.get(name).filter(|_| !broken.contains(name));
        let op = match (&link.kind, present) {
            (LinkKind::Port(port), None) if !seen.places.contains_key(&PlaceId::Container(port.namespace.clone())) => {
                continue;
            }
            // A leg comes with its port, but down; loopback cannot be made.
            (LinkKind::Leg { .. }, None) => {
                Op::UpdateLink { place: place.clone(), name: name.clone(), link: link.clone() }
            }
            (LinkKind::Existing, None) if !have.links.is_empty() => continue,
            (LinkKind::Existing, None) => {
                Op::UpdateLink { place: place.clone(), name: name.clone(), link: link.clone() }
            }
            (_, None) => Op::CreateLink { place: place.clone(), name: name.clone(), link: link.clone() },
            (_, Some(present)) if is_as_wanted(link, present) => continue,
            (_, Some(_)) => Op::UpdateLink { place: place.clone(), name: name.clone(), link: link.clone() },
        };
        ops.push(op);
    }
}

fn is_as_wanted(link: &Link, present: &SeenLink) -> bool {
    let mac_fits = match link.kind {
        LinkKind::Leg { mac } => present.mac == mac,
        _ => true,
    };
    let port_fits = link.port.as_ref().is_none_or(|port| {
        present.bridge == port.bridge && present.hairpin == port.hairpin && present.isolated == port.isolated
    });
    // A bridge that existed before us is used, never marked as ours.
    let alias_fits = matches!(link.kind, LinkKind::Bridge { .. }) || present.alias == link.alias;
    let mtu_fits = link.mtu == 0 || present.mtu == link.mtu;
    present.up && mac_fits && port_fits && alias_fits && mtu_fits
}
