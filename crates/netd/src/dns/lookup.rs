//! Which answer a name has for one namespace: a pure function of the desired state.

use crate::desired::Desired;
use skep_model::netstate::{Backend, DesiredEndpoint, DesiredNetwork, DesiredService, NetworkKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

const TASKS_PREFIX: &str = "tasks.";

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The name is ours; addresses of every family.
    Addresses(Vec<IpAddr>),
    /// An address of ours has this name.
    Name(String),
    /// The address lies in one of the container's networks, but nobody has it.
    NoSuchName,
    /// Not ours; upstream may know.
    Foreign,
    /// Not ours, and the container has no way out.
    Unreachable,
}

/// Looks a name up, given in lower case and without the final dot.
pub fn lookup(desired: &Desired, namespace: &Path, name: &str) -> Known {
    let networks = networks_of(desired, namespace);
    if let Some(address) = reverse_address(name) {
        return reverse(desired, &networks, address).unwrap_or_else(|| foreign(&networks));
    }
    let exact = networks.iter().find_map(|network| on_network(desired, network, name));
    let found = exact.or_else(|| qualified(desired, &networks, name));
    found.map_or_else(|| foreign(&networks), Known::Addresses)
}

fn foreign(networks: &[&DesiredNetwork]) -> Known {
    if !networks.is_empty() && networks.iter().all(|network| network.internal) {
        Known::Unreachable
    } else {
        Known::Foreign
    }
}

/// The namespace's networks that have names: the swarm's before the local ones.
fn networks_of<'a>(desired: &'a Desired, namespace: &Path) -> Vec<&'a DesiredNetwork> {
    let legs = desired.local.endpoints.iter().filter(|endpoint| endpoint.netns == namespace);
    let mut networks: Vec<_> =
        legs.filter_map(|leg| desired.network(&leg.network)).filter(|network| network.dns).collect();
    networks.sort_by_key(|network| matches!(network.kind, NetworkKind::Bridge { .. }));
    networks
}

/// `NAME.NETWORK`, where both may hold dots.
fn qualified(desired: &Desired, networks: &[&DesiredNetwork], name: &str) -> Option<Vec<IpAddr>> {
    name.match_indices('.').find_map(|(dot, _)| {
        let (host, network_name) = (&name[..dot], &name[dot + 1..]);
        networks
            .iter()
            .filter(|network| network.name.eq_ignore_ascii_case(network_name))
            .find_map(|network| on_network(desired, network, host))
    })
}

fn on_network(desired: &Desired, network: &DesiredNetwork, name: &str) -> Option<Vec<IpAddr>> {
    if name.is_empty() {
        return None;
    }
    service_addresses(desired, network, name).or_else(|| endpoint_addresses(desired, network, name))
}

fn service_addresses(desired: &Desired, network: &DesiredNetwork, name: &str) -> Option<Vec<IpAddr>> {
    let services = || services_on(desired, network);
    let is_called = |service: &DesiredService, name: &str| {
        service.name.eq_ignore_ascii_case(name) || service.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    };
    let mut called: Vec<IpAddr> = Vec::new();
    let mut is_known = false;
    for service in services().filter(|service| is_called(service, name)) {
        is_known = true;
        if service.vips().next().is_none() {
            called.extend(running(service));
        }
        called.extend(service.vips());
    }
    if is_known {
        return Some(called);
    }
    if let Some(service) = name.strip_prefix(TASKS_PREFIX)
        && services().any(|other| is_called(other, service))
    {
        return Some(services().filter(|other| is_called(other, service)).flat_map(running).collect());
    }
    let tasks: Vec<IpAddr> = services()
        .flat_map(|service| &service.backends)
        .filter(|backend| !backend.name.is_empty() && backend.name.eq_ignore_ascii_case(name))
        .map(|backend| backend.address)
        .collect();
    (!tasks.is_empty()).then_some(tasks)
}

fn services_on<'a>(desired: &'a Desired, network: &'a DesiredNetwork) -> impl Iterator<Item = &'a DesiredService> {
    desired.cluster.services.iter().filter(move |service| service.network == network.id)
}

