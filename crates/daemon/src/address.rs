//! Which address this node shows to its swarm. The choice is pure; the interfaces are read
//! by [`interfaces`]. Error texts are those clients of the reference know.

use ipnet::IpNet;
use skep_model::{Error, Result};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The swarm's port.
pub(crate) const DEFAULT_PORT: u16 = 2377;

const MUST_SPECIFY_LISTEN_ADDR: &str = "must specify a listening address because the address to advertise is not \
     recognized as a system address, and a system's IP address to use could not be uniquely identified";
const BAD_LISTEN_ADDR: &str = "listen address must be an IP address or network interface (with optional port number)";
const BAD_ADVERTISE_ADDR: &str =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";
const BAD_DEFAULT_ADVERTISE_ADDR: &str =
    "default advertise address must be a non-zero IP address or network interface (without a port number)";
const BAD_DATA_PATH_ADDR: &str = "data path address must be a non-zero IP address or network interface";

/// A network interface with its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

/// An address with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// The interfaces of this machine.
pub(crate) fn interfaces() -> Vec<Interface> {
    use nix::net::if_::InterfaceFlags;
    let mut found: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let position = found.iter().position(|interface| interface.name == entry.interface_name);
        let position = position.unwrap_or_else(|| {
            found.push(Interface {
                name: entry.interface_name.clone(),
                up: entry.flags.contains(InterfaceFlags::IFF_UP),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                addresses: Vec::new(),
            });
            found.len() - 1
        });
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        found[position].addresses.extend(v4.or(v6));
    }
    found
}

/// Links of containers' networks, which no other node reaches.
const OWN_LINKS: [&str; 5] = ["docker0", "docker_gwbridge", "br-", "veth", "skep-"];
/// More than a machine is known by.
const ADDRESSES_MAX: usize = 32;

/// The addresses that other nodes may know this one by.
pub(crate) fn of_this_node() -> BTreeSet<IpAddr> {
    outer(&interfaces())
}

fn outer(interfaces: &[Interface]) -> BTreeSet<IpAddr> {
    let is_own = |interface: &&Interface| OWN_LINKS.iter().any(|own| interface.name.starts_with(own));
    let outer = interfaces.iter().filter(|interface| interface.up && !interface.loopback && !is_own(interface));
    let addresses = outer.flat_map(|interface| &interface.addresses).filter(|ip| !is_link_local(ip));
    addresses.copied().take(ADDRESSES_MAX).collect()
}

/// `host[:port]` to listen at; the host an address or an interface.
pub(crate) fn listen(text: &str, interfaces: &[Interface]) -> Result<Endpoint> {
    let text = if text.is_empty() { "0.0.0.0" } else { text };
    let (host, port) = split_port(text, DEFAULT_PORT)?;
    let ip = match of_interface(host, interfaces)? {
        Some(ip) => ip,
        None => host.parse().map_err(|_| Error::invalid(BAD_LISTEN_ADDR))?,
    };
    Ok(Endpoint { ip, port })
}

/// The address peers are told. `ours` are the subnets that this engine made, which no peer
/// could reach.
pub(crate) fn advertise(
    text: &str,
    default: &str,
    listen: Endpoint,
    interfaces: &[Interface],
    ours: &[IpNet],
) -> Result<Endpoint> {
    if !text.is_empty() {
        let (host, port) = split_port(text, listen.port)?;
        return Ok(Endpoint { ip: usable(host, interfaces, BAD_ADVERTISE_ADDR)?, port });
    }
    if !default.is_empty() {
        let ip = usable(default, interfaces, BAD_DEFAULT_ADVERTISE_ADDR)?;
        return Ok(Endpoint { ip, port: listen.port });
    }
    if !listen.ip.is_unspecified() {
        return Ok(listen);
    }
    Ok(Endpoint { ip: only_system_address(interfaces, ours)?, port: listen.port })
}

