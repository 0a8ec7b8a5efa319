//! What one node must be told: exactly what its own tasks need, nothing else.

use crate::plan::{Family, is_overlay};
use crate::store::{Holder, Store};
use ipnet::IpNet;
use skep_model::id::{NetworkId, NodeId};
use skep_model::netstate::{
    Backend, ClusterNetState, DesiredIngress, DesiredNetwork, DesiredService, IngressBackend, NetworkKind,
    RemoteEndpoint, Subnet,
};
use skep_model::network::mac_of;
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, EndpointMode, PublishMode, PullAuth, Service};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The network option for the largest packet.
pub(crate) const MTU_OPTION: &str = "com.docker.network.driver.mtu";

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
    Arc::make_mut(&mut bare.spec).container.pull_auth = PullAuth::default();
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
    let own_addresses = |attachments: &BTreeMap<NetworkId, IpNet>| {
        let known = attachments.iter().filter(|(id, _)| networks.iter().any(|network| network.id == **id));
        known.map(|(id, net)| (id.clone(), *net)).collect()
    };
    let services = networks.iter().filter(|network| !network.spec.ingress);
    let serving = serving_nodes(store);
    ClusterNetState {
        generation: 0,
        data_path_address: data_path_address(node),
        remotes: remotes(store, node, &networks, &serving),
        load_balancer_addresses: own_addresses(&node.attachments),
        load_balancer_addresses_ipv6: own_addresses(&node.attachments_ipv6),
        node_addresses: node_addresses(store, node, &serving),
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
    let vni = network.vni;
    let kind = match network.spec.ingress {
        true => NetworkKind::Mesh { vni, vxlan_port },
        false => NetworkKind::Overlay { vni, vxlan_port },
    };
    DesiredNetwork {
        id: network.id.clone(),
        name: network.spec.name.clone(),
        kind,
        subnets: subnets.collect(),
        internal: network.spec.internal,
        mtu: network.spec.options.get(MTU_OPTION).and_then(|mtu| mtu.parse().ok()).unwrap_or(0),
        dns: true,
    }
}

/// Where a node's end of the tunnels is, once it has said so.
fn data_path_address(node: &Node) -> Option<IpAddr> {
    node.data_path_address.parse().ok()
}

/// Other nodes' balancers and tasks on the networks. Of the mesh a node knows those it may
/// exchange packets with: they serve a published port, or it does and anyone may come in.
fn remotes(
    store: &Store,
    own: &Node,
    networks: &[Arc<ClusterNetwork>],
    serving: &BTreeSet<&NodeId>,
) -> BTreeMap<NetworkId, Vec<RemoteEndpoint>> {
    let knows_all = serving.contains(&own.id);
    let mut remotes: BTreeMap<NetworkId, Vec<RemoteEndpoint>> = BTreeMap::new();
    for network in networks {
        let holders = match network.spec.ingress && !knows_all {
            true => balancers(store, network, serving),
            false => holders(store, network),
        };
        let others = holders.into_iter().filter(|(node, _)| node.id != own.id);
        let endpoints = others.filter_map(|(node, addresses)| {
            let (tunnel, mac) = (data_path_address(node)?, mac_of(*addresses.first()?));
            Some(RemoteEndpoint { addresses, mac, tunnel })
        });
        let mut endpoints: Vec<RemoteEndpoint> = endpoints.collect();
        if !endpoints.is_empty() {
            // Equal states must be equal values, whatever order the store has.
            endpoints.sort_unstable();
            remotes.insert(network.id.clone(), endpoints);
        }
    }
    remotes
}

type Addressed<'a> = (&'a Arc<Node>, Vec<IpAddr>);

/// These nodes' balancers on a network. Costs what they are, not what the network has.
fn balancers<'a>(store: &'a Store, network: &ClusterNetwork, nodes: &BTreeSet<&NodeId>) -> Vec<Addressed<'a>> {
    let nodes = nodes.iter().filter_map(|id| store.node(id.as_str()));
    nodes.map(|node| (node, balancer_addresses(node, network))).collect()
}

