//! The manager of this node as one handle: starts everything in order, reports the first
//! loop that dies, stops everything in reverse.

use crate::ca::CaService;
use crate::config::{ManagerConfig, SwarmInit};
use crate::control::Control;
use crate::dispatch::{self, Tunnels};
use crate::door::Refusals;
use crate::edit::edit;
use crate::external_ca::ExternalSigner;
use crate::founding::Founded;
use crate::ids::RandomIds;
use crate::raft::{self, DumpSummary, Member, Replicator, now, write_atomic};
use crate::server::{self, Services};
use crate::{leader, lock, managers, own_certificate, rotation};
use skep_cluster::edit::{bootstrap, demote_others};
use skep_cluster::ids::IdSource;
use skep_identity::Identity;
use skep_identity::net::TcpListener;
use skep_model::node::Role;
use skep_model::{Error, Result};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Raft member id of the first manager. Later ones get random ids.
pub(crate) const FIRST_RAFT_ID: u64 = 1;
/// In the Raft folder once this node is a member.
const JOINED_FILE: &str = "joined";
/// Loops get this long to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running manager.
pub struct Manager {
    pub(crate) replicator: Replicator,
    identity: Identity,
    tunnels: Tunnels,
    address: SocketAddr,
    advertise_addr: String,
    stop: CancellationToken,
    failure: watch::Receiver<Option<Error>>,
    locks: watch::Receiver<lock::Settled>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Manager {
    /// Makes a new swarm with this node as its first manager. When it returns, the swarm and
    /// the node's certificate are on disk. What an earlier, interrupted try left is replaced.
    ///
    /// # Errors
    /// When this node has an identity already, or a folder or port cannot be used.
    pub async fn bootstrap(config: ManagerConfig, mut init: SwarmInit) -> Result<Self> {
        let certificates = config.certificates();
        if certificates.load()?.is_some() {
            return Err(Error::unavailable(
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            ));
        }
        remove_dir(&config.raft_dir())?;
        let founded = Founded::create(&mut init).await?;
        let identity = Identity::new(&founded.stored)?;
        let (listener, address, advertise_addr) = listen(&config).await?;
        let replicator = Replicator::open(&config.raft_dir(), &config.vault, FIRST_RAFT_ID, identity.clone()).await?;
        replicator.initialize(identity.node_id(), advertise_addr.clone()).await?;
        replicator.elect_if_alone().await?;
        let facts = founded.facts(init, &advertise_addr)?;
        let lock_version = facts.cluster.unlock_key_version;
        let writes = bootstrap(facts, now(), &mut RandomIds);
        let never = CancellationToken::new();
        tokio::select! {
            proposed = replicator.propose(writes, false) => drop(proposed.map_err(Error::from)?),
            // It ends only when Raft fails.
            failed = replicator.tend_leadership(&never) => failed?,
        }
        mark_joined(&config)?;
        // Last: a node with an identity has a swarm.
        certificates.save(&founded.stored)?;
        let manager = Self::start(&config, replicator, identity, listener, address, advertise_addr);
        // A swarm that was asked to be locked is locked when this returns.
        match lock::wait_settled(&manager.locks, lock_version).await {
            Ok(()) => Ok(manager),
            Err(error) => {
                manager.shutdown().await;
                Err(error)
            }
        }
    }

    /// Starts the manager again that ran in `state_dir` before.
    ///
    /// # Errors
    /// When there is none, its files are damaged, or the port cannot be used.
    pub async fn open(config: ManagerConfig, identity: Identity) -> Result<Self> {
        if !Self::exists(&config) {
            return Err(Error::internal(format!("there is no manager state in {}", config.state_dir.display())));
        }
        let (listener, address, advertise_addr) = listen(&config).await?;
        let replicator = Replicator::open(&config.raft_dir(), &config.vault, FIRST_RAFT_ID, identity.clone()).await?;
        replicator.elect_if_alone().await?;
        Ok(Self::start(&config, replicator, identity, listener, address, advertise_addr))
    }

    /// Whether a manager ran in `state_dir` before, so that it is to be opened, not joined.
    pub fn exists(config: &ManagerConfig) -> bool {
        config.raft_dir().join(JOINED_FILE).exists()
    }

    /// Goes on with the manager that ran in `state_dir` before as the only one of its swarm,
    /// after the majority of the managers was lost for good. It keeps all it knows; the other
    /// managers become workers, and those that still run are not listened to.
    ///
    /// # Errors
    /// When there is none, its files are damaged, or the port cannot be used.
    pub async fn force_new_cluster(config: ManagerConfig, identity: Identity) -> Result<Self> {
        if !Self::exists(&config) {
            return Err(Error::internal(format!("there is no manager state in {}", config.state_dir.display())));
        }
        let (listener, address, advertise_addr) = listen(&config).await?;
        let own = Member { node_id: identity.node_id(), address: advertise_addr.clone() };
        Replicator::make_anew(&config.raft_dir(), &config.vault, own).await?;
        let replicator = Replicator::open(&config.raft_dir(), &config.vault, FIRST_RAFT_ID, identity.clone()).await?;
        replicator.elect_if_alone().await?;
        let manager = Self::start(&config, replicator, identity, listener, address, advertise_addr);
        let node_id = manager.identity.node_id();
        let demoted = edit(&manager.replicator, |store, _, _| Ok(((), demote_others(store, &node_id)))).await;
        match demoted {
            Ok(()) => Ok(manager),
            Err(error) => {
                manager.shutdown().await;
                Err(error)
            }
        }
    }

    /// Forgets that a manager ran in `state_dir`: this node is none any more.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn forget(config: &ManagerConfig) -> Result<()> {
        remove_dir(&config.raft_dir())
    }

