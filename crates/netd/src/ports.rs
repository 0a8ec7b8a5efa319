//! Host ports that are published are also held by a socket that nobody reads: another
//! program then gets "address in use" instead of silently losing its traffic to a
//! container, and we learn when another program was first.

use crate::desired::Desired;
use crate::nft::expression::Family;
use crate::rules::address_of;
use crate::sockets;
use skep_model::error::{Error, Result};
use skep_model::id::{EndpointId, ServiceId};
use skep_model::netstate::DesiredEndpoint;
use skep_model::network::Protocol;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

/// Who holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Endpoint(EndpointId),
    Ingress(ServiceId),
}

/// The ports that are held.
#[derive(Debug, Default)]
pub struct Ports {
    /// A protocol that has no socket here is held by name only.
    held: BTreeMap<HostPort, (Holder, Option<OwnedFd>)>,
}

impl Ports {
    /// Takes all ports or none.
    ///
    /// # Errors
    /// `Conflict` with Docker's text when one is taken.
    pub fn take(&mut self, wanted: &[(HostPort, Holder)]) -> Result<()> {
        let mut taken: Vec<HostPort> = Vec::new();
        for (port, holder) in wanted {
            match self.take_one(port, holder) {
                Ok(true) => taken.push(port.clone()),
                Ok(false) => {}
                Err(error) => {
                    for port in &taken {
                        self.held.remove(port);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes the held ports those wanted and returns what could not be taken, and why.
    pub fn converge(&mut self, wanted: &[(HostPort, Holder)]) -> BTreeMap<HostPort, String> {
        self.held.retain(|port, (holder, _)| wanted.iter().any(|(other, owner)| other == port && owner == holder));
        wanted
            .iter()
            .filter_map(|(port, holder)| self.take_one(port, holder).err().map(|error| (port.clone(), error.message)))
            .collect()
    }

    pub fn release(&mut self, gone: impl Fn(&Holder) -> bool) {
        self.held.retain(|_, (holder, _)| !gone(holder));
    }

    /// Whether the port is newly taken.
    fn take_one(&mut self, port: &HostPort, holder: &Holder) -> Result<bool> {
        let ip = port.address.ip();
        let overlaps = |other: &HostPort| {
            let theirs = other.address.ip();
            other.protocol == port.protocol
                && other.address.port() == port.address.port()
                && theirs.is_ipv4() == ip.is_ipv4()
                && (theirs == ip || theirs.is_unspecified() || ip.is_unspecified())
        };
        match self.held.iter().find(|(other, _)| overlaps(other)) {
            Some((other, (owner, _))) if other == port && owner == holder => return Ok(false),
            Some(_) => {
                return Err(Error::conflict(format!("Bind for {} failed: port is already allocated", port.address)));
            }
            None => {}
        }
        // A mesh port without a backend must refuse, which a listening socket would not.
        let backlog = (matches!(holder, Holder::Endpoint(_)) && port.protocol == Protocol::Tcp).then_some(1);
        let socket = match sockets::bound(port.protocol, port.address, backlog) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(error) => return Err(bind_error(port, &error)),
        };
        self.held.insert(port.clone(), (holder.clone(), socket));
        Ok(true)
    }
}

fn bind_error(port: &HostPort, error: &io::Error) -> Error {
    let family = if port.address.is_ipv4() { '4' } else { '6' };
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    let protocol = port.protocol.as_str();
    let address = port.address;
    Error::conflict(format!("Bind for {address} failed: listen {protocol}{family} {address}: bind: {reason}"))
}

/// The host ports of one endpoint.
pub fn of_endpoint(endpoint: &DesiredEndpoint) -> Vec<(HostPort, Holder)> {
    let mut ports = Vec::new();
    for port in &endpoint.ports {
        for (family, any) in
            [(Family::V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (Family::V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
        {
            let ip = port.host_ip.unwrap_or(any);
            if Family::of(ip) == family && address_of(&endpoint.addresses, family).is_some() {
                let address = SocketAddr::new(ip, port.host_port);
                let holder = Holder::Endpoint(endpoint.id.clone());
                ports.push((HostPort { protocol: port.protocol, address }, holder));
            }
        }
    }
    ports
}

/// Whether each port can lead from the address that it is wanted at into the container.
///
/// # Errors
/// The container has no address of that family.
pub fn check_families(endpoint: &DesiredEndpoint) -> Result<()> {
    for port in &endpoint.ports {
        let Some(ip) = port.host_ip else { continue };
        if address_of(&endpoint.addresses, Family::of(ip)).is_none() {
            let address = SocketAddr::new(ip, port.host_port);
            let (family, advice) = if ip.is_ipv4() { ("IPv4", "") } else { ("IPv6", ": make its network with --ipv6") };
            let text = format!("cannot publish {address}: the container has no {family} address{advice}");
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

/// All host ports of the desired state.
pub fn wanted(desired: &Desired, has_ipv6: bool) -> Vec<(HostPort, Holder)> {
    let any = [Some(Ipv4Addr::UNSPECIFIED.into()), has_ipv6.then_some(Ipv6Addr::UNSPECIFIED.into())];
    let ingress = desired.cluster.ingress.iter().flat_map(|port| {
        any.into_iter().flatten().map(|any: IpAddr| {
            let address = SocketAddr::new(any, port.published_port);
            (HostPort { protocol: port.protocol, address }, Holder::Ingress(port.service.clone()))
        })
    });
    desired.local.endpoints.iter().flat_map(of_endpoint).chain(ingress).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::id::{ContainerId, NetworkId};
    use skep_model::netstate::DesiredPort;

    fn port(text: &str) -> HostPort {
        HostPort { protocol: Protocol::Tcp, address: text.parse().unwrap() }
    }

    fn holder(name: &str) -> Holder {
        Holder::Endpoint(EndpointId(name.into()))
    }

    #[test]
    fn a_port_needs_a_container_of_its_family() {
        let check = |host_ip: Option<&str>, address: &str, expect: &str| {
            let port = DesiredPort {
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
            };
            let endpoint = DesiredEndpoint {
                id: EndpointId("e".into()),
                network: NetworkId("n".into()),
                container: ContainerId("c".into()),
                netns: "/ns".into(),
                interface: "eth0".into(),
                addresses: vec![address.parse().unwrap()],
                mac: [2, 0, 0, 0, 0, 1],
                default_route: true,
                dns_names: Vec::new(),
                ports: vec![port],
                sysctls: BTreeMap::new(),
            };
            let got = check_families(&endpoint).err().map(|error| error.message).unwrap_or_default();
            assert_eq!(got, expect);
        };
        check(None, "10.1.0.2/16", "");
        check(Some("127.0.0.1"), "10.1.0.2/16", "");
        check(Some("::1"), "fd00::2/64", "");
        let text = "cannot publish [::1]:8080: the container has no IPv6 address: make its network with --ipv6";
        check(Some("::1"), "10.1.0.2/16", text);
    }

    #[test]
    fn ports_conflict_with_ours_and_with_other_programs() {
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = foreign.local_addr().unwrap();
        let mut ports = Ports::default();
        let error = ports.take(&[(port(&taken.to_string()), holder("a"))]).unwrap_err();
        assert_eq!(
            error.message,
            format!("Bind for {taken} failed: listen tcp4 {taken}: bind: address already in use")
        );
        drop(foreign);

        ports.take(&[(port(&taken.to_string()), holder("a"))]).unwrap();
        ports.take(&[(port(&taken.to_string()), holder("a"))]).unwrap();
        let any = format!("0.0.0.0:{}", taken.port());
        let error = ports.take(&[(port(&any), holder("b"))]).unwrap_err();
        assert_eq!(error.message, format!("Bind for {any} failed: port is already allocated"));
        assert!(std::net::TcpListener::bind(taken).is_err());
        ports.release(|owner| *owner == holder("a"));
        assert!(std::net::TcpListener::bind(taken).is_ok());
    }
}
