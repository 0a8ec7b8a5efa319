//! What one node must be told: exactly what its own tasks need, nothing else.

use crate::plan::is_overlay;
use crate::store::Store;
use skep_model::id::{NetworkId, NodeId};
use skep_model::netstate::{
    Backend, ClusterNetState, DesiredIngress, DesiredNetwork, DesiredService, IngressBackend, NetworkKind, Subnet,
};
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, EndpointMode, PublishMode, PullAuth, Service};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The network option for the largest packet.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// A node's whole wanted set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Assignments {
    /// What was assigned to the node and not reaped yet. Ended tasks stay in the set while
    /// they are history, so that their containers can still be looked at; they are never
    /// to be started. What is not in the set is to be stopped and removed.
    pub tasks: BTreeMap<String, Arc<Task>>,
    /// Those that tasks meant to run use, and no others.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub configs: BTreeMap<String, Arc<Config>>,
    /// Its `generation` is set by the sender.
    pub network: ClusterNetState,
}

/// Derives the set from the store.
pub fn assignments(store: &Store, node: &NodeId) -> Assignments {
    let mut assignments = Assignments::default();
    for task in store.tasks_of_node(node.as_str()) {
        if task.status.state == TaskState::Orphaned {
            continue;
        }
        if task.is_wanted() {
            assignments.tasks.insert(task.id.0.clone(), Arc::clone(task));
            add_files(store, task, &mut assignments);
        } else {
            assignments.tasks.insert(task.id.0.clone(), without_credentials(task));
        }
    }
    if let Some(node) = store.node(node.as_str()) {
        assignments.network = network_state(store, node);
    }
    assignments
}

/// What is to pull nothing any more need not be able to.
fn without_credentials(task: &Arc<Task>) -> Arc<Task> {
    if task.spec.container.pull_auth.is_empty() {
        return Arc::clone(task);
    }
    let mut bare = Task::clone(task);
    bare.spec.container.pull_auth = PullAuth::default();
    Arc::new(bare)
}

fn add_files(store: &Store, task: &Task, assignments: &mut Assignments) {
    for reference in &task.spec.container.secrets {
        if let Some(secret) = store.secret(reference.secret_id.as_str()) {
            assignments.secrets.insert(secret.id.0.clone(), Arc::clone(secret));
        }
    }
    for reference in &task.spec.container.configs {
        if let Some(config) = store.config(reference.config_id.as_str()) {
            assignments.configs.insert(config.id.0.clone(), Arc::clone(config));
        }
    }
}

fn network_state(store: &Store, node: &Node) -> ClusterNetState {
    let networks = networks_of(store, node);
    let port = store.cluster().map_or(0, |cluster| cluster.data_path_port);
    let addresses = node.attachments.iter().filter(|(id, _)| networks.iter().any(|network| network.id == **id));
    let services = networks.iter().filter(|network| !network.spec.ingress);
    ClusterNetState {
        generation: 0,
        load_balancer_addresses: addresses.map(|(id, net)| (id.clone(), *net)).collect(),
        services: services.flat_map(|network| services_on(store, network)).collect(),
        ingress: ingress(store, node),
        networks: networks.iter().map(|network| desired_network(network, port)).collect(),
    }
}

/// The overlays of the node's tasks, and the mesh's.
fn networks_of(store: &Store, node: &Node) -> Vec<Arc<ClusterNetwork>> {
    let tasks = store.tasks_of_node(node.id.as_str()).filter(|task| !task.status.state.is_terminal());
    let mut ids: BTreeSet<&NetworkId> =
        tasks.flat_map(|task| task.attachments.iter().map(|leg| &leg.network)).collect();
    ids.extend(store.ingress_network().map(|network| &network.id));
    let networks = ids.into_iter().filter_map(|id| store.network(id.as_str()));
    networks.filter(|network| is_overlay(network) && network.vni != 0).cloned().collect()
}

fn desired_network(network: &ClusterNetwork, vxlan_port: u16) -> DesiredNetwork {
    let subnets =
        network.spec.ipam.iter().filter_map(|config| Some(Subnet { net: config.subnet?, gateway: config.gateway }));
    DesiredNetwork {
        id: network.id.clone(),
        name: network.spec.name.clone(),
        kind: NetworkKind::Overlay { vni: network.vni, vxlan_port },
        subnets: subnets.collect(),
        internal: network.spec.internal,
        mtu: network.spec.options.get(MTU_OPTION).and_then(|mtu| mtu.parse().ok()).unwrap_or(0),
        dns: true,
    }
}

/// Names, virtual addresses and backends of the services on a network.
fn services_on(store: &Store, network: &ClusterNetwork) -> Vec<DesiredService> {
    let mut found = Vec::new();
    for service in store.services() {
        let backends = backends(store, service, &network.id);
        let config = service.spec.task.networks.iter().find(|config| config.target == network.id.as_str());
        let vip = service.endpoint.virtual_ips.iter().find(|vip| vip.network == network.id);
        // One being removed, or moved off the network, keeps its name while tasks run there.
        if backends.is_empty() && (service.pending_delete || config.is_none()) {
            continue;
        }
        found.push(DesiredService {
            id: service.id.clone(),
            name: service.spec.name.clone(),
            aliases: config.map(|config| config.aliases.clone()).unwrap_or_default(),
            network: network.id.clone(),
            vip: vip.filter(|_| service.endpoint.spec.mode == EndpointMode::Vip).map(|vip| vip.address.addr()),
            backends,
        });
    }
    found
}

