//! Whom a command concerns, so that of ten thousand nodes only those are told anew whose
//! assignments may differ. Kept next to [`crate::assign`], of which it must know every input.

use crate::assign::{has_legs, is_published, takes_new_connections};
use crate::command::{Command, Key, Kind};
use crate::store::Store;
use skep_model::id::{NetworkId, NodeId};
use skep_model::node::{Node, NodeState, Role};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::{Task, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whose assignments, and whose word on themselves and their managers, may differ after a
/// change. It may name too many, never too few.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Audience {
    /// Everyone's assignments.
    pub everyone: bool,
    /// These nodes' assignments.
    pub nodes: BTreeSet<NodeId>,
    /// Assignments of nodes that have an interest in these networks
    /// ([`crate::assign::networks_of_interest`], before or after).
    pub networks: BTreeSet<NetworkId>,
    /// Everyone's session: the swarm, its managers, or who is to be one.
    pub all_sessions: bool,
    /// These nodes' sessions: they themselves changed.
    pub sessions: BTreeSet<NodeId>,
}

/// What the objects that a command changes were before it.
#[derive(Debug, Default)]
pub struct Before(Vec<(Key, Known)>);

#[derive(Debug)]
enum Known {
    Node(Option<Arc<Node>>),
    Service(Option<Arc<Service>>),
    Task(Option<Arc<Task>>),
    Network(Option<Arc<ClusterNetwork>>),
    /// A secret or config: whether it was there.
    File(bool),
    Cluster,
}

impl Before {
    /// To be taken before the command is applied.
    pub fn of(store: &Store, command: &Command) -> Self {
        let known = |key: &Key| match key.kind {
            Kind::Node => Known::Node(store.node(&key.id).cloned()),
            Kind::Service => Known::Service(store.service(&key.id).cloned()),
            Kind::Task => Known::Task(store.task(&key.id).cloned()),
            Kind::Network => Known::Network(store.network(&key.id).cloned()),
            Kind::Secret => Known::File(store.secret(&key.id).is_some()),
            Kind::Config => Known::File(store.config(&key.id).is_some()),
            Kind::Cluster => Known::Cluster,
        };
        let keys = command.writes.iter().map(crate::command::Write::key);
        Self(keys.map(|key| (key.clone(), known(&key))).collect())
    }

    /// Whom the difference to the store after the command concerns.
    pub fn audience(&self, after: &Store) -> Audience {
        let mut audience = Audience::default();
        for (key, known) in &self.0 {
            match known {
                Known::Node(old) => audience.add_node(after, &key.id, old.as_deref()),
                Known::Service(old) => audience.add_service(old.as_deref(), after.service(&key.id).map(|s| &**s)),
                Known::Task(old) => audience.add_task(after, old.as_deref(), after.task(&key.id).map(|t| &**t)),
                Known::Network(old) => audience.add_network(old.as_deref(), after.network(&key.id).map(|n| &**n)),
                // Nobody has one that is new; tasks that will have it come with keys of their own.
                Known::File(was_there) => audience.everyone |= was_there,
                Known::Cluster => {
                    audience.everyone = true;
                    audience.all_sessions = true;
                }
            }
        }
        audience
    }
}

impl Audience {
    /// Nobody can tell what changed.
    pub fn all() -> Self {
        Self { everyone: true, all_sessions: true, ..Self::default() }
    }

