//! A namespace with the sockets to act in it.

use crate::kernel::netlink::Socket;
use crate::kernel::netns::Namespace;
use crate::kernel::route;
use crate::plan::{Link, LinkKind};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Sockets into one network namespace. Holding it keeps the namespace alive.
pub struct Place {
    /// `None` is the namespace netd runs in.
    namespace: Option<Namespace>,
    pub route: Socket,
    pub netfilter: Socket,
    indices: BTreeMap<String, u32>,
}

impl Place {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When netlink sockets cannot be opened.
    pub fn host() -> io::Result<Self> {
        let (route, netfilter) = open_sockets()?;
        Ok(Self { namespace: None, route, netfilter, indices: BTreeMap::new() })
    }

    /// The namespace at a path; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(namespace) = Namespace::open(path)? else { return Ok(None) };
        let (route, netfilter) = namespace.run(open_sockets)?;
        Ok(Some(Self { namespace: Some(namespace), route, netfilter, indices: BTreeMap::new() }))
    }

    /// Runs code that depends on the thread's namespace.
    ///
    /// # Errors
    /// What `work` returns, or the failure to enter.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.run(work),
            None => work(),
        }
    }

    /// The index of a link by name, remembered until [`Self::forget`].
    ///
    /// # Errors
    /// No such link.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let answer = self.route.ask(&route::get_link(name))?;
        let index = answer.as_ref().and_then(route::link_index).ok_or(io::ErrorKind::NotFound)?;
        self.indices.insert(name.to_owned(), index);
        Ok(index)
    }

    /// Forgets indices: links may have come and gone.
    pub fn forget(&mut self) {
        self.indices.clear();
    }
}

fn open_sockets() -> io::Result<(Socket, Socket)> {
    Ok((Socket::open(NETLINK_ROUTE)?, Socket::open(NETLINK_NETFILTER)?))
}

/// Brings up the loopback of the calling thread's namespace.
///
/// # Errors
/// What the kernel says.
pub fn loopback_up() -> io::Result<()> {
    let loopback = Link { kind: LinkKind::Existing, mtu: 0, alias: String::new(), port: None };
    Socket::open(NETLINK_ROUTE)?.send_one(&route::update_link("lo", &loopback, None))
}
