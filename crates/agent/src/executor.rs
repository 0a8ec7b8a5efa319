//! Where decisions become containers: the seam between a task and the machine.

use crate::spec::{TASK_ID_LABEL, TASK_LABEL, container_spec, needs_gateway};
use crate::step::Started;
use crate::template::NodeFacts;
use async_trait::async_trait;
use skep_engine::Engine;
use skep_engine::container::{RemoveOptions, WaitCondition};
use skep_engine::image::RegistryAuth;
use skep_engine::network::GATEWAY_NETWORK;
use skep_model::container::{ContainerInfo, ContainerStatus, HealthStatus, InjectedFile};
use skep_model::id::{ContainerId, EndpointId, NetworkId, TaskId};
use skep_model::image::Reference;
use skep_model::netstate::{ClusterNetState, DesiredNetwork, NetworkKind};
use skep_model::network::{IpamConfig, NetworkContainer, NetworkInfo, NetworkScope, NetworkSpec, mac_of, mac_text};
use skep_model::service::{PortConfig, PublishMode, PullAuth};
use skep_model::task::{Task, TaskContainerStatus};
use skep_model::{Error, ErrorKind, Result};
use skep_netd::client::NetdClient;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a registry may take to say whether a tag has moved. After that the image that
/// is here is used.
const REGISTRY_ANSWER_MAX: Duration = Duration::from_secs(3);
const PULL_PROGRESS_QUEUE: usize = 64;
const VXLAN_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// What `watch` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Healthy,
    Exit,
}

/// What `watch` saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Healthy,
    Unhealthy,
    Exited { container: TaskContainerStatus, cause: String },
}

/// Does to one task's container what the step machine says. Every call is idempotent, may
/// be repeated after a restart of the daemon, and answers `Unavailable` for what may pass.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Image and container are here afterwards. Cancelling gives up a pull.
    async fn prepare(&self, task: &Task, files: Vec<InjectedFile>, cancel: &CancellationToken) -> Result<()>;

    /// Starts the container unless it was started before.
    async fn start(&self, task: &Task, files: Vec<InjectedFile>) -> Result<Started>;

    /// Waits for what `until` names or anything worse. May be dropped at any time.
    async fn watch(&self, task: &Task, until: Until) -> Result<Seen>;

    /// Stops with the task's grace period. `None`: there is no container.
    async fn stop(&self, task: &Task) -> Result<Option<TaskContainerStatus>>;

    /// Removes the container with its anonymous volumes, running or not.
    async fn remove(&self, task: &TaskId) -> Result<()>;

    /// Tasks that have a container on this node.
    async fn tasks(&self) -> Result<BTreeSet<TaskId>>;

    /// Makes this node's share of the swarm's networks so; answers once the kernel agrees.
    async fn apply_network(&self, state: &ClusterNetState) -> Result<()>;

    /// Removes all of it.
    async fn clear_network(&self) -> Result<()>;

    /// What templates may say of this node.
    fn node(&self) -> NodeFacts {
        NodeFacts::default()
    }
}

/// The executor of a real node.
pub struct EngineExecutor {
    engine: Engine,
    netd: NetdClient,
    node: NodeFacts,
    /// Networks of the swarm that the engine was told of.
    adopted: Mutex<BTreeSet<NetworkId>>,
    /// Containers made by this process: their secrets are in the engine's memory.
    created: Mutex<BTreeSet<ContainerId>>,
}

impl EngineExecutor {
    pub fn new(engine: Engine, netd: NetdClient, node: NodeFacts) -> Self {
        Self { engine, netd, node, adopted: Mutex::default(), created: Mutex::default() }
    }

    /// The task's container, whatever its name is by now.
    fn find_task(&self, task: &Task) -> Option<Arc<ContainerInfo>> {
        let named = self.engine.inspect(&task.container_name()).ok();
        named.filter(|info| task_of(info).as_ref() == Some(&task.id)).or_else(|| self.find(&task.id))
    }

    fn find(&self, task: &TaskId) -> Option<Arc<ContainerInfo>> {
        self.engine.list().into_iter().find(|info| task_of(info).as_ref() == Some(task))
    }

    fn require(&self, task: &Task) -> Result<Arc<ContainerInfo>> {
        self.find_task(task).ok_or_else(|| Error::not_found(format!("No such container: {}", task.container_name())))
    }