    /// Whether it is nobody.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add_node(&mut self, after: &Store, id: &str, old: Option<&Node>) {
        let new = after.node(id).map(|node| &**node);
        self.nodes.insert(id.into());
        self.sessions.insert(id.into());
        self.all_sessions |= old.and_then(manager_face) != new.and_then(manager_face);
        if old.map(node_face) == new.map(node_face) {
            return;
        }
        for node in old.into_iter().chain(new) {
            self.networks.extend(node.attachments.keys().chain(node.attachments_ipv6.keys()).cloned());
        }
        for task in after.tasks_of_node(id).filter(|task| has_legs(task)) {
            self.add_face(after, task);
        }
    }

    fn add_task(&mut self, after: &Store, old: Option<&Task>, new: Option<&Task>) {
        for task in old.into_iter().chain(new).filter(|task| !task.node_id.is_empty()) {
            self.nodes.insert(task.node_id.clone());
        }
        if old.map(task_face) != new.map(task_face) {
            old.into_iter().chain(new).for_each(|task| self.add_face(after, task));
        }
    }

    /// Others see something of this task.
    fn add_face(&mut self, after: &Store, task: &Task) {
        self.networks.extend(task.attachments.iter().map(|leg| leg.network.clone()));
        let service = after.service(task.service_id.as_str());
        self.everyone |= !task.endpoint.ports.is_empty() || service.is_some_and(|service| is_published(service));
    }

    fn add_service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let face = |service: Option<&Service>| {
            service.map(|s| (s.endpoint.clone(), s.spec.task.networks.clone(), s.pending_delete, s.spec.name.clone()))
        };
        if face(old) == face(new) {
            return;
        }
        for service in old.into_iter().chain(new) {
            let targets = service.spec.task.networks.iter().map(|network| NetworkId(network.target.clone()));
            self.networks.extend(targets);
            self.networks.extend(service.endpoint.virtual_ips.iter().map(|vip| vip.network.clone()));
            self.everyone |= is_published(service);
        }
    }

    fn add_network(&mut self, old: Option<&ClusterNetwork>, new: Option<&ClusterNetwork>) {
        let face = |network: Option<&ClusterNetwork>| {
            // The last address given out is the managers' own affair.
            network.map(|n| ClusterNetwork {
                meta: Default::default(),
                last_address: None,
                last_address_ipv6: None,
                ..n.clone()
            })
        };
        if face(old) == face(new) {
            return;
        }
        for network in old.into_iter().chain(new) {
            self.networks.insert(network.id.clone());
            self.everyone |= network.spec.ingress;
        }
    }
}

/// What makes a node a manager, or is about to; `None` for a worker.
fn manager_face(node: &Node) -> Option<impl PartialEq + use<'_>> {
    let is_manager = node.manager_status.is_some() || node.role == Role::Manager || node.spec.role == Role::Manager;
    is_manager.then_some((&node.manager_status, node.role, node.spec.role))
}

/// What other nodes are told of a node.
fn node_face(node: &Node) -> impl PartialEq + use<'_> {
    let addresses = &node.description.addresses;
    let attachments = (&node.attachments, &node.attachments_ipv6);
    (&node.data_path_address, addresses, attachments, node.status.state == NodeState::Down)
}

