//! The embedded resolver: one for each container namespace, on sockets that live in
//! that namespace.

pub mod forward;
pub mod lookup;
pub mod message;
mod serve;

use crate::desired::Desired;
use crate::kernel::netns::Namespace;
use crate::rules::resolver::ADDRESS;
use crate::sockets;
use skep_model::netstate::NetdCounters;
use skep_model::network::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// TCP is for the rare long answer.
const TCP_BACKLOG: i32 = 16;
/// A port that is free for UDP may be taken for TCP; then another is tried.
const PORT_ATTEMPTS_MAX: usize = 16;

/// The resolvers that listen.
pub struct Resolvers {
    runtime: Handle,
    desired: Arc<RwLock<Desired>>,
    open: BTreeMap<PathBuf, Listening>,
    counters: Arc<Counters>,
}

/// What all resolvers were asked.
#[derive(Debug, Default)]
struct Counters {
    queries: AtomicU64,
    malformed: AtomicU64,
    dropped: AtomicU64,
}

/// Stops with its owner.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Resolvers {
    pub fn new(runtime: Handle, desired: Arc<RwLock<Desired>>) -> Self {
        Self { runtime, desired, open: BTreeMap::new(), counters: Arc::default() }
    }

    /// What was asked so far.
    pub fn counters(&self) -> NetdCounters {
        NetdCounters {
            dns_queries: self.counters.queries.load(Ordering::Relaxed),
            dns_malformed: self.counters.malformed.load(Ordering::Relaxed),
            dns_dropped: self.counters.dropped.load(Ordering::Relaxed),
            ..NetdCounters::default()
        }
    }

    pub fn is_open(&self, namespace: &Path) -> bool {
        self.open.contains_key(namespace)
    }

    /// Listens in a namespace, on the preferred port when it is free, and returns the port.
    ///
    /// # Errors
    /// `NotFound` when the namespace is gone, else what the kernel says.
    pub fn open(&mut self, path: &Path, preferred: Option<u16>) -> io::Result<u16> {
        let namespace = Namespace::open(path)?.ok_or(io::ErrorKind::NotFound)?;
        let (udp, tcp) = namespace.run(|| {
            // A socket bound while loopback is down would answer from another address.
            crate::kernel::place::loopback_up()?;
            listen(preferred)
        })?;
        let port = udp.local_addr()?.port();
        let view =
            serve::View { desired: self.desired.clone(), namespace: path.to_owned(), counters: self.counters.clone() };
        let task = self.runtime.spawn(serve::serve(view, udp, tcp));
        self.open.insert(path.to_owned(), Listening(task));
        Ok(port)
    }

    /// Closes all others.
    pub fn retain(&mut self, paths: &BTreeSet<PathBuf>) {
        self.open.retain(|path, _| paths.contains(path));
    }
}

fn listen(preferred: Option<u16>) -> io::Result<(UdpSocket, TcpListener)> {
    if let Some(port) = preferred
        && let Ok(sockets) = listen_on(port)
    {
        return Ok(sockets);
    }
    let mut outcome = listen_on(0);
    for _ in 1..PORT_ATTEMPTS_MAX {
        if outcome.is_ok() {
            break;
        }
        outcome = listen_on(0);
    }
    outcome
}

fn listen_on(port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let address = |port| SocketAddr::new(ADDRESS.into(), port);
    let udp = UdpSocket::from(sockets::bound(Protocol::Udp, address(port), None)?);
    let port = udp.local_addr()?.port();
    let tcp = TcpListener::from(sockets::bound(Protocol::Tcp, address(port), Some(TCP_BACKLOG))?);
    Ok((udp, tcp))
}