/// Every node's balancer and every task that has an address on a network.
fn holders<'a>(store: &'a Store, network: &ClusterNetwork) -> Vec<Addressed<'a>> {
    let used = store.addresses(network.id.as_str()).into_iter().flatten();
    let holders = used.filter_map(|(address, holder)| {
        let (node, addresses) = match holder {
            Holder::Node(id) => {
                let node = store.node(id)?;
                (node, balancer_addresses(node, network))
            }
            Holder::Task(id) => {
                let task = store.task(id).filter(|task| has_legs(task))?;
                let legs = task.attachments.iter().filter(|leg| leg.network == network.id);
                let addresses = legs.flat_map(|leg| leg.addresses.iter().map(IpNet::addr)).collect();
                (store.node(task.node_id.as_str())?, addresses)
            }
            Holder::Service(_) => return None,
        };
        // It is listed once for each of its addresses and meant once.
        (addresses.first() == Some(address)).then_some((node, addresses))
    });
    holders.collect()
}

fn balancer_addresses(node: &Node, network: &ClusterNetwork) -> Vec<IpAddr> {
    let held = [&node.attachments, &node.attachments_ipv6];
    held.iter().filter_map(|held| held.get(&network.id)).map(IpNet::addr).collect()
}

/// Addresses of the other nodes of the mesh that this one may exchange packets with.
fn node_addresses(store: &Store, own: &Node, serving: &BTreeSet<&NodeId>) -> BTreeSet<IpAddr> {
    let known: Vec<&Arc<Node>> = match serving.contains(&own.id) {
        true => store.nodes().collect(),
        false => serving.iter().filter_map(|id| store.node(id.as_str())).collect(),
    };
    let others = known.into_iter().filter(|node| node.id != own.id);
    others.flat_map(|node| node.description.addresses.iter().copied()).collect()
}

/// Nodes with a task behind a port of the mesh, whether it can serve already or not.
fn serving_nodes(store: &Store) -> BTreeSet<&NodeId> {
    let services = store.publishing_services().into_iter();
    let tasks = services.flat_map(|service| store.tasks_of_service(service.id.as_str()));
    tasks.filter(|task| has_legs(task)).map(|task| &task.node_id).collect()
}

/// Networks the endpoints of which concern a node: those of its tasks, and the mesh's when it
/// serves a port. The sender asks again when something changes on one of them.
pub fn networks_of_interest(store: &Store, node: &NodeId) -> BTreeSet<NetworkId> {
    let tasks = || store.tasks_of_node(node.as_str()).filter(|task| !task.status.state.is_terminal());
    let mut ids: BTreeSet<NetworkId> =
        tasks().flat_map(|task| task.attachments.iter().map(|leg| leg.network.clone())).collect();
    let publishes = |task: &Arc<Task>| store.service(task.service_id.as_str()).is_some_and(|s| is_published(s));
    if tasks().any(publishes) {
        ids.extend(store.ingress_network().map(|mesh| mesh.id.clone()));
    }
    ids
}

/// Whether a service has a port of the mesh.
pub(crate) fn is_published(service: &Service) -> bool {
    let mut ports = service.endpoint.ports.iter();
    ports.any(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0)
}

/// Its container may be there and have its addresses: from the first preparation to the end.
pub(crate) fn has_legs(task: &Task) -> bool {
    task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

/// Names, virtual addresses and backends of the services on a network.
fn services_on(store: &Store, network: &ClusterNetwork) -> Vec<DesiredService> {
    let mut found = Vec::new();
    let owners = owners_on(store, network);
    for service in store.services() {
        let config = service.spec.task.networks.iter().find(|config| config.target == network.id.as_str());
        if config.is_none() && !owners.contains(service.id.as_str()) {
            continue;
        }
        let backends = backends(store, service, &network.id);
        let has_vip = service.endpoint.spec.mode == EndpointMode::Vip;
        let vip = |family| {
            let vips = service.endpoint.virtual_ips.iter().filter(|vip| has_vip && vip.network == network.id);
            vips.map(|vip| vip.address.addr()).find(|address| Family::of(*address) == family)
        };
        // One being removed, or moved off the network, keeps its name while tasks run there.
        if backends.is_empty() && (service.pending_delete || config.is_none()) {
            continue;
        }
        found.push(DesiredService {
            id: service.id.clone(),
            name: service.spec.name.clone(),
            aliases: config.map(|config| config.aliases.clone()).unwrap_or_default(),
            network: network.id.clone(),
            vip: vip(Family::V4),
            vip_ipv6: vip(Family::V6),
            backends,
        });
    }
    found
}

/// Ids of services with a task on a network.
fn owners_on<'a>(store: &'a Store, network: &ClusterNetwork) -> BTreeSet<&'a str> {
    let holders = store.addresses(network.id.as_str()).into_iter().flat_map(BTreeMap::values);
    let tasks = holders.filter_map(|holder| match holder {
        Holder::Task(id) => store.task(id),
        Holder::Node(_) | Holder::Service(_) => None,
    });
    tasks.map(|task| task.service_id.as_str()).collect()
}

