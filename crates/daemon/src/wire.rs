//! Builds the daemon in order, serves, and takes it down in reverse.

use crate::config::{Config, DEFAULT_GROUP, Host};
use crate::facts;
use crate::lock::{DataRootLock, PidFile};
use crate::membership::MembershipStore;
use crate::netd_attach::NetdAttach;
use crate::netd_process::{NetdCommand, NetdProcess};
use crate::role::{Roles, Surroundings};
use anyhow::{Context, Result};
use nix::unistd::{Gid, Group};
use skep_api::{Backend, Listener};
use skep_engine::{Engine, EngineConfig};
use skep_model::netstate::LocalNetState;
use skep_netd::client::NetdClient;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When a part cannot be started. What was started before it is ended again.
pub(crate) async fn run(config: Config) -> Result<()> {
    let started = Instant::now();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // One crypto provider for every TLS user in the process; a second call is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let signals = Signals::listen()?;
    make_directory(&config.data_root)?;
    make_directory(&config.exec_root)?;
    let _lock = DataRootLock::take(&config.data_root)?;
    let _pidfile = PidFile::create(&config.pidfile)?;
    let listeners = bind(&config).await?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let netd = NetdProcess::start(NetdCommand::new(&config, program.clone())).await?;
    let served = serve(&config, program, &netd, listeners, signals, started).await;
    // After a failed start nothing may stay behind that was not there before.
    let leave_netd = served.as_ref().copied().unwrap_or_else(|_| !netd.started_here());
    if leave_netd {
        netd.release().await;
    } else {
        netd.end().await;
    }
    remove_sockets(&config);
    served.map(|_| ())
}

/// Serves until a signal; answers whether netd is still needed.
async fn serve(
    config: &Config,
    program: PathBuf,
    netd: &NetdProcess,
    listeners: Vec<Listener>,
    signals: Signals,
    started: Instant,
) -> Result<bool> {
    let attach = Arc::new(NetdAttach(netd.client()));
    let engine =
        Engine::open(engine_config(config, program), attach.clone()).await.context("cannot open the engine")?;
    // After the engine has seen what containers are to have.
    raise_descriptor_limit();
    let system = Arc::new(facts::system_info(config)?);
    let roles = Roles::new(Surroundings {
        engine: engine.clone(),
        netd: netd.client(),
        system: system.clone(),
        store: MembershipStore::new(config.data_root.join("swarm")),
        default_advertise_addr: config.swarm_default_advertise_addr.clone(),
    });
    roles.resume().context("cannot read this node's membership")?;
    let backend = Backend { engine: engine.clone(), swarm: Arc::new(roles.clone()), network: attach, system };
    tracing::info!(after = ?started.elapsed(), "the daemon is ready");
    skep_api::serve(backend, listeners, signals.first()).await?;
    end_within(config.shutdown_timeout, "the swarm's part", roles.shutdown()).await;
    end_within(config.shutdown_timeout, "the engine", engine.shutdown()).await;
    let runs = engine.list().iter().any(|container| container.state.status.is_running());
    let needs_network = runs || roles.is_member();
    if !needs_network && let Err(error) = clear_network(&netd.client()).await {
        tracing::warn!(%error, "the network's kernel objects stay until the next start");
    }
    Ok(needs_network)
}

/// A leader keeps a connection to every node of its swarm.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// With nothing left to connect, bridges and rules go too: an idle daemon that ends leaves
/// the kernel as it found it.
async fn clear_network(netd: &NetdClient) -> skep_model::Result<()> {
    netd.clear_cluster().await?;
    netd.sync_local(LocalNetState::default()).await
}

async fn end_within(max: Duration, what: &str, end: impl Future<Output = ()>) {
    if tokio::time::timeout(max, end).await.is_err() {
        tracing::warn!("{what} did not end in time");
    }
}

fn engine_config(config: &Config, program: PathBuf) -> EngineConfig {
    EngineConfig {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        program,
        insecure_registries: config.insecure_registries.clone(),
        registry_mirrors: config.registry_mirrors.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        dns: config.dns.clone(),
        dns_search: config.dns_search.clone(),
        dns_options: config.dns_options.clone(),
        bridge_address: config.bridge_address,
    }
}

/// Others may look for their own containers' files below it, but not list it.
fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path).with_context(|| path.display().to_string())
}

async fn bind(config: &Config) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for host in &config.hosts {
        listeners.push(match host {
            Host::Unix(path) => bind_unix(path, config.group.as_deref())?,
            Host::Tcp(address) => {
                tracing::warn!(%address, "serving the API without TLS: every user of this machine can become root");
                Listener::Tcp(TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?)
            }
        });
    }
    Ok(listeners)
}

fn bind_unix(path: &Path, group: Option<&str>) -> Result<Listener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    let group = find_group(group)?;
    let listener = Listener::bind_unix(path)?;
    if let Some(group) = group {
        nix::unistd::chown(path, None, Some(group))
            .with_context(|| format!("cannot give {} to group {group}", path.display()))?;
    }
    Ok(listener)
}

/// The named group must exist; the usual one is taken if it does.
fn find_group(wanted: Option<&str>) -> Result<Option<Gid>> {
    let name = wanted.unwrap_or(DEFAULT_GROUP);
    if let Ok(number) = name.parse::<u32>() {
        return Ok(Some(Gid::from_raw(number)));
    }
    let found = Group::from_name(name).with_context(|| format!("cannot look up group {name}"))?;
    if found.is_none() && wanted.is_some_and(|name| !name.is_empty()) {
        anyhow::bail!("group {name} not found");
    }
    Ok(found.map(|group| group.gid))
}

fn remove_sockets(config: &Config) {
    for host in &config.hosts {
        if let Host::Unix(path) = host {
            // The next start replaces a stale one.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The signals that end the daemon; caught from the very start.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Resolves at the first of them.
    async fn first(mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "ending; containers go on");
    }
}