    /// Makes this node, whose certificate says manager, one more manager of its swarm, through
    /// the first of `managers` (`host:port`) that can. What an interrupted try left is used again.
    ///
    /// # Errors
    /// When the certificate is a worker's, nobody answers, or the others do not take it.
    pub async fn join_through(config: ManagerConfig, identity: Identity, managers: &[String]) -> Result<Self> {
        if identity.role() != Role::Manager {
            return Err(Error::forbidden("this node's certificate is not a manager's"));
        }
        let (listener, address, advertise_addr) = listen(&config).await?;
        let new_raft_id = (RandomIds.next() as u64).max(FIRST_RAFT_ID + 1);
        let replicator = Replicator::open(&config.raft_dir(), &config.vault, new_raft_id, identity.clone()).await?;
        let own = Member { node_id: identity.node_id(), address: advertise_addr.clone() };
        let manager = Self::start(&config, replicator.clone(), identity, listener, address, advertise_addr);
        let mut joined = Err(Error::invalid("the address of a manager to join through is needed"));
        for remote in managers {
            joined = replicator.join(remote, own.clone()).await;
            if joined.is_ok() {
                break;
            }
        }
        match joined.and_then(|()| mark_joined(&config)) {
            Ok(()) => Ok(manager),
            Err(error) => {
                manager.shutdown().await;
                Err(error)
            }
        }
    }

    pub(crate) fn start(
        config: &ManagerConfig,
        replicator: Replicator,
        identity: Identity,
        listener: TcpListener,
        address: SocketAddr,
        advertise_addr: String,
    ) -> Self {
        let stop = CancellationToken::new();
        let tunnels = Tunnels::new(replicator.clone(), identity.clone(), stop.clone());
        let (dispatcher, dispatcher_loop) =
            dispatch::new(replicator.clone(), tunnels.clone(), advertise_addr.clone(), stop.clone());
        let refusals = Arc::new(Refusals::default());
        let services = Services {
            dispatcher,
            ca: CaService::new(replicator.clone(), refusals.clone(), ExternalSigner::new(identity.clone())),
            raft: replicator.service(),
            replicator: replicator.clone(),
            refusals,
        };
        let ca = services.ca.clone();
        let (settled, locks) = watch::channel(lock::Settled::default());
        let mut loops = JoinSet::new();
        let certificates = config.certificates();
        loops.spawn(lock::run(replicator.clone(), config.vault.clone(), certificates.clone(), settled, stop.clone()));
        loops.spawn(until(
            stop.clone(),
            own_certificate::run(replicator.clone(), ca, identity.clone(), certificates, stop.clone()),
        ));
        loops.spawn(until(stop.clone(), rotation::run(replicator.clone(), stop.clone())));
        let own = Member { node_id: identity.node_id(), address: advertise_addr.clone() };
        loops.spawn(dispatcher_loop.run());
        loops.spawn(until(stop.clone(), leader::run(replicator.clone(), stop.clone())));
        loops.spawn(until(stop.clone(), managers::run(replicator.clone(), own, stop.clone())));
        let (tended, tend_stop) = (replicator.clone(), stop.clone());
        loops.spawn(until(stop.clone(), async move { tended.tend_leadership(&tend_stop).await }));
        let (tended, tend_stop) = (replicator.clone(), stop.clone());
        loops.spawn(until(stop.clone(), async move { tended.tend_log(&tend_stop).await }));
        loops.spawn(server::run(listener, identity.clone(), services, stop.clone()));
        let (failed, failure) = watch::channel(None);
        let raft = replicator.clone();
        let raft_failed = async move { raft.failed().await };
        let supervisor = tokio::spawn(supervise(loops, raft_failed, stop.clone(), failed));
        tracing::info!(node = %identity.node_id(), %address, "manager started");
        Self { replicator, identity, address, advertise_addr, stop, failure, locks, tunnels, supervisor }
    }

