//! The one owner of the desired state and of the kernel: takes commands, converges,
//! repairs what others changed, retries what failed.

use crate::NetdConfig;
use crate::balance::{self, Balancer};
use crate::command::{Command, Input};
use crate::desired::Desired;
use crate::diff::{self, Op};
use crate::dns::Resolvers;
use crate::failing::Failing;
use crate::kernel::apply::Kernel;
use crate::kernel::sysctl;
use crate::names;
use crate::nft::table::{Table, TableFamily};
use crate::plan::{PlaceId, Seen, Wanted};
use crate::ports::{self, Ports};
use crate::wanted::{Circumstances, Underlay, wanted};
use skep_model::error::{Error, Result};
use skep_model::id::NetworkId;
use skep_model::netstate::{ClusterNetState, DesiredNetwork, LocalNetState, NetworkKind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What failed is tried again this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Changes that no event announces are found at the latest after this long.
const FULL_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Changes come in bursts; one look after a burst is enough.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Without a command for this long a burst of them has ended.
const QUIET: Duration = Duration::from_millis(500);
/// Looking takes at most about one part in this many of the time.
const CHECK_SHARE: u32 = 10;
/// However long a look takes, the next one comes within this.
const CHECK_PAUSE_MAX: Duration = Duration::from_secs(3);

/// Which namespaces a convergence looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Not the containers'.
    Networks,
    Everything,
}

/// Why a difference is there, which decides whether it is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The desired state was just edited.
    Edit,
    /// Nobody asked for a change: somebody else made one.
    Drift,
}

mod attach;
mod look;

pub struct Worker {
    state_path: PathBuf,
    names_directory: PathBuf,
    overlay_directory: PathBuf,
    /// Only the worker writes; the resolvers read.
    desired: Arc<RwLock<Desired>>,
    kernel: Kernel,
    ports: Ports,
    resolvers: Resolvers,
    balancer: Box<dyn Balancer>,
    /// Seen at the last convergence.
    underlay: Option<Underlay>,
    runtime: tokio::runtime::Handle,
    /// What the kernel's tables were left at, to send differences only.
    tables: BTreeMap<(PlaceId, TableFamily), Table>,
    kernel_changed: Arc<AtomicBool>,
    repairs: u64,
    /// Seen at the last look.
    forged_frames: BTreeMap<NetworkId, u64>,
    failing: Failing,
    next_check: Option<Instant>,
    check_deadline: Option<Instant>,
    last_check: Instant,
    last_check_took: Duration,
}

impl Worker {
    /// Reads the state file and takes up where the last netd ended.
    ///
    /// # Errors
    /// When the state file or netlink cannot be opened, or the balancer cannot be had.
    pub fn open(config: &NetdConfig, kernel_changed: Arc<AtomicBool>, runtime: tokio::runtime::Handle) -> Result<Self> {
        if let Some(directory) = config.state.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let balancer = balance::choose(config.balancer)?;
        let desired = Arc::new(RwLock::new(Desired::load(&config.state)?));
        let mut worker = Self {
            state_path: config.state.clone(),
            names_directory: config.names_directory(),
            overlay_directory: config.overlay_directory(),
            kernel: Kernel::open(config.overlay_directory())?,
            ports: Ports::default(),
            resolvers: Resolvers::new(runtime.clone(), desired.clone()),
            desired,
            balancer,
            underlay: None,
            runtime,
            tables: BTreeMap::new(),
            kernel_changed,
            repairs: 0,
            forged_frames: BTreeMap::new(),
            failing: Failing::default(),
            next_check: None,
            check_deadline: None,
            last_check: Instant::now(),
            last_check_took: Duration::ZERO,
        };
        worker.converge(Scope::Everything, Cause::Drift);
        Ok(worker)
    }

