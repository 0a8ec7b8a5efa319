//! Watches the kernel for changes that netd may not have made.

use crate::kernel::neighbour;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;

const GROUP_LINK: u32 = 1;
const GROUP_NEIGHBOUR: u32 = 3;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV4_RULE: u32 = 8;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;
const GROUP_IPV6_RULE: u32 = 19;
const GROUP_NFTABLES: u32 = 7;
const MESSAGE_HEADER: usize = 16;

/// Sockets on which every change makes itself heard, also those inside container
/// namespaces that hang on ours by a link.
pub struct Watch {
    sockets: [Socket; 2],
}

impl Watch {
    /// # Errors
    /// When the sockets cannot be opened.
    pub fn open() -> io::Result<Self> {
        let routing = [
            GROUP_LINK,
            GROUP_NEIGHBOUR,
            GROUP_IPV4_ADDRESS,
            GROUP_IPV4_ROUTE,
            GROUP_IPV4_RULE,
            GROUP_IPV6_ADDRESS,
            GROUP_IPV6_ROUTE,
            GROUP_IPV6_RULE,
        ];
        Ok(Self { sockets: [subscribe(NETLINK_ROUTE, &routing)?, subscribe(NETLINK_NETFILTER, &[GROUP_NFTABLES])?] })
    }

    /// Blocks until something changed; what, does not matter: the reconciler looks itself.
    ///
    /// # Errors
    /// When polling fails.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            let mut descriptors = self.sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let matters = self.sockets.each_ref().map(drain);
            if matters.contains(&true) {
                return Ok(());
            }
        }
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    // Overruns are changes as well; they need no error.
    socket.set_no_enobufs(true)?;
    if let Err(error) = socket.set_listen_all_namespaces(true) {
        tracing::debug!(%error, "changes inside containers are seen by the timer only");
    }
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// Whether what came may be of interest.
fn drain(socket: &Socket) -> bool {
    let mut scratch = bytes::BytesMut::with_capacity(4096);
    let mut matters = false;
    loop {
        scratch.clear();
        // Longer datagrams are cut, which does not matter here.
        match socket.recv(&mut scratch, 0) {
            Ok(_) => matters |= is_of_interest(&scratch),
            Err(_) => return matters,
        }
    }
}

/// The kernel learns neighbours all the time; those that we set are another matter.
fn is_of_interest(message: &[u8]) -> bool {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    !matches!(kind, neighbour::NEW_NEIGHBOUR | neighbour::DELETE_NEIGHBOUR)
        || neighbour::is_fixed(message.get(MESSAGE_HEADER..).unwrap_or_default())
}