    /// Writes what lies in the files of a manager that does not run as JSON lines, without
    /// secrets. The vault must be unlocked if it is locked.
    ///
    /// # Errors
    /// There is nothing, it is in use or locked, or `out` cannot be written.
    pub async fn dump(config: &ManagerConfig, out: &mut (dyn std::io::Write + Send)) -> Result<DumpSummary> {
        raft::dump(&config.raft_dir(), &config.vault, out).await
    }

    /// What the API asks.
    pub fn control(&self) -> Control {
        let own = Member { node_id: self.identity.node_id(), address: self.advertise_addr.clone() };
        let external = ExternalSigner::new(self.identity.clone());
        Control::new(self.replicator.clone(), own, self.locks.clone(), self.tunnels.clone(), external)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    #[cfg(test)]
    pub(crate) fn replicator(&self) -> &Replicator {
        &self.replicator
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// `host:port` for nodes that want to join.
    pub fn advertise_addr(&self) -> &str {
        &self.advertise_addr
    }

    /// Resolves when a part of the manager has died; it is of no use then and should be shut down.
    pub async fn failed(&self) -> Error {
        let mut failure = self.failure.clone();
        // Ends the borrow before the next await, so that a task may wait here.
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(error) => error,
            // The supervisor ended without a failure: the manager was shut down.
            None => std::future::pending().await,
        }
    }

    /// Lets another manager lead if this one does, stops all loops, then Raft. Nothing
    /// acknowledged is lost, not even without this.
    pub async fn shutdown(self) {
        if self.replicator.is_leader()
            && let Some(heir) = self.replicator.heir()
            && let Err(error) = self.replicator.hand_over(heir).await
        {
            tracing::info!(%error, "the others elect a leader themselves");
        }
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.supervisor).await.is_err() {
            tracing::warn!("parts of the manager did not stop in time");
        }
        self.replicator.shutdown().await;
    }
}

/// Ends a loop at `stop` wherever it is: what it waits for may be a write that nobody commits.
async fn until(stop: CancellationToken, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Ok(()),
    }
}

/// Waits for the first loop to end. Before `stop` that is a failure, and ends the others.
async fn supervise(
    mut loops: JoinSet<Result<()>>,
    raft_failed: impl Future<Output = Error>,
    stop: CancellationToken,
    failed: watch::Sender<Option<Error>>,
) {
    let reason = tokio::select! {
        ended = loops.join_next() => match ended {
            Some(Ok(Ok(()))) | None => Error::internal("a loop of the manager ended"),
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => Error::internal(format!("a loop of the manager died: {panic}")),
        },
        error = raft_failed => error,
        () = stop.cancelled() => {
            while loops.join_next().await.is_some() {}
            return;
        }
    };
    if !stop.is_cancelled() {
        tracing::error!(error = %reason, "the manager has failed");
        failed.send_replace(Some(reason));
        stop.cancel();
    }
    while loops.join_next().await.is_some() {}
}

pub(crate) async fn listen(config: &ManagerConfig) -> Result<(TcpListener, SocketAddr, String)> {
    let failed = |e: std::io::Error| Error::internal(format!("cannot listen on {}: {e}", config.listen_addr));
    let listener = TcpListener::bind(config.listen_addr).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let advertise_addr = advertised(&config.advertise_addr, address)?;
    Ok((listener, address, advertise_addr))
}

/// The address told to others: as configured, with the port listened on where none is given.
fn advertised(configured: &str, address: SocketAddr) -> Result<String> {
    if configured.is_empty() {
        if address.ip().is_unspecified() {
            return Err(Error::invalid(
                "could not choose an IP address to advertise: specify one with --advertise-addr",
            ));
        }
        return Ok(address.to_string());
    }
    if let Ok(ip) = configured.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, address.port()).to_string());
    }
    match configured.rsplit_once(':') {
        Some((host, "0")) => Ok(format!("{host}:{}", address.port())),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(configured.to_owned()),
        Some(_) => Err(Error::invalid(format!("invalid advertise address {configured:?}"))),
        None => Ok(format!("{configured}:{}", address.port())),
    }
}

