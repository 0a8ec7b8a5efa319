//! Routing netlink: requests for links, addresses and routes, and readers of their dumps.

use crate::kernel::netlink::{Answer, Attrs, CREATE, EXCLUSIVE, REPLACE, Request, attributes, ne32, text};
use crate::plan::{BridgePort, Link, LinkKind, SeenLink, Tunnel};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const NEW_NAMESPACE_ID: u16 = 88;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_MODE: u16 = 4;
const BRPORT_LEARNING: u16 = 8;
const BRPORT_ISOLATED: u16 = 33;
const VETH_PEER: u16 = 1;
const BRIDGE_STP_STATE: u16 = 5;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PROXY: u16 = 11;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;
const VXLAN_UDP_CHECKSUM: u16 = 18;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate-address detection: the address was allocated, and waiting a second is not an option.
const ADDRESS_NO_DAD: u32 = 2;
const SCOPE_LINK: u8 = 253;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const ROUTE_UNICAST: u8 = 1;

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Creates a link, up. `bridge` is the index of its bridge; `peer_namespace` the open
/// namespace of a container's leg.
pub fn create_link(name: &str, link: &Link, bridge: Option<u32>, target_namespace: Option<RawFd>) -> Request {
    let mut a = Attrs::new();
    a.text(IFLA_IFNAME, name);
    if link.mtu > 0 {
        a.u32(IFLA_MTU, link.mtu);
    }
    if let Some(bridge) = bridge {
        a.u32(IFLA_MASTER, bridge);
    }
    // A tunnel moves there itself; of a pair only the peer does.
    let mut flags = IFF_UP;
    match &link.kind {
        LinkKind::Bridge { mac } => {
            a.bytes(IFLA_ADDRESS, mac).nest(IFLA_LINKINFO, |info| {
                info.bytes(INFO_KIND, b"bridge").nest(INFO_DATA, |data| {
                    data.u32(BRIDGE_STP_STATE, 0).u32(BRIDGE_FORWARD_DELAY, 0);
                });
            });
        }
        LinkKind::Port(port) => {
            // The kernel refuses to create the peer up, because its pair is not complete yet.
            let mut peer = link_header(0, 0, 0).to_vec();
            let mut p = Attrs::new();
            p.text(IFLA_IFNAME, &port.interface).bytes(IFLA_ADDRESS, &port.mac);
            if link.mtu > 0 {
                p.u32(IFLA_MTU, link.mtu);
            }
            if let Some(fd) = target_namespace {
                p.bytes(IFLA_NET_NS_FD, &fd.to_ne_bytes());
            }
            peer.extend_from_slice(&p.0);
            a.nest(IFLA_LINKINFO, |info| {
                info.bytes(INFO_KIND, b"veth").nest(INFO_DATA, |data| {
                    data.bytes(VETH_PEER, &peer);
                });
            });
        }
        LinkKind::Vxlan(tunnel) => {
            flags = 0;
            write_tunnel(&mut a, tunnel, target_namespace);
        }
        LinkKind::Leg { .. } | LinkKind::Existing => {}
    }
    Request::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, flags, flags), &a)
}

fn write_tunnel(a: &mut Attrs, tunnel: &Tunnel, target_namespace: Option<RawFd>) {
    if let Some(fd) = target_namespace {
        a.bytes(IFLA_NET_NS_FD, &fd.to_ne_bytes());
    }
    if let Some(mac) = tunnel.mac {
        a.bytes(IFLA_ADDRESS, &mac);
    }
    a.nest(IFLA_LINKINFO, |info| {
        info.bytes(INFO_KIND, b"vxlan").nest(INFO_DATA, |data| {
            data.u32(VXLAN_ID, tunnel.vni).u8(VXLAN_LEARNING, 0).u8(VXLAN_PROXY, 1);
            data.bytes(VXLAN_PORT, &tunnel.port.to_be_bytes()).u8(VXLAN_UDP_CHECKSUM, 1);
            match tunnel.local {
                Some(IpAddr::V4(v4)) => drop(data.bytes(VXLAN_LOCAL, &v4.octets())),
                Some(IpAddr::V6(v6)) => drop(data.bytes(VXLAN_LOCAL6, &v6.octets())),
                None => {}
            }
        });
    });
}