/// Checks that the node can listen where it says it is: an advertised address that is not
/// its own needs an own one besides.
pub(crate) fn check_local(
    listen: Endpoint,
    advertise: Endpoint,
    interfaces: &[Interface],
    ours: &[IpNet],
) -> Result<()> {
    let is_own = interfaces.iter().any(|interface| interface.addresses.contains(&advertise.ip));
    if !listen.ip.is_unspecified() || is_own {
        return Ok(());
    }
    only_system_address(interfaces, ours).map(|_| ()).map_err(|_| Error::invalid(MUST_SPECIFY_LISTEN_ADDR))
}

/// Address of the data path; empty is the advertised one.
pub(crate) fn data_path(text: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    usable(text, interfaces, BAD_DATA_PATH_ADDR).map(Some)
}

/// `host:port` of a manager, with the swarm's port if none is given.
pub(crate) fn remote(text: &str) -> Result<String> {
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    if text.is_empty() {
        return Err(Error::invalid(format!("invalid remoteAddr \"{text}\": invalid empty address")));
    }
    let (host, port) = split_port(text, DEFAULT_PORT)?;
    if host.contains(':') { Ok(format!("[{host}]:{port}")) } else { Ok(format!("{host}:{port}")) }
}

fn usable(host: &str, interfaces: &[Interface], bad: &str) -> Result<IpAddr> {
    if let Some(ip) = of_interface(host, interfaces)? {
        return Ok(ip);
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => Ok(ip),
        Ok(_) | Err(_) => Err(Error::invalid(bad)),
    }
}

fn split_port(text: &str, default: u16) -> Result<(&str, u16)> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, default));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().map_err(|_| Error::invalid(format!("could not parse listen address {text}")))?;
            Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
        }
        None => Ok((text.trim_start_matches('[').trim_end_matches(']'), default)),
    }
}