/// The addresses of the tasks that take new connections.
fn running(service: &DesiredService) -> impl Iterator<Item = IpAddr> {
    service.backends.iter().filter(|backend: &&Backend| backend.weight > 0).map(|backend| backend.address)
}

fn endpoint_addresses(desired: &Desired, network: &DesiredNetwork, name: &str) -> Option<Vec<IpAddr>> {
    let is_called = |endpoint: &&DesiredEndpoint| {
        endpoint.network == network.id && endpoint.dns_names.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    let mut found = desired.local.endpoints.iter().filter(is_called).peekable();
    found.peek()?;
    Some(found.flat_map(|endpoint| &endpoint.addresses).map(ipnet::IpNet::addr).collect())
}

fn reverse(desired: &Desired, networks: &[&DesiredNetwork], address: IpAddr) -> Option<Known> {
    let name_on = |network: &&DesiredNetwork| {
        let endpoint = desired.local.endpoints.iter().find(|endpoint| {
            endpoint.network == network.id && endpoint.addresses.iter().any(|other| other.addr() == address)
        });
        let of_endpoint = || endpoint.and_then(|endpoint| endpoint.dns_names.first().cloned());
        let of_service = || {
            services_on(desired, network)
                .find(|service| service.vips().any(|vip| vip == address))
                .map(|service| service.name.clone())
        };
        let of_backend = || {
            let mut backends = services_on(desired, network).flat_map(|service| &service.backends);
            let backend = backends.find(|backend| backend.address == address && !backend.name.is_empty())?;
            Some(backend.name.clone())
        };
        let name = of_service().or_else(of_backend).or_else(of_endpoint)?;
        Some(Known::Name(format!("{name}.{}", network.name)))
    };
    if let Some(known) = networks.iter().find_map(name_on) {
        return Some(known);
    }
    let is_inside = |network: &&DesiredNetwork| network.subnets.iter().any(|subnet| subnet.net.contains(&address));
    networks.iter().any(is_inside).then_some(Known::NoSuchName)
}

/// The address that `4.3.2.1.in-addr.arpa` or the long form of IPv6 asks for.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels.split('.').rev().map(|label| label.parse().ok()).collect::<Option<_>>()?;
        return <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let nibble = |label: &str| if label.len() == 1 { u8::from_str_radix(label, 16).ok() } else { None };
    let nibbles: Vec<u8> = labels.split('.').rev().map(nibble).collect::<Option<_>>()?;
    let octets: Vec<u8> =
        nibbles.chunks(2).map(|pair| pair.iter().fold(0, |byte, nibble| (byte << 4) | nibble)).collect();
    (nibbles.len() == 32).then(|| <[u8; 16]>::try_from(octets).ok())?.map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::id::{ContainerId, EndpointId, NetworkId, ServiceId, TaskId};
    use skep_model::netstate::Subnet;
    use std::collections::BTreeMap;

    fn network(id: &str, name: &str, kind: NetworkKind, third: u8) -> DesiredNetwork {
        DesiredNetwork {
            id: NetworkId(id.into()),
            name: name.into(),
            kind,
            subnets: vec![Subnet { net: format!("10.0.{third}.0/24").parse().unwrap(), gateway: None }],
            internal: false,
            mtu: 0,
            dns: true,
        }
    }

    fn leg(network: &str, namespace: &str, address: &str, names: &[&str]) -> DesiredEndpoint {
        DesiredEndpoint {
            id: EndpointId(format!("{network}{address}")),
            network: NetworkId(network.into()),
            container: ContainerId(namespace.into()),
            netns: namespace.into(),
            interface: "eth0".into(),
            addresses: vec![format!("{address}/24").parse().unwrap()],
            mac: [2; 6],
            default_route: false,
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ports: Vec::new(),
            sysctls: BTreeMap::new(),
        }
    }

    fn service(name: &str, vip: Option<&str>, backends: &[(&str, u16)]) -> DesiredService {
        let backend = |(address, weight): &(&str, u16)| Backend {
            task: TaskId((*address).to_owned()),
            address: address.parse().unwrap(),
            name: format!("{name}.1.{address}"),
            weight: *weight,
        };
        DesiredService {
            id: ServiceId(name.into()),
            name: name.into(),
            aliases: vec![format!("{name}-alias")],
            network: NetworkId("ov".into()),
            vip: vip.map(|vip| vip.parse().unwrap()),
            vip_ipv6: vip.map(|vip| format!("fd00::{}", vip.rsplit('.').next().unwrap()).parse().unwrap()),
            backends: backends.iter().map(backend).collect(),
        }
    }

    fn world() -> Desired {
        let bridge = NetworkKind::Bridge { bridge: "br".into(), inter_container: true, masquerade: true };
        let mut desired = Desired::default();
        desired.local.networks =
            vec![network("a", "front", bridge.clone(), 1), network("b", "my.back", bridge.clone(), 2)];
        let mut closed = network("c", "closed", bridge, 3);
        closed.internal = true;
        desired.local.networks.push(closed);
        desired.cluster.networks = vec![network("ov", "mesh", NetworkKind::Overlay { vni: 4097, vxlan_port: 4789 }, 9)];
        desired.cluster.services = vec![
            service("web", Some("10.0.9.5"), &[("10.0.9.10", 1), ("10.0.9.11", 0), ("fd00::10", 1)]),
            service("rr", None, &[("10.0.9.20", 1), ("10.0.9.21", 1)]),
        ];
        desired.local.endpoints = vec![
            leg("a", "/one", "10.0.1.2", &["one", "0123456789ab"]),
            leg("b", "/one", "10.0.2.2", &["one"]),
            leg("a", "/two", "10.0.1.3", &["Two"]),
            leg("b", "/three", "10.0.2.3", &["three"]),
            leg("c", "/four", "10.0.3.2", &["four"]),
            leg("ov", "/task", "10.0.9.10", &["web.1.x"]),
        ];
        desired
    }

    fn check(namespace: &str, name: &str, expect: &str) {
        let text = match lookup(&world(), Path::new(namespace), name) {
            Known::Addresses(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Known::Name(name) => name,
            other => format!("{other:?}"),
        };
        assert_eq!(text, expect, "{namespace} {name}");
    }

    #[test]
    fn containers_see_the_names_of_their_networks_only() {
        check("/two", "one", "10.0.1.2");
        check("/two", "0123456789ab", "10.0.1.2");
        check("/one", "two", "10.0.1.3");
        check("/two", "three", "Foreign");
        check("/one", "three.my.back", "10.0.2.3");
        check("/one", "one.my.back", "10.0.2.2");
        check("/one", "one.nowhere", "Foreign");
        check("/one", "", "Foreign");
        check("/one", ".", "Foreign");
        check("/four", "example.com", "Unreachable");
    }

    #[test]
    fn services_answer_with_their_address_or_their_tasks() {
        check("/task", "web", "10.0.9.5 fd00::5");
        check("/task", "web-alias.mesh", "10.0.9.5 fd00::5");
        check("/task", "tasks.web", "10.0.9.10 fd00::10");
        check("/task", "tasks.web.mesh", "10.0.9.10 fd00::10");
        check("/task", "rr", "10.0.9.20 10.0.9.21");
        check("/task", "rr.1.10.0.9.21", "10.0.9.21");
        check("/one", "web", "Foreign");
    }

    #[test]
    fn addresses_have_names_too() {
        check("/one", "3.1.0.10.in-addr.arpa", "Two.front");
        check("/one", "9.1.0.10.in-addr.arpa", "NoSuchName");
        check("/task", "5.9.0.10.in-addr.arpa", "web.mesh");
        let zeros = "0.".repeat(24);
        check("/task", &format!("5.0.0.0.{zeros}0.0.d.f.ip6.arpa"), "web.mesh");
        check("/task", &format!("0.1.0.0.{zeros}0.0.d.f.ip6.arpa"), "web.1.fd00::10.mesh");
        check("/one", "8.8.8.8.in-addr.arpa", "Foreign");
        check("/one", "300.1.0.10.in-addr.arpa", "Foreign");
        check("/one", "1.ip6.arpa", "Foreign");
    }
}