/// The settings that cannot be given at creation, and the repair of all settings.
pub fn update_link(name: &str, link: &Link, bridge: Option<u32>) -> Request {
    let mut a = Attrs::new();
    a.text(IFLA_IFNAME, name);
    if link.mtu > 0 {
        a.u32(IFLA_MTU, link.mtu);
    }
    if !link.alias.is_empty() {
        a.bytes(IFLA_IFALIAS, link.alias.as_bytes());
    }
    if let Some(bridge) = bridge {
        a.u32(IFLA_MASTER, bridge);
    }
    if let LinkKind::Leg { mac } | LinkKind::Bridge { mac } = link.kind {
        a.bytes(IFLA_ADDRESS, &mac);
    }
    Request::new(NEW_LINK, 0, &link_header(0, IFF_UP, IFF_UP), &a)
}

/// Sets the bridge port's flags; the link must be plugged in already.
pub fn update_port(name: &str, port: &BridgePort) -> Request {
    let mut a = Attrs::new();
    a.text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.bytes(INFO_SLAVE_KIND, b"bridge").nest(INFO_SLAVE_DATA, |data| {
            data.u8(BRPORT_MODE, u8::from(port.hairpin)).u8(BRPORT_ISOLATED, u8::from(port.isolated));
            data.u8(BRPORT_LEARNING, u8::from(port.learning));
        });
    });
    Request::new(NEW_LINK, 0, &link_header(0, 0, 0), &a)
}

pub fn delete_link(name: &str) -> Request {
    let mut a = Attrs::new();
    a.text(IFLA_IFNAME, name);
    Request::new(DELETE_LINK, 0, &link_header(0, 0, 0), &a)
}

pub fn get_link(name: &str) -> Request {
    let mut a = Attrs::new();
    a.text(IFLA_IFNAME, name);
    Request::new(GET_LINK, 0, &link_header(0, 0, 0), &a)
}

/// Has the kernel choose a number for a namespace, by which this one knows it.
pub fn number_namespace(namespace: RawFd) -> Request {
    const NUMBER: u16 = 1;
    const DESCRIPTOR: u16 = 3;
    const ANY: i32 = -1;
    let mut a = Attrs::new();
    a.bytes(NUMBER, &ANY.to_ne_bytes()).bytes(DESCRIPTOR, &namespace.to_ne_bytes());
    Request::new(NEW_NAMESPACE_ID, 0, &[0; 4], &a)
}

pub fn dump_links() -> Request {
    Request::new(GET_LINK, 0, &link_header(0, 0, 0), &Attrs::new())
}

pub fn dump_addresses() -> Request {
    Request::new(GET_ADDRESS, 0, &[0; ADDRESS_HEADER], &Attrs::new())
}

pub fn dump_routes() -> Request {
    Request::new(GET_ROUTE, 0, &[0; ROUTE_HEADER], &Attrs::new())
}

pub fn add_address(index: u32, address: IpNet) -> Request {
    address_request(NEW_ADDRESS, CREATE | REPLACE, index, address)
}

pub fn delete_address(index: u32, address: IpNet) -> Request {
    address_request(DELETE_ADDRESS, 0, index, address)
}

fn address_request(kind: u16, flags: u16, index: u32, address: IpNet) -> Request {
    let family = family_number(address.addr());
    let mut header = vec![family, address.prefix_len(), 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    let bytes = crate::nft::expression::octets(address.addr());
    let mut a = Attrs::new();
    a.bytes(IFA_LOCAL, &bytes).bytes(IFA_ADDRESS, &bytes);
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            a.bytes(IFA_BROADCAST, &v4.broadcast().octets());
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => {
            a.u32(IFA_FLAGS, ADDRESS_NO_DAD);
        }
    }
    Request::new(kind, flags, &header, &a)
}

/// Adds or replaces the default route.
pub fn set_default_route(index: u32, gateway: IpAddr) -> Request {
    let header = [family_number(gateway), 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, ROUTE_UNICAST, 0, 0, 0, 0];
    let mut a = Attrs::new();
    a.u32(RTA_OIF, index).bytes(RTA_GATEWAY, &crate::nft::expression::octets(gateway));
    Request::new(NEW_ROUTE, CREATE | REPLACE, &header, &a)
}

pub(super) fn family_number(address: IpAddr) -> u8 {
    crate::nft::expression::Family::of(address).number()
}

