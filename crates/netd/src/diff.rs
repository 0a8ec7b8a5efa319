//! The pure difference between wanted and seen, as operations in an order in which
//! they can succeed: removals, namespaces, links, addresses, sysctls, routes, rules.

use crate::balance::ipvs::mesh::is_mesh;
use crate::balance::ipvs::table as ipvs;
use crate::nft::table::{self, Change, TableFamily};
use crate::plan::{
    DefaultRoute, Forwarding, Link, LinkKind, PlaceId, PolicyRule, Seen, SeenLink, SeenPlace, TableRoute, Tunnel,
    Wanted, WantedPlace,
};
use ipnet::IpNet;
use skep_model::id::NetworkId;
use std::collections::BTreeSet;
use std::fmt;

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    CreateNamespace(NetworkId),
    RemoveNamespace(NetworkId),
    DeleteLink {
        place: PlaceId,
        name: String,
    },
    CreateLink {
        place: PlaceId,
        name: String,
        link: Link,
    },
    UpdateLink {
        place: PlaceId,
        name: String,
        link: Link,
    },
    AddAddress {
        place: PlaceId,
        link: String,
        address: IpNet,
    },
    RemoveAddress {
        place: PlaceId,
        link: String,
        address: IpNet,
    },
    SetSysctl {
        place: PlaceId,
        key: String,
        value: String,
        optional: bool,
    },
    SetDefaultRoute {
        place: PlaceId,
        route: DefaultRoute,
    },
    AddForwarding {
        place: PlaceId,
        entry: Forwarding,
    },
    RemoveForwarding {
        place: PlaceId,
        entry: Forwarding,
    },
    AddPolicyRule {
        place: PlaceId,
        rule: PolicyRule,
    },
    RemovePolicyRule {
        place: PlaceId,
        rule: PolicyRule,
    },
    SetTableRoute {
        place: PlaceId,
        route: TableRoute,
    },
    RemoveTableRoute {
        place: PlaceId,
        route: TableRoute,
    },
    /// It goes with its link.
    SetLoopbackRoute {
        place: PlaceId,
        link: String,
    },
    Rules {
        place: PlaceId,
        family: TableFamily,
        changes: Vec<Change>,
    },
    Balance {
        place: PlaceId,
        changes: Vec<ipvs::Change>,
    },
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
            | Self::AddForwarding { place, .. }
            | Self::RemoveForwarding { place, .. }
            | Self::AddPolicyRule { place, .. }
            | Self::RemovePolicyRule { place, .. }
            | Self::SetTableRoute { place, .. }
            | Self::RemoveTableRoute { place, .. }
            | Self::SetLoopbackRoute { place, .. }
            | Self::Rules { place, .. }
            | Self::Balance { place, .. } => Some(place),
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
            Self::AddForwarding { place, entry } => write!(f, "{place}: forwarding of {entry} is missing"),
            Self::RemoveForwarding { place, entry } => write!(f, "{place}: forwarding of {entry} is not wanted"),
            Self::AddPolicyRule { place, rule } => write!(f, "{place}: routing rule {rule} is missing"),
            Self::RemovePolicyRule { place, rule } => write!(f, "{place}: routing rule {rule} is not wanted"),
            Self::SetTableRoute { place, route } => {
                write!(f, "{place}: route by {} of table {} is missing", route.gateway, route.table)
            }
            Self::RemoveTableRoute { place, route } => {
                write!(f, "{place}: route by {} of table {} is not wanted", route.gateway, route.table)
            }
            Self::SetLoopbackRoute { place, link } => write!(f, "{place}: route to ::1 of {link} is missing"),
            Self::Rules { place, family, changes } => {
                let what = if *family == TableFamily::Inet { "packet rules" } else { "rules for frames" };
                write!(f, "{place}: {what} differ in {} points", changes.len())
            }
            Self::Balance { place, changes } => {
                let first = changes.first().map(ToString::to_string).unwrap_or_default();
                write!(f, "{place}: balancing differs in {} points: {first}", changes.len())
            }
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
                stale_routing(place, want, have, ops);
                if !wanted.places.contains_key(place) && have.table.is_some() {
                    let (family, changes) = (TableFamily::Inet, vec![Change::DeleteTable]);
                    ops.push(Op::Rules { place: place.clone(), family, changes });
                }
                if !wanted.places.contains_key(place) {
                    balance(place, want, have, ops, |_| true);
                }
            }
        }
        let Some(want) = wanted.places.get(place) else { continue };
        for name in broken_links(want, have, seen) {
            ops.push(Op::DeleteLink { place: place.clone(), name });
        }
    }
}