/// What other nodes are told of a task.
fn task_face(task: &Task) -> impl PartialEq + use<'_> {
    let status = &task.status;
    let is_running = status.state == TaskState::Running;
    (status.has_ipv6(), has_legs(task), is_running, takes_new_connections(task), &task.attachments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assign::{assignments, networks_of_interest};
    use crate::testing::{World, spec};
    use skep_model::network::NetworkSpec;
    use skep_model::node::Availability;
    use skep_model::secret::SecretSpec;
    use skep_model::service::{NetworkAttachmentConfig, PortConfig, ServiceMode};

    const NODES: usize = 5;

    /// A world that checks after each step, by deriving everything, that whoever was not
    /// named really has nothing new to hear.
    struct Watched {
        world: World,
        /// Nodes that were told, over all steps.
        told: usize,
    }

    impl Watched {
        fn step(&mut self, change: impl FnOnce(&mut World)) {
            let before = self.world.store.clone();
            change(&mut self.world);
            let after = &self.world.store;
            // The command is not at hand here: what differs is what it wrote.
            let kinds = [Kind::Node, Kind::Service, Kind::Task, Kind::Network, Kind::Secret];
            let keys: BTreeSet<Key> =
                kinds.into_iter().flat_map(|kind| keys(&before, kind).chain(keys(after, kind))).collect();
            let known = |key: &Key| match key.kind {
                Kind::Node => Known::Node(before.node(&key.id).cloned()),
                Kind::Service => Known::Service(before.service(&key.id).cloned()),
                Kind::Task => Known::Task(before.task(&key.id).cloned()),
                Kind::Network => Known::Network(before.network(&key.id).cloned()),
                Kind::Secret | Kind::Config | Kind::Cluster => Known::File(before.get(key).is_some()),
            };
            let changed = keys.into_iter().filter(|key| before.get(key) != after.get(key));
            let audience = Before(changed.map(|key| (key.clone(), known(&key))).collect()).audience(after);
            for number in 1..=NODES {
                let node = NodeId(format!("n{number}"));
                let interests: BTreeSet<NetworkId> = networks_of_interest(&before, &node);
                let named = audience.everyone
                    || audience.nodes.contains(&node)
                    || interests.intersection(&audience.networks).next().is_some();
                self.told += usize::from(named);
                if !named {
                    assert_eq!(assignments(&before, &node), assignments(after, &node), "{node}: {audience:?}");
                }
            }
        }
    }

    fn keys(store: &Store, kind: Kind) -> Box<dyn Iterator<Item = Key> + '_> {
        let key = move |id: &str| Key::new(kind, id);
        match kind {
            Kind::Node => Box::new(store.nodes().map(move |node| key(node.id.as_str()))),
            Kind::Service => Box::new(store.services().map(move |service| key(service.id.as_str()))),
            Kind::Task => Box::new(store.tasks().map(move |task| key(task.id.as_str()))),
            Kind::Network => Box::new(store.networks().map(move |network| key(network.id.as_str()))),
            Kind::Secret => Box::new(store.secrets().map(move |secret| key(secret.id.as_str()))),
            Kind::Config | Kind::Cluster => Box::new(std::iter::empty()),
        }
    }

    fn on_network(name: &str, network: &str, replicas: u64) -> skep_model::service::ServiceSpec {
        let mut web = spec(name, replicas);
        web.task.networks.push(NetworkAttachmentConfig { target: network.into(), ..Default::default() });
        web
    }

    /// Single steps of nodes and leader, each watched, until both rest.
    fn work(watched: &mut Watched) {
        for _ in 0..200 {
            watched.step(|world| drop(world.plan()));
            let Some((task, state)) = watched.world.steps().into_iter().next() else {
                if watched.world.plan().writes.is_empty() {
                    return;
                }
                continue;
            };
            watched.step(|world| world.report(&task, state));
        }
        panic!("nodes and leader never rest");
    }

    #[test]
    fn whoever_is_not_named_has_nothing_new_to_hear() {
        let mut watched = Watched { world: World::with_nodes(NODES), told: 0 };
        for name in ["one", "two"] {
            let net = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
            watched.step(|world| {
                let (_, writes) = crate::edit::create_network(&world.store, net, world.now, &mut world.ids).unwrap();
                world.apply(writes).unwrap();
            });
        }
        let mut published = on_network("published", "one", 2);
        published.endpoint.ports.push(PortConfig { target_port: 80, ..PortConfig::default() });
        let mut ids = Vec::new();
        for spec in [spec("plain", 3), on_network("quiet", "two", 2), published] {
            watched.step(|world| ids.push(world.create(spec)));
            work(&mut watched);
        }
        let failing = watched.world.running(&ids[2])[0].clone();
        watched.step(|world| world.report(&failing, TaskState::Failed));
        work(&mut watched);
        watched.world.pass(10);
        work(&mut watched);
        for state in [NodeState::Disconnected, NodeState::Down, NodeState::Ready] {
            watched.step(|world| world.node_state("n2", state));
            work(&mut watched);
        }
        for availability in [Availability::Drain, Availability::Active] {
            watched.step(|world| world.availability("n3", availability));
            work(&mut watched);
        }
        watched.step(|world| world.update(&ids[0], |spec| spec.mode = ServiceMode::Replicated { replicas: 5 }));
        work(&mut watched);
        watched.step(|world| {
            world.update(&ids[1], |spec| {
                spec.endpoint.ports.push(PortConfig { target_port: 81, ..PortConfig::default() })
            })
        });
        work(&mut watched);
        watched.step(|world| world.update(&ids[1], |spec| spec.endpoint.ports.clear()));
        work(&mut watched);
        for id in &ids {
            watched.step(|world| world.remove(id));
            work(&mut watched);
        }
    }

    #[test]
    fn a_task_without_ports_and_networks_concerns_its_own_node_alone() {
        let mut watched = Watched { world: World::with_nodes(NODES), told: 0 };
        watched.step(|world| drop(world.create(spec("plain", 5))));
        work(&mut watched);
        // Assigned to five nodes at once; then two reports each.
        assert_eq!(watched.told, NODES + 2 * NODES);
    }

    #[test]
    fn a_new_secret_concerns_nobody_and_a_changed_one_all() {
        let mut world = World::with_nodes(2);
        let secret = SecretSpec { name: "key".into(), data: b"x".to_vec(), ..SecretSpec::default() };
        let (id, writes) = crate::edit::create_secret(&world.store, secret.clone(), &mut world.ids).unwrap();
        let command = Command { writes, ..Command::default() };
        assert!(Before::of(&world.store, &command).audience(&world.store).is_empty());
        world.apply(command.writes).unwrap();
        let version = world.store.secret(id.as_str()).unwrap().meta.version;
        let changed = SecretSpec { data: b"y".to_vec(), ..secret };
        let writes = crate::edit::update_secret(&world.store, &id, version, changed).unwrap();
        let command = Command { writes, ..Command::default() };
        assert!(Before::of(&world.store, &command).audience(&world.store).everyone);
    }
}
