//! Sockets with the options that std does not offer.

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    socket, sockopt,
};
use skep_model::network::Protocol;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A non-blocking bound socket, without `SO_REUSEADDR`: nobody may share the port.
/// `backlog` is how many connections may wait to be accepted; `None` does not listen.
///
/// # Errors
/// What the kernel says, notably `AddrInUse`.
pub fn bound(protocol: Protocol, address: SocketAddr, backlog: Option<i32>) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, Some(SockProtocol::Tcp)),
        Protocol::Udp => (SockType::Datagram, Some(SockProtocol::Udp)),
        Protocol::Sctp => (SockType::Stream, None),
    };
    if protocol == Protocol::Sctp {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, number)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
    }
    if let Some(backlog) = backlog {
        listen(&fd, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))?;
    }
    Ok(fd)
}
