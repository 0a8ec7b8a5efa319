//! The manager of this node as one handle: starts everything in order, reports the first
//! loop that dies, stops everything in reverse.

use crate::ca::CaService;
use crate::config::{ManagerConfig, SwarmInit};
use crate::control::{Control, fresh_token};
use crate::dispatch;
use crate::ids::RandomIds;
use crate::leader;
use crate::raft::{Replicator, now};
use crate::server::{self, Services};
use skep_cluster::edit::{Bootstrap, bootstrap};
use skep_cluster::ids::IdSource;
use skep_identity::{CertStore, CertificateAuthority, CertificateRequest, Identity, NodeSubject, StoredIdentity};
use skep_model::cluster::{Cluster, RootCa};
use skep_model::id::{ClusterId, NodeId};
use skep_model::node::{ManagerStatus, Node, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::{Error, Result};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Raft member id of the first manager. Later ones get random ids.
const FIRST_RAFT_ID: u64 = 1;
/// Loops get this long to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running manager.
pub struct Manager {
    replicator: Replicator,
    identity: Identity,
    address: SocketAddr,
    advertise_addr: String,
    stop: CancellationToken,
    failure: watch::Receiver<Option<Error>>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Manager {
    /// Makes a new swarm with this node as its first manager. When it returns, the swarm and
    /// the node's certificate are on disk. What an earlier, interrupted try left is replaced.
    ///
    /// # Errors
    /// When this node has an identity already, or a folder or port cannot be used.
    pub async fn bootstrap(config: ManagerConfig, init: SwarmInit) -> Result<Self> {
        if init.spec.auto_lock_managers {
            return Err(Error::not_implemented("locking managers is not supported yet"));
        }
        let certificates = CertStore::new(config.certificates_dir());
        if certificates.load()?.is_some() {
            return Err(Error::unavailable(
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            ));
        }
        remove_dir(&config.raft_dir())?;
        let founded = Founded::create(&init)?;
        let identity = Identity::new(&founded.stored)?;
        let (listener, address, advertise_addr) = listen(&config).await?;
        let replicator = Replicator::open(&config.raft_dir(), FIRST_RAFT_ID, identity.clone()).await?;
        replicator.initialize(identity.node_id(), advertise_addr.clone()).await?;
        replicator.elect_if_alone().await?;
        let facts = founded.facts(init, &advertise_addr);
        let writes = bootstrap(facts, now(), &mut RandomIds);
        replicator.propose(writes, false).await.map_err(Error::from)?;
        // Last: a node with an identity has a swarm.
        certificates.save(&founded.stored)?;
        Ok(Self::start(replicator, identity, listener, address, advertise_addr))
    }

    /// Starts the manager again that ran in `state_dir` before.
    ///
    /// # Errors
    /// When there is none, its files are damaged, or the port cannot be used.
    pub async fn open(config: ManagerConfig, identity: Identity) -> Result<Self> {
        if !config.raft_dir().join("data.key").exists() {
            return Err(Error::not_implemented("joining as a manager is not supported yet"));
        }
        let (listener, address, advertise_addr) = listen(&config).await?;
        let replicator = Replicator::open(&config.raft_dir(), FIRST_RAFT_ID, identity.clone()).await?;
        replicator.elect_if_alone().await?;
        Ok(Self::start(replicator, identity, listener, address, advertise_addr))
    }

    /// Joins the swarm that `token` is for, as one more manager.
    ///
    /// # Errors
    /// Always: this is not supported yet.
    pub async fn join(config: ManagerConfig, identity: Identity) -> Result<Self> {
        let _ = (config, identity);
        Err(Error::not_implemented("joining as a manager is not supported yet"))
    }

    fn start(
        replicator: Replicator,
        identity: Identity,
        listener: TcpListener,
        address: SocketAddr,
        advertise_addr: String,
    ) -> Self {
        let stop = CancellationToken::new();
        let (dispatcher, dispatcher_loop) = dispatch::new(replicator.clone(), advertise_addr.clone(), stop.clone());
        let services = Services { dispatcher, ca: CaService::new(replicator.clone()), raft: replicator.service() };
        let mut loops = JoinSet::new();
        loops.spawn(leader::run(replicator.clone(), stop.clone()));
        loops.spawn(dispatcher_loop.run());
        let (clock, clock_stop) = (replicator.clone(), stop.clone());
        loops.spawn(async move { clock.tend_clock(&clock_stop).await });
        loops.spawn(server::run(listener, identity.clone(), services, stop.clone()));
        let (failed, failure) = watch::channel(None);
        let supervisor = tokio::spawn(supervise(loops, replicator.clone(), stop.clone(), failed));
        tracing::info!(node = %identity.node_id(), %address, "manager started");
        Self { replicator, identity, address, advertise_addr, stop, failure, supervisor }
    }

    /// What the API asks.
    pub fn control(&self) -> Control {
        Control::new(self.replicator.clone(), self.identity.node_id())
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
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

    /// Stops all loops, then Raft. Nothing acknowledged is lost, not even without this.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.supervisor).await.is_err() {
            tracing::warn!("parts of the manager did not stop in time");
        }
        self.replicator.shutdown().await;
    }
}

/// Waits for the first loop to end. Before `stop` that is a failure, and ends the others.
async fn supervise(
    mut loops: JoinSet<Result<()>>,
    replicator: Replicator,
    stop: CancellationToken,
    failed: watch::Sender<Option<Error>>,
) {
    let reason = tokio::select! {
        ended = loops.join_next() => match ended {
            Some(Ok(Ok(()))) | None => Error::internal("a loop of the manager ended"),
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => Error::internal(format!("a loop of the manager died: {panic}")),
        },
        error = replicator.failed() => error,
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

/// Keys and certificates of a swarm that does not exist yet.
struct Founded {
    cluster_id: ClusterId,
    node_id: NodeId,
    root_ca: RootCa,
    stored: StoredIdentity,
}

impl Founded {
    fn create(init: &SwarmInit) -> Result<Self> {
        let cluster_id = ClusterId(RandomIds.swarm_id());
        let node_id = NodeId(RandomIds.swarm_id());
        let authority = CertificateAuthority::create(now())?;
        let request = CertificateRequest::create()?;
        let subject = NodeSubject { node_id: node_id.clone(), role: Role::Manager, cluster_id: cluster_id.clone() };
        let chain_pem = authority.sign(request.pem(), &subject, now(), init.spec.node_cert_expiry)?;
        let root_pem = authority.cert_pem().to_owned();
        let root_ca = RootCa {
            worker_token: fresh_token(&root_pem)?,
            manager_token: fresh_token(&root_pem)?,
            cert_pem: root_pem.clone(),
            key_pem: authority.key_pem().to_owned(),
        };
        let stored = StoredIdentity { root_pem, chain_pem, key_pem: request.key_pem().to_owned().into() };
        Ok(Self { cluster_id, node_id, root_ca, stored })
    }

    fn facts(&self, init: SwarmInit, advertise_addr: &str) -> Bootstrap {
        let cluster = Cluster {
            id: self.cluster_id.clone(),
            spec: init.spec,
            root_ca: self.root_ca.clone(),
            default_address_pools: init.default_address_pools,
            subnet_size: init.subnet_size,
            data_path_port: init.data_path_port,
            ..Cluster::default()
        };
        let host = host_of(advertise_addr);
        let data_path_address = if init.data_path_address.is_empty() { host.clone() } else { init.data_path_address };
        let node = Node {
            id: self.node_id.clone(),
            spec: NodeSpec { role: Role::Manager, availability: init.availability, ..NodeSpec::default() },
            description: init.description,
            status: NodeStatus { state: NodeState::Unknown, address: host, ..NodeStatus::default() },
            manager_status: Some(ManagerStatus {
                raft_id: FIRST_RAFT_ID,
                address: advertise_addr.to_owned(),
                leader: true,
                reachable: true,
            }),
            role: Role::Manager,
            data_path_address,
            ..Node::default()
        };
        Bootstrap { cluster, node }
    }
}

async fn listen(config: &ManagerConfig) -> Result<(TcpListener, SocketAddr, String)> {
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
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn remove_dir(dir: &Path) -> Result<()> {
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
}