/// The one address of the interface called `name`, if there is such an interface.
fn of_interface(name: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>> {
    let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else { return Ok(None) };
    let family = |v4: bool| -> Result<Option<IpAddr>> {
        let mut addresses = interface.addresses.iter().filter(|ip| ip.is_ipv4() == v4 && (v4 || !is_link_local(ip)));
        let first = addresses.next().copied();
        match (first, addresses.next()) {
            (Some(first), Some(second)) => {
                let family = if v4 { "IPv4" } else { "IPv6" };
                Err(Error::invalid(format!(
                    "interface {name} has more than one {family} address ({first} and {second})"
                )))
            }
            (first, _) => Ok(first),
        }
    };
    match (family(true)?, family(false)?) {
        (Some(v4), _) => Ok(Some(v4)),
        (None, Some(v6)) => Ok(Some(v6)),
        (None, None) => Err(Error::invalid(format!("interface {name} has no usable IPv4 or IPv6 address"))),
    }
}

/// The system's only address, or an error that lists the choice.
fn only_system_address(interfaces: &[Interface], ours: &[IpNet]) -> Result<IpAddr> {
    let mut chosen: Option<(&str, IpAddr)> = None;
    for interface in interfaces.iter().filter(|interface| interface.up && !interface.loopback) {
        let usable =
            |ip: &&IpAddr| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && !is_link_local(ip);
        let addresses: Vec<IpAddr> = interface.addresses.iter().filter(usable).copied().collect();
        if addresses.iter().any(|ip| ours.iter().any(|net| net.contains(ip))) {
            continue;
        }
        for v4 in [true, false] {
            let mut family = addresses.iter().filter(|ip| ip.is_ipv4() == v4);
            if let (Some(first), Some(second)) = (family.next(), family.next()) {
                return Err(multiple((&interface.name, *first), (&interface.name, *second)));
            }
        }
        let Some(best) = addresses.iter().find(|ip| ip.is_ipv4()).or_else(|| addresses.first()) else { continue };
        if let Some(other) = chosen {
            return Err(multiple(other, (&interface.name, *best)));
        }
        chosen = Some((&interface.name, *best));
    }
    chosen.map(|(_, ip)| ip).ok_or_else(|| Error::invalid("could not find the system's IP address"))
}

fn multiple(a: (&str, IpAddr), b: (&str, IpAddr)) -> Error {
    let where_ = if a.0 == b.0 {
        format!("interface {} ({} and {})", a.0, a.1, b.1)
    } else {
        format!("different interfaces ({} on {} and {} on {})", a.1, a.0, b.1, b.0)
    };
    Error::invalid(format!(
        "could not choose an IP address to advertise since this system has multiple addresses on {where_} \
         - specify one with --advertise-addr"
    ))
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            up: true,
            loopback: name == "lo",
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn one() -> Vec<Interface> {
        vec![
            interface("lo", &["127.0.0.1", "::1"]),
            interface("eth0", &["10.99.0.1", "fe80::1"]),
            interface("docker0", &["172.17.0.1"]),
        ]
    }

    fn ours() -> Vec<IpNet> {
        vec!["172.17.0.0/16".parse().unwrap()]
    }

    fn check(text: &str, interfaces: &[Interface], expect: Result<&str, &str>) {
        let listen = listen("", interfaces).unwrap();
        let got = advertise(text, "", listen, interfaces, &ours());
        match (got, expect) {
            (Ok(endpoint), Ok(expect)) => assert_eq!(endpoint.to_string(), expect),
            (Err(error), Err(expect)) => assert!(error.message.contains(expect), "{text}: {error}"),
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn the_only_address_is_chosen_and_our_bridges_do_not_count() {
        check("", &one(), Ok("10.99.0.1:2377"));
        check("", &[interface("lo", &["127.0.0.1"])], Err("could not find the system's IP address"));
    }

    #[test]
    fn a_choice_is_the_users() {
        let mut two = one();
        two.push(interface("eth1", &["192.168.0.2"]));
        check(
            "",
            &two,
            Err("could not choose an IP address to advertise since this system has multiple addresses on different \
                 interfaces (10.99.0.1 on eth0 and 192.168.0.2 on eth1) - specify one with --advertise-addr"),
        );
        check("eth1", &two, Ok("192.168.0.2:2377"));
        check("eth1:7000", &two, Ok("192.168.0.2:7000"));
        check("", &[interface("eth0", &["10.0.0.1", "10.0.0.2"])], Err("on interface eth0 (10.0.0.1 and 10.0.0.2)"));
    }

    #[test]
    fn given_addresses_are_taken() {
        check("10.1.2.3", &one(), Ok("10.1.2.3:2377"));
        check("10.1.2.3:5000", &one(), Ok("10.1.2.3:5000"));
        check("fd00::1", &one(), Ok("[fd00::1]:2377"));
        check("[fd00::1]:5000", &one(), Ok("[fd00::1]:5000"));
        check("0.0.0.0", &one(), Err("advertise address must be a non-zero IP address"));
        check("no-such-interface", &one(), Err("advertise address must be a non-zero IP address"));
    }

    #[test]
    fn an_address_that_is_not_ours_needs_one_to_listen_at() {
        let none = [interface("lo", &["127.0.0.1"])];
        let everywhere = listen("", &none).unwrap();
        let foreign = advertise("1.2.3.4", "", everywhere, &none, &[]).unwrap();
        let error = check_local(everywhere, foreign, &none, &[]).unwrap_err();
        assert!(error.message.starts_with("must specify a listening address"));
        check_local(listen("127.0.0.1:1", &none).unwrap(), foreign, &none, &[]).unwrap();
        check_local(everywhere, foreign, &one(), &ours()).unwrap();
    }

    #[test]
    fn manager_addresses_get_the_usual_port() {
        for (text, expect) in
            [("h", "h:2377"), ("1.2.3.4:5", "1.2.3.4:5"), ("fd00::1", "[fd00::1]:2377"), ("tcp://h:1", "h:1")]
        {
            assert_eq!(remote(text).unwrap(), expect);
        }
        assert!(remote("").is_err());
        assert!(remote("h:port").is_err());
    }

    #[test]
    fn this_machine_has_a_loopback() {
        assert!(interfaces().iter().any(|interface| interface.loopback));
    }
}