fn stale_routing(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, ops: &mut Vec<Op>) {
    // The kernel tells rules apart by what they say, so a stale one goes before a new one comes.
    for rule in have.policy_rules.difference(&want.policy_rules) {
        ops.push(Op::RemovePolicyRule { place: place.clone(), rule: rule.clone() });
    }
    // A route goes with its link, and setting another in its table replaces it.
    let is_replaced = |route: &TableRoute| {
        let same =
            |other: &&TableRoute| other.table == route.table && other.gateway.is_ipv4() == route.gateway.is_ipv4();
        want.table_routes.iter().any(|other| same(&other)) || !want.links.contains_key(&route.interface)
    };
    for route in have.table_routes.difference(&want.table_routes).filter(|route| !is_replaced(route)) {
        ops.push(Op::RemoveTableRoute { place: place.clone(), route: route.clone() });
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

/// Ports whose other end is not the wanted interface of the container any more, and
/// tunnels that lead elsewhere.
fn broken_links(want: &WantedPlace, have: &SeenPlace, seen: &Seen) -> Vec<String> {
    let is_broken = |name: &String, link: &Link| {
        let Some(present) = have.links.get(name) else { return false };
        match &link.kind {
            LinkKind::Port(port) => {
                let container = seen.places.get(&PlaceId::Container(port.namespace.clone()));
                container.is_some_and(|place| !place.links.contains_key(&port.interface))
            }
            LinkKind::Vxlan(tunnel) => {
                let mac_differs = tunnel.mac.is_some_and(|mac| present.mac != mac);
                mac_differs || present.tunnel != Some(Tunnel { mac: None, ..tunnel.clone() })
            }
            LinkKind::Bridge { .. } | LinkKind::Leg { .. } | LinkKind::Existing => false,
        }
    };
    want.links.iter().filter(|(name, link)| is_broken(name, link)).map(|(name, _)| name.clone()).collect()
}

fn place_difference(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, seen: &Seen, ops: &mut Vec<Op>) {
    let broken = broken_links(want, have, seen);
    // A new port may send at once.
    let changes = table::difference(want.guard.as_ref(), have.guard.as_ref());
    if !changes.is_empty() {
        ops.push(Op::Rules { place: place.clone(), family: TableFamily::Bridge, changes });
    }
    links(place, want, have, seen, &broken, ops);
    addresses(place, want, have, &broken, ops);
    let is_new = have.links.is_empty();
    for (key, value) in want.sysctls.iter().filter(|(key, value)| have.sysctls.get(*key) != Some(value)) {
        ops.push(Op::SetSysctl { place: place.clone(), key: key.clone(), value: value.clone(), optional: false });
    }
    for (key, value) in &want.optional_sysctls {
        // `net/ipv6/conf/LINK/KEY` comes with its link.
        let link_is_new = key.split('/').nth(3).is_some_and(|link| !have.links.contains_key(link));
        let may_come = is_new || link_is_new;
        if have.sysctls.get(key).map_or(may_come, |present| present != value) {
            ops.push(Op::SetSysctl { place: place.clone(), key: key.clone(), value: value.clone(), optional: true });
        }
    }
    for route in want.routes.difference(&have.routes) {
        ops.push(Op::SetDefaultRoute { place: place.clone(), route: route.clone() });
    }
    forwarding(place, want, have, &broken, ops);
    let is_new = |link: &str| broken.iter().any(|name| name == link) || !have.links.contains_key(link);
    for route in want.table_routes.iter().filter(|route| is_new(&route.interface) || !have.table_routes.contains(route))
    {
        ops.push(Op::SetTableRoute { place: place.clone(), route: route.clone() });
    }
    for link in want.loopback_routes.iter().filter(|link| is_new(link) || !have.loopback_routes.contains(*link)) {
        ops.push(Op::SetLoopbackRoute { place: place.clone(), link: link.clone() });
    }
    for rule in want.policy_rules.difference(&have.policy_rules) {
        ops.push(Op::AddPolicyRule { place: place.clone(), rule: rule.clone() });
    }
    // Marked packets must find their service: it comes before the marking and goes after it.
    balance(place, want, have, ops, |change| !matches!(change, ipvs::Change::DeleteService(_)));
    let changes = table::difference(want.table.as_ref(), have.table.as_ref());
    if !changes.is_empty() {
        ops.push(Op::Rules { place: place.clone(), family: TableFamily::Inet, changes });
    }
    balance(place, want, have, ops, |change| matches!(change, ipvs::Change::DeleteService(_)));
}

/// What is to be done about IPVS alone.
pub fn balancing(place: &PlaceId, want: &WantedPlace, have: &SeenPlace) -> Vec<Op> {
    let mut ops = Vec::new();
    balance(place, want, have, &mut ops, |_| true);
    ops
}

/// On the host others may balance as well, so that only services of ours are taken away.
fn balance(
    place: &PlaceId,
    want: &WantedPlace,
    have: &SeenPlace,
    ops: &mut Vec<Op>,
    take: impl Fn(&ipvs::Change) -> bool,
) {
    let nothing = ipvs::SeenBalancing::default();
    let have = have.balanced.as_ref().unwrap_or(&nothing);
    let is_ours = |service: &ipvs::Service| *place != PlaceId::Host || is_mesh(service);
    let mut changes = ipvs::difference(want.balanced.as_ref(), have, is_ours);
    changes.retain(take);
    if !changes.is_empty() {
        ops.push(Op::Balance { place: place.clone(), changes });
    }
}

/// On a tunnel every fixed entry is ours; a new link has none.
fn forwarding(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, broken: &[String], ops: &mut Vec<Op>) {
    let is_tunnel = |name: &str| want.links.get(name).is_some_and(|link| matches!(link.kind, LinkKind::Vxlan(_)));
    let is_new = |entry: &Forwarding| broken.iter().any(|name| name == entry.link());
    // An entry that takes another's place replaces it without a gap.
    let places: BTreeSet<_> = want.forwarding.iter().map(Forwarding::place).collect();
    let stale = have.forwarding.difference(&want.forwarding).filter(|entry| !places.contains(&entry.place()));
    for entry in stale.filter(|entry| is_tunnel(entry.link()) && !is_new(entry)) {
        ops.push(Op::RemoveForwarding { place: place.clone(), entry: entry.clone() });
    }
    for entry in want.forwarding.iter().filter(|entry| is_new(entry) || !have.forwarding.contains(entry)) {
        ops.push(Op::AddForwarding { place: place.clone(), entry: entry.clone() });
    }
}

fn addresses(place: &PlaceId, want: &WantedPlace, have: &SeenPlace, broken: &[String], ops: &mut Vec<Op>) {
    // Of a bridge or tunnel that we made every address is ours; elsewhere others may add some.
    let is_ours = |link: &String| {
        want.links.get(link).is_some_and(|wanted| matches!(wanted.kind, LinkKind::Bridge { .. } | LinkKind::Vxlan(_)))
            && have.links.get(link).is_some_and(SeenLink::is_ours)
    };
    let extra = have.addresses.difference(&want.addresses).filter(|(link, _)| is_ours(link) && !broken.contains(link));
    let mut disturbed = BTreeSet::new();
    for (link, address) in extra {
        // The first address of a subnet takes the others with it.
        if address.prefix_len() < address.max_prefix_len() {
            disturbed.insert(link);
        }
        ops.push(Op::RemoveAddress { place: place.clone(), link: link.clone(), address: *address });
    }
    let is_missing = |(link, address): &&(String, IpNet)| {
        disturbed.contains(link) || broken.contains(link) || !have.addresses.contains(&(link.clone(), *address))
    };
    for (link, address) in want.addresses.iter().filter(is_missing) {
        ops.push(Op::AddAddress { place: place.clone(), link: link.clone(), address: *address });
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
        // Of one that existed before us the address is not ours to choose.
        LinkKind::Bridge { mac } => present.mac == mac || !present.is_ours(),
        _ => true,
    };
    let port_fits = link.port.as_ref().is_none_or(|port| {
        present.bridge == port.bridge
            && present.hairpin == port.hairpin
            && present.isolated == port.isolated
            && present.learning == port.learning
    });
    // A bridge that existed before us is used, never marked as ours.
    let alias_fits = matches!(link.kind, LinkKind::Bridge { .. }) || present.alias == link.alias;
    let mtu_fits = link.mtu == 0 || present.mtu == link.mtu;
    present.up && mac_fits && port_fits && alias_fits && mtu_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BridgePort, Port};
    use std::path::PathBuf;

    const NAMESPACE: &str = "/one";

    fn link(kind: LinkKind, alias: &str) -> Link {
        Link { kind, mtu: 1500, alias: alias.into(), port: None }
    }

    /// A bridge, a container's port in it, and the container's side.
    fn wanted() -> Wanted {
        let mut wanted = Wanted::default();
        let host = wanted.places.entry(PlaceId::Host).or_default();
        host.links.insert("a-port".into(), {
            let port = Port { namespace: NAMESPACE.into(), interface: "eth0".into(), mac: [2; 6] };
            let bridge = BridgePort { bridge: "br".into(), hairpin: true, isolated: false, learning: true };
            Link { port: Some(bridge), ..link(LinkKind::Port(port), "skep endpoint e") }
        });
        host.links.insert("br".into(), link(LinkKind::Bridge { mac: [2; 6] }, "skep network n"));
        host.addresses.insert(("br".into(), "10.0.0.1/24".parse().unwrap()));
        let container = wanted.places.entry(PlaceId::Container(NAMESPACE.into())).or_default();
        container.links.insert("eth0".into(), link(LinkKind::Leg { mac: [2; 6] }, ""));
        container.addresses.insert(("eth0".into(), "10.0.0.2/24".parse().unwrap()));
        wanted
    }

    fn seen_link(kind: &str, alias: &str, bridge: &str) -> SeenLink {
        SeenLink {
            index: 1,
            kind: kind.into(),
            up: true,
            mtu: 1500,
            mac: vec![2; 6],
            alias: alias.into(),
            bridge: bridge.into(),
            hairpin: !bridge.is_empty(),
            isolated: false,
            learning: true,
            tunnel: None,
        }
    }

    /// The kernel when everything is as wanted.
    fn seen() -> Seen {
        let mut seen = Seen::default();
        let host = seen.places.entry(PlaceId::Host).or_default();
        host.links.insert("lo".into(), seen_link("", "", ""));
        host.links.insert("br".into(), seen_link("bridge", "skep network n", ""));
        host.links.insert("a-port".into(), seen_link("veth", "skep endpoint e", "br"));
        host.addresses.insert(("br".into(), "10.0.0.1/24".parse().unwrap()));
        let container = seen.places.entry(PlaceId::Container(NAMESPACE.into())).or_default();
        container.links.insert("eth0".into(), seen_link("veth", "", ""));
        container.addresses.insert(("eth0".into(), "10.0.0.2/24".parse().unwrap()));
        seen
    }

    fn check(change: impl FnOnce(&mut Wanted, &mut Seen), expect: &[&str]) {
        let (mut wanted, mut seen) = (wanted(), seen());
        change(&mut wanted, &mut seen);
        let lines: Vec<String> = difference(&wanted, &seen).iter().map(ToString::to_string).collect();
        assert_eq!(lines, expect);
    }

    fn host(seen: &mut Seen) -> &mut SeenPlace {
        seen.places.get_mut(&PlaceId::Host).unwrap()
    }

    #[test]
    fn nothing_differs_nothing_is_done() {
        check(|_, _| {}, &[]);
    }

    #[test]
    fn bridges_come_before_ports_and_ports_before_legs() {
        check(
            |_, seen| {
                seen.places.get_mut(&PlaceId::Container(PathBuf::from(NAMESPACE))).unwrap().links.clear();
                *host(seen) =
                    SeenPlace { links: [("lo".to_owned(), seen_link("", "", ""))].into(), ..SeenPlace::default() };
            },
            &[
                "host: link br is missing",
                "host: link a-port is missing",
                "host: address 10.0.0.1/24 of br is missing",
                "namespace /one: link eth0 differs",
            ],
        );
    }

    #[test]
    fn a_dead_container_is_left_alone() {
        check(
            |_, seen| {
                seen.places.remove(&PlaceId::Container(NAMESPACE.into()));
                host(seen).links.remove("a-port");
            },
            &[],
        );
    }

    #[test]
    fn a_port_whose_other_end_is_gone_is_made_anew() {
        check(
            |_, seen| {
                let container = seen.places.get_mut(&PlaceId::Container(NAMESPACE.into())).unwrap();
                *container =
                    SeenPlace { links: [("lo".to_owned(), seen_link("", "", ""))].into(), ..SeenPlace::default() };
            },
            &[
                "host: link a-port is not wanted",
                "host: link a-port is missing",
                "namespace /one: link eth0 differs",
                "namespace /one: address 10.0.0.2/24 of eth0 is missing",
            ],
        );
    }

    #[test]
    fn only_our_own_links_and_addresses_are_removed() {
        check(
            |_, seen| {
                let host = host(seen);
                host.links.insert("docker0".into(), seen_link("bridge", "", ""));
                host.links.insert("eth9".into(), seen_link("", "uplink", ""));
                host.links.insert("old".into(), seen_link("veth", "skep endpoint gone", "br"));
                host.addresses.insert(("eth9".into(), "10.9.0.1/24".parse().unwrap()));
                host.addresses.insert(("br".into(), "10.0.0.77/24".parse().unwrap()));
            },
            &[
                "host: link old is not wanted",
                "host: address 10.0.0.77/24 of br is not wanted",
                "host: address 10.0.0.1/24 of br is missing",
            ],
        );
    }

    #[test]
    fn overlay_namespaces_come_and_go() {
        check(
            |wanted, seen| {
                wanted.places.insert(PlaceId::Overlay(NetworkId("new".into())), WantedPlace::default());
                seen.places.insert(PlaceId::Overlay(NetworkId("old".into())), SeenPlace::default());
            },
            &["overlay old: namespace is not wanted", "overlay new: namespace is missing"],
        );
    }
}