/// `host` of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// From here on the folder is a member's.
pub(crate) fn mark_joined(config: &ManagerConfig) -> Result<()> {
    let path = config.raft_dir().join(JOINED_FILE);
    write_atomic(&path, b"").map_err(|e| Error::internal(format!("cannot write {}: {e}", path.display())))
}

pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("cannot remove {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_address_gets_the_port_listened_on() {
        let check = |configured: &str, listen: &str, expect: Option<&str>| {
            let got = advertised(configured, listen.parse().unwrap());
            assert_eq!(got.ok().as_deref(), expect, "{configured}");
        };
        check("", "10.0.0.1:2377", Some("10.0.0.1:2377"));
        check("", "0.0.0.0:2377", None);
        check("10.0.0.2", "0.0.0.0:2377", Some("10.0.0.2:2377"));
        check("10.0.0.2:0", "0.0.0.0:2377", Some("10.0.0.2:2377"));
        check("10.0.0.2:99", "0.0.0.0:2377", Some("10.0.0.2:99"));
        check("fd00::1", "[::]:2377", Some("[fd00::1]:2377"));
        check("node1", "0.0.0.0:2377", Some("node1:2377"));
        check("node1:x", "0.0.0.0:2377", None);
        assert_eq!((host_of("[fd00::1]:2377"), host_of("node1:1")), ("fd00::1".into(), "node1".into()));
    }

    #[tokio::test]
    async fn a_dead_loop_is_reported_and_ends_the_others() {
        type Loop = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;
        let deaths: [(Loop, &str); 3] = [
            (Box::pin(async { panic!("a bug") }), "a loop of the manager died"),
            (Box::pin(async { Err(Error::internal("no disk")) }), "no disk"),
            (Box::pin(async { Ok(()) }), "a loop of the manager ended"),
        ];
        for (death, expect) in deaths {
            let (failed, failure) = watch::channel(None);
            let stop = CancellationToken::new();
            let mut loops = JoinSet::new();
            let other = stop.clone();
            loops.spawn(async move {
                other.cancelled().await;
                Ok(())
            });
            loops.spawn(death);
            supervise(loops, std::future::pending(), stop, failed).await;
            let reason: Option<Error> = failure.borrow().clone();
            assert!(reason.unwrap().message.starts_with(expect), "{expect}");
        }
    }

    fn config(dir: &Path) -> ManagerConfig {
        let listen_addr = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let vault = ManagerConfig::vault_of(dir);
        ManagerConfig { state_dir: dir.to_owned(), listen_addr, advertise_addr: String::new(), vault }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_manager_gets_a_snapshot_when_the_log_is_gone() {
        use openraft::async_runtime::WatchReceiver;
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = Manager::bootstrap(config(dirs[0].path()), SwarmInit::default()).await.unwrap();
        let big = vec![b'x'; 900_000];
        for number in 0..4 {
            let spec =
                skep_model::secret::ConfigSpec { name: format!("c{number}"), data: big.clone(), ..Default::default() };
            first.control().create_config(spec).await.unwrap();
        }
        let raft = first.replicator.raft();
        raft.trigger().snapshot().await.unwrap();
        let snapshotted = raft.wait(Some(Duration::from_secs(20)));
        let index = first.replicator.store().snapshot().index();
        snapshotted.metrics(|m| m.snapshot.is_some_and(|id| id.index >= index), "snapshot").await.unwrap();
        let upto = raft.metrics().borrow_watched().snapshot.unwrap().index;
        raft.trigger().purge_log(upto).await.unwrap();
        let purged = raft.wait(Some(Duration::from_secs(20)));
        purged.metrics(|m| m.purged.is_some_and(|id| id.index >= upto), "purge").await.unwrap();

        let identity = crate::partition_tests::admitted(&first, "second").await;
        let through = [first.advertise_addr().to_owned()];
        let second = Manager::join_through(config(dirs[1].path()), identity, &through).await.unwrap();
        let (ours, theirs) = (first.replicator.store(), second.replicator.store());
        tokio::time::timeout(Duration::from_secs(20), theirs.wait_applied(ours.snapshot().index())).await.unwrap();
        assert_eq!(second.control().configs().len(), 4);
        assert_eq!(second.control().configs()[0].spec.data, big);
        second.shutdown().await;
        first.shutdown().await;
    }
}