    /// Serves until all senders are gone.
    pub fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            let wait = self.next_wake().saturating_duration_since(Instant::now());
            let runtime = self.runtime.clone();
            let received = runtime.block_on(async { tokio::time::timeout(wait, inputs.recv()).await });
            match received {
                Ok(Some(Input::Command(command))) => {
                    if self.handle(*command) {
                        self.postpone_check();
                    }
                }
                Ok(Some(Input::KernelChanged)) => self.note_kernel_change(),
                Ok(None) => return,
                Err(_) => {}
            }
            if Instant::now() >= self.next_wake() {
                self.converge(Scope::Everything, Cause::Drift);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let regular = if self.failing.is_empty() { FULL_CHECK_INTERVAL } else { RETRY_INTERVAL };
        let regular = self.last_check + regular.max(self.check_pause());
        self.next_check.map_or(regular, |check| check.min(regular))
    }

    fn note_kernel_change(&mut self) {
        self.kernel_changed.store(false, Ordering::Release);
        let earliest = (Instant::now() + DEBOUNCE).max(self.last_check + self.check_pause());
        self.next_check = self.next_check.or(Some(earliest));
        self.check_deadline = self.check_deadline.or_else(|| Some(Instant::now() + CHECK_PAUSE_MAX));
    }

    /// Most changes during a burst of commands are our own: the look waits for its end,
    /// but not for ever.
    fn postpone_check(&mut self) {
        if let (Some(check), Some(deadline)) = (self.next_check, self.check_deadline) {
            self.next_check = Some(check.max(Instant::now() + QUIET).min(deadline.max(check)));
        }
    }

    fn check_pause(&self) -> Duration {
        (self.last_check_took * CHECK_SHARE).min(CHECK_PAUSE_MAX)
    }

    /// Whether the command may have changed the kernel.
    fn handle(&mut self, command: Command) -> bool {
        // A caller that went away has no use for its answer.
        match command {
            Command::SyncLocal(state, reply) => drop(reply.send(self.sync_local(state))),
            Command::PutNetwork(network, reply) => drop(reply.send(self.put_network(network))),
            Command::RemoveNetwork(id, reply) => drop(reply.send(self.remove_network(&id))),
            Command::Attach(request, reply) => drop(reply.send(self.attach(&request))),
            Command::Detach(id, reply) => drop(reply.send(self.detach(|endpoint| endpoint.container == id))),
            Command::DetachEndpoint(id, reply) => drop(reply.send(self.detach(|endpoint| endpoint.id == id))),
            Command::SetCluster(state, reply) => drop(reply.send(self.set_cluster(state))),
            Command::ClearCluster(reply) => drop(reply.send(self.clear_cluster())),
            Command::Status(reply) => {
                drop(reply.send(Ok(self.status())));
                return false;
            }
            Command::Verify(reply) => {
                drop(reply.send(self.verify()));
                return false;
            }
            Command::Trace(service, reply) => {
                drop(reply.send(self.trace(&service)));
                return false;
            }
        }
        true
    }

    fn sync_local(&mut self, state: LocalNetState) -> Result<()> {
        let paths: BTreeSet<PathBuf> = state.endpoints.iter().map(|endpoint| endpoint.netns.clone()).collect();
        self.edit(|desired| desired.sync_local(state))?;
        for path in paths {
            if let Ok(Some(inode)) = self.kernel.namespace_inode(&path) {
                self.write(|desired| desired.namespaces.insert(path, inode));
            }
        }
        // What cannot be made now is retried; the daemon must be able to start.
        self.converge(Scope::Everything, Cause::Edit);
        self.save()
    }

    fn put_network(&mut self, network: DesiredNetwork) -> Result<()> {
        let before = self.read(|desired| desired.local.networks.clone());
        let place = match &network.kind {
            NetworkKind::Bridge { .. } | NetworkKind::Mesh { .. } => PlaceId::Host,
            NetworkKind::Overlay { .. } => PlaceId::Overlay(network.id.clone()),
        };
        self.edit(|desired| desired.put_network(network))?;
        let failures = self.converge(Scope::Networks, Cause::Edit);
        if let Some((op, reason)) = failures.iter().find(|(op, _)| op.place() == Some(&place)) {
            let error = Error::internal(format!("{op}: {reason}"));
            self.edit(|desired| {
                desired.local.networks = before;
                Ok(())
            })?;
            self.converge(Scope::Networks, Cause::Edit);
            return Err(error);
        }
        self.save()
    }