/// The index of a link in an answer.
pub fn link_index(answer: &Answer) -> Option<u32> {
    ne32(answer.body.get(4..8)?)
}

/// Links by name; bridges are named, not numbered, in the result.
pub fn read_links(answers: &[Answer]) -> BTreeMap<String, SeenLink> {
    let names: BTreeMap<u32, String> = answers
        .iter()
        .filter_map(|answer| {
            let name = text(attributes(&answer.body, LINK_HEADER).get(&IFLA_IFNAME)?);
            Some((link_index(answer)?, name))
        })
        .collect();
    answers.iter().filter_map(|answer| read_link(answer, &names)).collect()
}

fn read_link(answer: &Answer, names: &BTreeMap<u32, String>) -> Option<(String, SeenLink)> {
    let index = link_index(answer)?;
    let flags = ne32(answer.body.get(8..12)?)?;
    let found = attributes(&answer.body, LINK_HEADER);
    let info = found.get(&IFLA_LINKINFO).map(|info| attributes(info, 0)).unwrap_or_default();
    let port = info.get(&INFO_SLAVE_DATA).map(|data| attributes(data, 0)).unwrap_or_default();
    let port_flag = |kind: u16| port.get(&kind).is_some_and(|value| value.first() == Some(&1));
    let bridge = found.get(&IFLA_MASTER).and_then(|index| names.get(&ne32(index)?).cloned());
    let kind = info.get(&INFO_KIND).map(|kind| text(kind)).unwrap_or_default();
    let link = SeenLink {
        index,
        kind: kind.clone(),
        up: flags & IFF_UP != 0,
        mtu: found.get(&IFLA_MTU).and_then(|mtu| ne32(mtu)).unwrap_or_default(),
        mac: found.get(&IFLA_ADDRESS).map(|mac| mac.to_vec()).unwrap_or_default(),
        alias: found.get(&IFLA_IFALIAS).map(|alias| text(alias)).unwrap_or_default(),
        bridge: bridge.unwrap_or_default(),
        hairpin: port_flag(BRPORT_MODE),
        isolated: port_flag(BRPORT_ISOLATED),
        learning: port_flag(BRPORT_LEARNING),
        tunnel: info.get(&INFO_DATA).filter(|_| kind == "vxlan").and_then(|data| read_tunnel(data)),
    };
    Some((names.get(&index)?.clone(), link))
}

fn read_tunnel(data: &[u8]) -> Option<Tunnel> {
    let found = attributes(data, 0);
    let port = found.get(&VXLAN_PORT)?.get(..2)?.try_into().ok()?;
    let local = found.get(&VXLAN_LOCAL).or_else(|| found.get(&VXLAN_LOCAL6)).and_then(|address| ip(address));
    Some(Tunnel { vni: ne32(found.get(&VXLAN_ID)?)?, port: u16::from_be_bytes(port), local, mac: None })
}

/// Addresses as (link index, address); link-local ones of IPv6 are the kernel's own.
pub fn read_addresses(answers: &[Answer]) -> Vec<(u32, IpNet)> {
    let read = |answer: &Answer| {
        let prefix = *answer.body.get(1)?;
        if *answer.body.get(3)? == SCOPE_LINK && *answer.body.first()? != family_number(Ipv4Addr::UNSPECIFIED.into()) {
            return None;
        }
        let index = ne32(answer.body.get(4..8)?)?;
        let found = attributes(&answer.body, ADDRESS_HEADER);
        let address = ip(found.get(&IFA_LOCAL).or_else(|| found.get(&IFA_ADDRESS))?)?;
        Some((index, IpNet::new(address, prefix).ok()?))
    };
    answers.iter().filter_map(read).collect()
}

/// Default routes of the main table that have a gateway, as (link index, gateway).
pub fn read_default_routes(answers: &[Answer]) -> Vec<(u32, IpAddr)> {
    let read = |answer: &Answer| {
        let found = attributes(&answer.body, ROUTE_HEADER);
        let is_default = *answer.body.get(1)? == 0 && !found.contains_key(&RTA_DST);
        if !is_default || *answer.body.get(4)? != TABLE_MAIN {
            return None;
        }
        Some((ne32(found.get(&RTA_OIF)?)?, ip(found.get(&RTA_GATEWAY)?)?))
    };
    answers.iter().filter_map(read).collect()
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