    fn is_created_here(&self, id: &ContainerId) -> bool {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// A container that never ran and that an earlier process made is useless, because its
    /// secrets went with that process: it is made again.
    async fn ensure_container(&self, task: &Task, files: Vec<InjectedFile>) -> Result<()> {
        if let Some(info) = self.find_task(task) {
            if was_started(&info) || self.is_created_here(&info.id) {
                return Ok(());
            }
            self.remove_container(&info.id).await?;
        }
        let gateway = if needs_gateway(task) { Some(self.engine.gateway_network().await?.spec.name) } else { None };
        let spec = container_spec(task, &self.node, gateway.as_deref(), files)?;
        let (id, warnings) = self.engine.create(spec).await?;
        for warning in warnings {
            tracing::warn!(task = %task.id, "{warning}");
        }
        self.created.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let options = RemoveOptions { force: true, volumes: true };
        let removed = self.engine.remove(id.as_str(), options).await;
        self.created.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        unless(removed, &[ErrorKind::NotFound])
    }

    /// An image pinned by digest is as good here as anywhere. A tag may have moved, so its
    /// registry is asked; but a registry that does not answer keeps no task from running
    /// when an image is here, and images that never were in a registry are used as they are.
    async fn ensure_image(&self, task: &Task, cancel: &CancellationToken) -> Result<()> {
        let image = task.spec.container.image.as_str();
        let auth = pull_auth(task);
        let reference = Reference::parse(image)?.with_default_tag();
        if let Ok(local) = self.engine.images().resolve(image) {
            if reference.digest.is_some() || local.repo_digests.is_empty() {
                return Ok(());
            }
            let asked = self.engine.images().remote_digest(image, auth.clone());
            let digest = match tokio::time::timeout(REGISTRY_ANSWER_MAX, asked).await {
                Ok(Ok(remote)) => remote.digest,
                Ok(Err(_)) | Err(_) => return Ok(()),
            };
            if local.repo_digests.iter().any(|known| known.ends_with(&digest)) {
                return Ok(());
            }
        }
        if let Err(error) = self.pull(image, auth, cancel).await {
            // The engine says `No such image` at creation when none is here.
            tracing::warn!(image, %error, "pulling the image of a task failed");
        }
        Ok(())
    }

    async fn pull(&self, image: &str, auth: Option<RegistryAuth>, cancel: &CancellationToken) -> Result<()> {
        let (sender, mut progress) = mpsc::channel(PULL_PROGRESS_QUEUE);
        let drain = async move { while progress.recv().await.is_some() {} };
        let pull = self.engine.images().pull(image, None, auth, sender);
        tokio::select! {
            (pulled, ()) = async { tokio::join!(pull, drain) } => pulled.map(|_| ()),
            () = cancel.cancelled() => Err(Error::unavailable("the pull was given up")),
        }
    }

    async fn adopt_networks(&self, state: &ClusterNetState) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for network in &state.networks {
            if let Some(info) = network_info(state, network) {
                wanted.insert(info.id.clone());
                self.engine.network_adopt(info).await?;
            }
        }
        let before =
            std::mem::replace(&mut *self.adopted.lock().unwrap_or_else(PoisonError::into_inner), wanted.clone());
        for id in before.difference(&wanted) {
            if let Err(error) = self.engine.network_remove(id.as_str()).await {
                // Containers of ended tasks may still name it; nothing depends on its going.
                tracing::debug!(network = %id, %error, "a network of the swarm stays known");
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Executor for EngineExecutor {
    async fn prepare(&self, task: &Task, files: Vec<InjectedFile>, cancel: &CancellationToken) -> Result<()> {
        self.ensure_image(task, cancel).await?;
        if cancel.is_cancelled() {
            return Err(Error::unavailable("preparing was given up"));
        }
        self.ensure_container(task, files).await
    }

    async fn start(&self, task: &Task, files: Vec<InjectedFile>) -> Result<Started> {
        self.ensure_container(task, files).await?;
        let info = self.require(task)?;
        if !was_started(&info) {
            unless(self.engine.start(info.id.as_str()).await, &[ErrorKind::NotModified])?;
        }
        let info = self.engine.inspect(info.id.as_str())?;
        Ok(Started { container: container_status(&info), ports: bound_ports(task, &info), healthy: is_healthy(&info) })
    }

    async fn watch(&self, task: &Task, until: Until) -> Result<Seen> {
        let (_, mut events) = self.engine.events().subscribe(None);
        let id = self.require(task)?.id.clone();
        let exited = self.engine.wait(id.as_str(), WaitCondition::NotRunning)?;
        tokio::pin!(exited);
        loop {
            let info = self.engine.inspect(id.as_str())?;
            if info.state.status.is_running() {
                match info.state.health.as_ref().map(|health| health.status) {
                    Some(HealthStatus::Unhealthy) => return Ok(Seen::Unhealthy),
                    Some(HealthStatus::Starting) => {}
                    Some(HealthStatus::Healthy | HealthStatus::None) | None if until == Until::Healthy => {
                        return Ok(Seen::Healthy);
                    }
                    Some(HealthStatus::Healthy | HealthStatus::None) | None => {}
                }
            }
            tokio::select! {
                result = &mut exited => {
                    let info = self.engine.inspect(id.as_str())?;
                    let mut container = container_status(&info);
                    container.exit_code = result.exit_code;
                    return Ok(Seen::Exited { container, cause: result.error });
                }
                () = health_change(&mut events, &id) => {}
            }
        }
    }

    async fn stop(&self, task: &Task) -> Result<Option<TaskContainerStatus>> {
        let Some(info) = self.find_task(task) else { return Ok(None) };
        let stopped = self.engine.stop(info.id.as_str(), None, None).await;
        unless(stopped, &[ErrorKind::NotModified, ErrorKind::NotFound])?;
        let after = self.engine.inspect(info.id.as_str()).unwrap_or(info);
        if after.state.status.is_running() {
            return Err(Error::internal(format!("container {} did not stop", after.id)));
        }
        Ok(Some(container_status(&after)))
    }

    async fn remove(&self, task: &TaskId) -> Result<()> {
        match self.find(task) {
            Some(info) => self.remove_container(&info.id).await,
            None => Ok(()),
        }
    }

    async fn tasks(&self) -> Result<BTreeSet<TaskId>> {
        Ok(self.engine.list().iter().filter_map(|info| task_of(info)).collect())
    }

    async fn apply_network(&self, state: &ClusterNetState) -> Result<()> {
        self.netd.set_cluster(state.clone()).await?;
        self.adopt_networks(state).await
    }

    async fn clear_network(&self) -> Result<()> {
        self.adopt_networks(&ClusterNetState::default()).await?;
        self.netd.clear_cluster().await
    }

    fn node(&self) -> NodeFacts {
        self.node.clone()
    }
}

fn pull_auth(task: &Task) -> Option<RegistryAuth> {
    let PullAuth { username, password, identity_token } = task.spec.container.pull_auth.clone();
    let given = !task.spec.container.pull_auth.is_empty();
    given.then_some(RegistryAuth { username, password, identity_token })
}

/// Returns when the container's health may have changed. For a container without a health
/// check that is never.
async fn health_change(events: &mut tokio::sync::broadcast::Receiver<skep_engine::events::Event>, id: &ContainerId) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(event) if event.id == id.0 && event.action.starts_with("health_status") => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// `Ok` for the kinds that mean the wanted state is there already.
fn unless(result: Result<()>, fine: &[ErrorKind]) -> Result<()> {
    match result {
        Err(error) if fine.contains(&error.kind) => Ok(()),
        other => other,
    }
}

fn task_of(info: &ContainerInfo) -> Option<TaskId> {
    let labels = &info.config.labels;
    labels.get(TASK_LABEL)?;
    labels.get(TASK_ID_LABEL).map(|id| TaskId(id.clone()))
}

fn was_started(info: &ContainerInfo) -> bool {
    info.state.status != ContainerStatus::Created && info.state.started_at.is_set()
}

fn is_healthy(info: &ContainerInfo) -> bool {
    info.state.health.as_ref().is_none_or(|health| matches!(health.status, HealthStatus::Healthy | HealthStatus::None))
}

fn container_status(info: &ContainerInfo) -> TaskContainerStatus {
    let ipv6 = info.endpoints.get(GATEWAY_NETWORK).is_some_and(|leg| leg.ipv6_address.is_some());
    TaskContainerStatus { container_id: info.id.clone(), pid: info.state.pid, ipv6, exit_code: info.state.exit_code }
}

/// The task's host-mode ports with the numbers that were really bound.
fn bound_ports(task: &Task, info: &ContainerInfo) -> Vec<PortConfig> {
    let mut bound: BTreeMap<_, Vec<u16>> = BTreeMap::new();
    for (key, bindings) in &info.ports {
        let numbers: BTreeSet<u16> = bindings.iter().map(|binding| binding.host_port).collect();
        bound.insert((key.port, key.protocol), numbers.into_iter().collect());
    }
    let host_ports = task.endpoint.ports.iter().filter(|port| port.publish_mode == PublishMode::Host);
    host_ports
        .map(|port| {
            let numbers = bound.entry((port.target_port, port.protocol)).or_default();
            let position = numbers.iter().position(|number| port.published_port == 0 || *number == port.published_port);
            let published_port = position.map_or(port.published_port, |position| numbers.remove(position));
            PortConfig { published_port, ..port.clone() }
        })
        .collect()
}

/// An overlay as the engine shows it. The node's own networks need no telling.
fn network_info(state: &ClusterNetState, network: &DesiredNetwork) -> Option<NetworkInfo> {
    let (vni, ingress) = match network.kind {
        NetworkKind::Overlay { vni, .. } => (vni, false),
        NetworkKind::Mesh { vni, .. } => (vni, true),
        NetworkKind::Bridge { .. } => return None,
    };
    let ipam = network.subnets.iter().map(|subnet| IpamConfig {
        subnet: Some(subnet.net),
        ip_range: None,
        gateway: subnet.gateway,
        aux_addresses: BTreeMap::new(),
    });
    Some(NetworkInfo {
        id: network.id.clone(),
        scope: NetworkScope::Swarm,
        spec: NetworkSpec {
            name: network.name.clone(),
            driver: "overlay".into(),
            internal: network.internal,
            enable_ipv6: network.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()),
            ingress,
            options: [(VXLAN_OPTION.to_owned(), vni.to_string())].into(),
            ipam_driver: "default".into(),
            ipam: ipam.collect(),
            ..NetworkSpec::default()
        },
        vni,
        balancer: balancer_leg(state, network),
        peers: peers(state, network),
        ..NetworkInfo::default()
    })
}

fn balancer_leg(state: &ClusterNetState, network: &DesiredNetwork) -> Option<NetworkContainer> {
    let own = *state.load_balancer_addresses.get(&network.id)?;
    Some(NetworkContainer {
        name: format!("{}-endpoint", network.name),
        // Nothing else has it: an id of an endpoint is as long and is made of the same digits.
        endpoint_id: EndpointId(format!("{:0<64.64}", hex_text(network.id.as_str()))),
        mac_address: mac_text(mac_of(own.addr())),
        ipv4: Some(own),
        ipv6: state.load_balancer_addresses_ipv6.get(&network.id).copied(),
    })
}

fn hex_text(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// This node and those that have something on the network.
fn peers(state: &ClusterNetState, network: &DesiredNetwork) -> Vec<IpAddr> {
    let remotes = state.remotes.get(&network.id).into_iter().flatten().map(|remote| remote.tunnel);
    let nodes: BTreeSet<IpAddr> = remotes.chain(state.data_path_address).collect();
    nodes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::network::{PortBinding, PortKey, Protocol};

    fn host_port(published_port: u16) -> PortConfig {
        PortConfig { target_port: 80, published_port, publish_mode: PublishMode::Host, ..PortConfig::default() }
    }

    #[test]
    fn host_ports_report_the_numbers_that_were_bound() {
        let mut task = Task::default();
        task.endpoint.ports = vec![host_port(8080), host_port(0)];
        let mut info = ContainerInfo::default();
        let binding = |host_port| PortBinding { host_port, ..PortBinding::default() };
        let key = PortKey { port: 80, protocol: Protocol::Tcp };
        // Both address families are listed.
        info.ports.insert(key, vec![binding(8080), binding(8080), binding(49153), binding(49153)]);
        let numbers: Vec<u16> = bound_ports(&task, &info).iter().map(|port| port.published_port).collect();
        assert_eq!(numbers, [8080, 49153]);
    }

    #[test]
    fn only_marked_containers_are_tasks() {
        let mut info = ContainerInfo::default();
        info.config.labels.insert(TASK_ID_LABEL.into(), "t1".into());
        assert_eq!(task_of(&info), None);
        info.config.labels.insert(TASK_LABEL.into(), String::new());
        assert_eq!(task_of(&info), Some("t1".into()));
    }

    #[test]
    fn a_container_that_ran_is_never_made_again() {
        let mut info = ContainerInfo::default();
        assert!(!was_started(&info));
        info.state.status = ContainerStatus::Exited;
        info.state.started_at = skep_model::Timestamp(1);
        assert!(was_started(&info));
    }
}