fn backends(store: &Store, service: &Service, network: &NetworkId) -> Vec<Backend> {
    let mut backends = Vec::new();
    for task in store.tasks_of_service(service.id.as_str()).filter(|task| is_serving(store, task)) {
        let legs = task.attachments.iter().filter(|leg| leg.network == *network);
        let addresses = legs.flat_map(|leg| leg.addresses.iter().map(IpNet::addr));
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
pub(crate) fn takes_new_connections(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete
}

/// Every port of the mesh is open on every node.
fn ingress(store: &Store, node: &Node) -> Vec<DesiredIngress> {
    let mut ingress = Vec::new();
    for service in store.publishing_services() {
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
    running.filter_map(|task| ingress_backend(store, task, node)).collect()
}

fn ingress_backend(store: &Store, task: &Task, node: &Node) -> Option<IngressBackend> {
    if task.node_id == node.id {
        let container = task.status.container.as_ref()?.container_id.clone();
        let draining = !takes_new_connections(task);
        return Some(IngressBackend::Local { task: task.id.clone(), container, draining });
    }
    if !takes_new_connections(task) {
        return None;
    }
    let node_address = mesh_address(store, store.node(task.node_id.as_str())?)?;
    Some(IngressBackend::Remote { task: task.id.clone(), node_address, ipv6: task.status.has_ipv6() })
}

fn mesh_address(store: &Store, node: &Node) -> Option<IpAddr> {
    let mesh = store.ingress_network()?;
    node.attachments.get(&mesh.id).map(IpNet::addr)
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
        let other = NodeId::from(other);
        let own = assignments(&world.store, &task.node_id).network;
        let elsewhere = assignments(&world.store, &other).network;
        assert_eq!((own.networks.len(), elsewhere.networks.len()), (2, 1));
        assert_eq!(own.load_balancer_addresses.len(), 2);
        assert_eq!(own.services[0].backends[0].weight, 1);
        assert!(own.services[0].vip.is_some());
        assert_eq!((own.ingress[0].published_port, elsewhere.ingress[0].published_port), (30000, 30000));
        assert!(matches!(own.ingress[0].backends[0], IngressBackend::Local { .. }));
        assert!(matches!(elsewhere.ingress[0].backends[0], IngressBackend::Remote { .. }));
        world.remove(&id);
        world.settle();
        let draining = assignments(&world.store, &task.node_id).network;
        assert_eq!(draining.services[0].backends[0].weight, 0);
        assert!(matches!(draining.ingress[0].backends[0], IngressBackend::Local { draining: true, .. }));
        let elsewhere = assignments(&world.store, &other).network;
        assert!(elsewhere.ingress[0].backends.is_empty());
    }

    #[test]
    fn a_node_knows_the_remote_endpoints_of_its_own_networks_only() {
        let mut world = World::with_nodes(3);
        for name in ["one", "two"] {
            let net = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
            let (_, writes) = crate::edit::create_network(&world.store, net, world.now, &mut world.ids).unwrap();
            world.apply(writes).unwrap();
        }
        let service = |name: &str, replicas| {
            let mut web = spec(name, replicas);
            web.task.networks.push(NetworkAttachmentConfig { target: name.into(), ..Default::default() });
            web
        };
        let (everywhere, alone) = (world.create(service("one", 3)), world.create(service("two", 1)));
        world.work();
        let lonely = world.running(&alone)[0].clone();
        let state = |world: &World, node: &NodeId| assignments(&world.store, node).network;
        for task in world.running(&everywhere) {
            let network = &task.attachments[0].network;
            let state = state(&world, &task.node_id);
            assert_eq!(state.data_path_address, Some("192.0.2.1".parse().unwrap()));
            // Two other tasks and two other balancers, and no address of its own.
            let remotes = &state.remotes[network];
            assert_eq!(remotes.len(), 4);
            assert!(remotes.iter().all(|remote| remote.mac == mac_of(remote.addresses[0])));
            let own = [task.attachments[0].addresses[0].addr(), state.load_balancer_addresses[network].addr()];
            assert!(remotes.iter().all(|remote| !own.contains(&remote.addresses[0])));
            let others = state.remotes.contains_key(&lonely.attachments[0].network);
            assert!(!others, "a network with tasks on one node has nothing remote");
            let mesh = &world.store.ingress_network().unwrap().id;
            assert!(!state.remotes.contains_key(mesh), "nobody serves a port");
            assert!(state.networks.iter().any(|n| n.id == *mesh && matches!(n.kind, NetworkKind::Mesh { .. })));
        }
        let (first, gone) = (world.running(&everywhere)[0].clone(), world.running(&everywhere)[1].clone());
        let address = gone.attachments[0].addresses[0].addr();
        let knows = |world: &World| {
            let state = state(world, &first.node_id);
            state.remotes[&first.attachments[0].network].iter().any(|remote| remote.addresses.contains(&address))
        };
        world.report(&gone, TaskState::Starting);
        assert!(knows(&world), "a status never goes back");
        world.report(&gone, TaskState::Failed);
        assert!(!knows(&world), "an ended task's address is no longer there");
    }

    #[test]
    fn on_a_network_with_ipv6_everybody_has_an_address_of_each_family() {
        let mut world = World::with_nodes(2);
        let net = NetworkSpec { name: "net".into(), enable_ipv6: true, ..NetworkSpec::default() };
        let (id, writes) = crate::edit::create_network(&world.store, net, world.now, &mut world.ids).unwrap();
        world.apply(writes).unwrap();
        let mut web = spec("web", 2);
        web.task.networks.push(NetworkAttachmentConfig { target: "net".into(), ..Default::default() });
        let service = world.create(web);
        world.work();
        let (tasks, network) = (world.running(&service), world.store.network(id.as_str()).unwrap().clone());
        let subnets: Vec<IpNet> = network.spec.ipam.iter().filter_map(|config| config.subnet).collect();
        assert!(matches!(subnets[..], [IpNet::V4(_), IpNet::V6(v6)] if v6.addr().octets()[0] == 0xfd));
        let is_dual = |list: &[IpAddr]| list.len() == 2 && subnets.iter().zip(list).all(|(net, ip)| net.contains(ip));
        for task in &tasks {
            let own: Vec<IpAddr> = task.attachments[0].addresses.iter().map(IpNet::addr).collect();
            assert!(is_dual(&own), "{own:?}");
            let state = assignments(&world.store, &task.node_id).network;
            let service = &state.services[0];
            assert!(is_dual(&service.vips().collect::<Vec<_>>()));
            assert_eq!(service.backends.len(), 4, "two tasks, two addresses each");
            let balancer = [&state.load_balancer_addresses, &state.load_balancer_addresses_ipv6];
            assert!(is_dual(&balancer.map(|addresses| addresses[&id].addr())));
            let remotes = &state.remotes[&id];
            assert!(remotes.len() == 2 && remotes.iter().all(|remote| is_dual(&remote.addresses)), "{remotes:?}");
            assert!(remotes.iter().all(|remote| remote.mac == mac_of(remote.addresses[0])));
        }
        // Two tasks, two balancers and the service, two addresses each, none of them twice.
        assert_eq!(world.store.addresses(id.as_str()).map(BTreeMap::len), Some(10));
        world.remove(&service);
        world.work();
        assert_eq!(world.store.addresses(id.as_str()), None);
    }

    #[test]
    fn on_the_mesh_a_node_knows_who_serves_and_who_serves_knows_all() {
        let mut world = World::with_nodes(4);
        let mut web = spec("web", 1);
        web.endpoint.ports.push(PortConfig { target_port: 80, ..PortConfig::default() });
        let id = world.create(web);
        world.work();
        let mesh = world.store.ingress_network().unwrap().id.clone();
        let known = |world: &World, node: &NodeId| {
            let remotes = assignments(&world.store, node).network.remotes;
            remotes.get(&mesh).map_or(0, Vec::len)
        };
        let serving = world.running(&id)[0].node_id.clone();
        for number in 1..=4 {
            let node = NodeId(format!("n{number}"));
            assert_eq!(known(&world, &node), if node == serving { 3 } else { 1 }, "{node}");
            let interests = networks_of_interest(&world.store, &node);
            assert_eq!(interests.contains(&mesh), node == serving, "{node}");
        }
        world.remove(&id);
        world.settle();
        assert_eq!(known(&world, &serving), 3, "the task drains, its connections go on");
        world.work();
        assert!((1..=4).all(|number| known(&world, &NodeId(format!("n{number}"))) == 0));
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