    fn remove_network(&mut self, id: &NetworkId) -> Result<()> {
        self.edit(|desired| desired.remove_network(id))?;
        self.save()?;
        self.converge(Scope::Networks, Cause::Edit);
        Ok(())
    }

    fn set_cluster(&mut self, state: ClusterNetState) -> Result<()> {
        let before = self.read(|desired| wanted(desired, &self.circumstances()).backends);
        self.edit(|desired| desired.set_cluster(state))?;
        self.save()?;
        let failures = self.converge(Scope::Networks, Cause::Edit);
        self.flush_vanished(&before);
        match failures.into_iter().next() {
            Some((op, reason)) => Err(Error::internal(format!("{op}: {reason}"))),
            None => Ok(()),
        }
    }

    fn clear_cluster(&mut self) -> Result<()> {
        self.edit(|desired| {
            desired.cluster = ClusterNetState::default();
            Ok(())
        })?;
        self.save()?;
        self.converge(Scope::Everything, Cause::Edit);
        Ok(())
    }

    /// Looks, compares and acts; returns what failed and did not fail before.
    fn converge(&mut self, scope: Scope, cause: Cause) -> Vec<(Op, String)> {
        let started = Instant::now();
        self.converge_resolvers();
        self.look_for_underlay();
        let wanted_ports = self.read(|desired| ports::wanted(desired, has_ipv6()));
        self.failing.ports = self.ports.converge(&wanted_ports);
        let mut wanted = self.read(|desired| wanted(desired, &self.circumstances()));
        self.failing.impossible = std::mem::take(&mut wanted.impossible);
        if scope == Scope::Networks {
            wanted.places.retain(|place, _| !matches!(place, PlaceId::Container(_)));
        }
        let new_failures = match self.kernel.observe_all(&wanted) {
            Ok(seen) => {
                self.failing.unreadable.clone_from(&seen.unreadable);
                self.note_forged_frames(&seen);
                self.act(&wanted, &seen, cause)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the kernel's network state");
                self.failing.ops.insert("reading the kernel".into(), error.to_string());
                Vec::new()
            }
        };
        let names = self.read(|desired| names::wanted(desired, &self.overlay_directory));
        if let Err(error) = names::converge(&self.names_directory, &names) {
            tracing::warn!(%error, "cannot name the networks' namespaces");
        }
        self.last_check = Instant::now();
        if scope == Scope::Everything {
            self.last_check_took = started.elapsed();
            self.next_check = None;
            self.check_deadline = None;
        }
        new_failures
    }

    /// Tunnels must end where other nodes expect them, on a link that takes their packets.
    fn look_for_underlay(&mut self) {
        let Some(address) = self.read(|desired| desired.cluster.data_path_address) else {
            self.underlay = None;
            return;
        };
        match self.kernel.link_mtu_of(address) {
            Ok(mtu) => self.underlay = mtu.map(|mtu| Underlay { address, mtu }),
            // What was seen last is the best guess.
            Err(error) => tracing::warn!(%error, "cannot read the host's addresses"),
        }
    }

    fn act(&mut self, wanted: &Wanted, seen: &Seen, cause: Cause) -> Vec<(Op, String)> {
        // Without a look into the containers no port is made or broken.
        let ops = diff::difference(wanted, seen);
        let failed = self.kernel.apply(&ops);
        let failed_ops: BTreeSet<String> = failed.iter().map(|(op, _)| op.to_string()).collect();
        for op in ops.iter().filter(|op| cause == Cause::Drift && !failed_ops.contains(&op.to_string())) {
            self.repairs += 1;
            tracing::warn!(repaired = %op, "the kernel's network state was different");
        }
        self.note_tables(wanted, seen, &failed);
        let before = std::mem::take(&mut self.failing.ops);
        let mut new = Vec::new();
        for (op, error) in failed {
            let (text, reason) = (op.to_string(), error.to_string());
            if !before.contains_key(&text) {
                tracing::warn!(%op, %error, "cannot change the kernel's network state, trying again");
                new.push((op, reason.clone()));
            }
            self.failing.ops.insert(text, reason);
        }
        new
    }