fn backends(store: &Store, service: &Service, network: &NetworkId) -> Vec<Backend> {
    let mut backends = Vec::new();
    for task in store.tasks_of_service(service.id.as_str()).filter(|task| is_serving(store, task)) {
        let legs = task.attachments.iter().filter(|leg| leg.network == *network);
        let addresses = legs.flat_map(|leg| leg.addresses.iter().map(ipnet::IpNet::addr));
        backends.extend(addresses.map(|address| Backend {
            task: task.id.clone(),
            address,
            name: task.container_name(),
            weight: u16::from(takes_new_connections(task)),
        }));
    }
    backends
}

/// Runs, and its node is not known to be away.
fn is_serving(store: &Store, task: &Task) -> bool {
    let node = store.node(task.node_id.as_str());
    task.status.state == TaskState::Running
        && node.is_some_and(|node| node.status.state != skep_model::node::NodeState::Down)
}

/// A task told to stop drains: it keeps the connections it has.
fn takes_new_connections(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete
}

/// Every port of the mesh is open on every node.
fn ingress(store: &Store, node: &Node) -> Vec<DesiredIngress> {
    let mut ingress = Vec::new();
    for service in store.services() {
        let ports = service.endpoint.ports.iter();
        for port in ports.filter(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0) {
            ingress.push(DesiredIngress {
                service: service.id.clone(),
                published_port: port.published_port,
                target_port: port.target_port,
                protocol: port.protocol,
                backends: ingress_backends(store, service, node),
            });
        }
    }
    ingress
}

fn ingress_backends(store: &Store, service: &Service, node: &Node) -> Vec<IngressBackend> {
    let running = store.tasks_of_service(service.id.as_str()).filter(|task| is_serving(store, task));
    let serving = running.filter(|task| takes_new_connections(task));
    serving.filter_map(|task| ingress_backend(store, task, node)).collect()
}

fn ingress_backend(store: &Store, task: &Task, node: &Node) -> Option<IngressBackend> {
    if task.node_id == node.id {
        let container = task.status.container.as_ref()?.container_id.clone();
        return Some(IngressBackend::Local { task: task.id.clone(), container });
    }
    let node_address = mesh_address(store, store.node(task.node_id.as_str())?)?;
    Some(IngressBackend::Remote { task: task.id.clone(), node_address })
}

fn mesh_address(store: &Store, node: &Node) -> Option<IpAddr> {
    let mesh = store.ingress_network()?;
    node.attachments.get(&mesh.id).map(ipnet::IpNet::addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, spec};
    use skep_model::network::NetworkSpec;
    use skep_model::service::{NetworkAttachmentConfig, PortConfig};

    #[test]
    fn every_node_opens_the_port_and_only_users_know_the_network() {
        let mut world = World::with_nodes(2);
        let net = NetworkSpec { name: "net".into(), ..NetworkSpec::default() };
        let (_, writes) = crate::edit::create_network(&world.store, net, world.now, &mut world.ids).unwrap();
        world.apply(writes).unwrap();
        let mut web = spec("web", 1);
        web.task.networks.push(NetworkAttachmentConfig { target: "net".into(), ..Default::default() });
        web.endpoint.ports.push(PortConfig { target_port: 80, ..PortConfig::default() });
        let id = world.create(web);
        world.work();
        let task = world.running(&id)[0].clone();
        let other = if task.node_id.as_str() == "n1" { "n2" } else { "n1" };
        let (own, other) =
            (assignments(&world.store, &task.node_id).network, assignments(&world.store, &other.into()).network);
        assert_eq!((own.networks.len(), other.networks.len()), (2, 1));
        assert_eq!(own.load_balancer_addresses.len(), 2);
        assert_eq!(own.services[0].backends[0].weight, 1);
        assert!(own.services[0].vip.is_some());
        assert_eq!((own.ingress[0].published_port, other.ingress[0].published_port), (30000, 30000));
        assert!(matches!(own.ingress[0].backends[0], IngressBackend::Local { .. }));
        assert!(matches!(other.ingress[0].backends[0], IngressBackend::Remote { .. }));
        world.remove(&id);
        world.settle();
        let draining = assignments(&world.store, &task.node_id).network;
        assert_eq!(draining.services[0].backends[0].weight, 0);
        assert!(draining.ingress[0].backends.is_empty());
    }

    #[test]
    fn only_nodes_of_tasks_that_are_to_run_get_credentials() {
        let mut world = World::with_nodes(2);
        let mut web = spec("web", 1);
        web.task.container.pull_auth = PullAuth { username: "u".into(), password: "p".into(), ..PullAuth::default() };
        let id = world.create(web);
        world.work();
        let task = world.running(&id)[0].clone();
        let other = if task.node_id.as_str() == "n1" { "n2" } else { "n1" };
        let password = |world: &World, node: &str| {
            let set = assignments(&world.store, &node.into());
            set.tasks.values().map(|task| task.spec.container.pull_auth.password.clone()).collect::<Vec<_>>()
        };
        assert_eq!(password(&world, task.node_id.as_str()), ["p"]);
        assert!(password(&world, other).is_empty());
        world.remove(&id);
        world.settle();
        assert!(password(&world, task.node_id.as_str()).iter().all(String::is_empty));
    }
}