    /// Remembers what the kernel's tables are now.
    fn note_tables(&mut self, wanted: &Wanted, seen: &Seen, failed: &[(Op, std::io::Error)]) {
        let has_failed = |place: &PlaceId, which: TableFamily| {
            failed.iter().any(
                |(op, _)| matches!(op, Op::Rules { place: other, family, .. } if other == place && *family == which),
            )
        };
        let places = seen.places.keys().chain(wanted.places.keys());
        for place in places.filter(|place| !matches!(place, PlaceId::Container(_))) {
            let want = wanted.places.get(place);
            for family in [TableFamily::Inet, TableFamily::Bridge] {
                let table = want.and_then(|want| match family {
                    TableFamily::Inet => want.table.clone(),
                    TableFamily::Bridge => want.guard.clone(),
                });
                match table.filter(|_| !has_failed(place, family)) {
                    Some(table) => self.tables.insert((place.clone(), family), table),
                    None => self.tables.remove(&(place.clone(), family)),
                };
            }
        }
    }

    fn converge_resolvers(&mut self) {
        let wanted: BTreeSet<PathBuf> = self.read(|desired| desired.local.resolvers.keys().cloned().collect());
        self.resolvers.retain(&wanted);
        self.failing.resolvers.clear();
        for path in wanted {
            match self.open_resolver(&path) {
                Ok(()) => {}
                // The namespace died; its container will be detached.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => self.failing.resolvers.push(format!("resolver of {}: {error}", path.display())),
            }
        }
    }

    /// Has the resolver of a namespace listen, if one is wanted there.
    fn open_resolver(&mut self, path: &PathBuf) -> std::io::Result<()> {
        let (is_wanted, port) =
            self.read(|desired| (desired.wants_resolver(path), desired.resolver_ports.get(path).copied()));
        if !is_wanted || self.resolvers.is_open(path) {
            return Ok(());
        }
        let taken = self.resolvers.open(path, port)?;
        if port != Some(taken) {
            self.write(|desired| desired.resolver_ports.insert(path.clone(), taken));
        }
        Ok(())
    }

    fn flush_vanished(&mut self, before: &BTreeSet<(PlaceId, IpAddr, Option<u16>)>) {
        let after = self.read(|desired| wanted(desired, &self.circumstances()).backends);
        let mut vanished: BTreeMap<PlaceId, Vec<(IpAddr, Option<u16>)>> = BTreeMap::new();
        for (place, address, port) in before.difference(&after) {
            vanished.entry(place.clone()).or_default().push((*address, *port));
        }
        for (place, addresses) in vanished {
            if let Err(error) = self.kernel.flush_flows(&place, &addresses) {
                tracing::warn!(%place, %error, "cannot forget the flows of removed backends");
            }
        }
    }

    fn circumstances(&self) -> Circumstances<'_> {
        Circumstances {
            balancer: self.balancer.as_ref(),
            bridges_are_filtered: bridges_are_filtered(),
            underlay: self.underlay,
            has_ipv6: has_ipv6(),
        }
    }

    fn save(&self) -> Result<()> {
        let outcome = self.read(|desired| desired.save(&self.state_path));
        outcome.map_err(|error| Error::internal(format!("cannot save {}: {error}", self.state_path.display())))
    }

    fn read<T>(&self, look: impl FnOnce(&Desired) -> T) -> T {
        look(&self.desired.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Desired) -> T) -> T {
        change(&mut self.desired.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Desired) -> Result<T>) -> Result<T> {
        self.write(change)
    }
}

/// Whether bridged frames pass the rules for routed packets.
fn bridges_are_filtered() -> bool {
    let is_on = |key| sysctl::read(key).as_deref() == Some("1");
    ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"].into_iter().all(is_on)
}

/// Whether the host's new links have IPv6.
fn has_ipv6() -> bool {
    let is_on = |which| sysctl::read(&format!("net/ipv6/conf/{which}/disable_ipv6")).as_deref() == Some("0");
    ["all", "default"].into_iter().all(is_on)
}
