//! What can be derived from the tables and is asked for often: who belongs to whom, who
//! is called what, and who holds which address, port or VNI. Never stored.

use super::id::Id;
use super::names::Names;
use super::table::Table;
use crate::command::Object;
use skep_model::network::Protocol;
use skep_model::node::Node;
use skep_model::service::{ClusterNetwork, PublishMode, Service};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Task(Arc<str>),
    /// As virtual address.
    Service(Arc<str>),
    /// As its balancer's address.
    Node(Arc<str>),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task(id) => write!(f, "task {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Node(id) => write!(f, "node {id}"),
        }
    }
}

type Group = Table<BTreeSet<Id>>;
type Addresses = Arc<BTreeMap<Arc<str>, Arc<BTreeMap<IpAddr, Holder>>>>;

/// All indices. Every part is shared between clones and copied on write.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Indices {
    /// Service id to its tasks.
    pub(super) tasks_of_service: Group,
    /// Node id to the tasks assigned to it; the empty id has those not assigned yet.
    pub(super) tasks_of_node: Group,
    /// Nodes that take part in Raft.
    pub(super) managers: Arc<BTreeSet<Arc<str>>>,
    /// Digest of a node's public key to its id.
    pub(super) node_keys: Names,
    pub(super) service_names: Names,
    pub(super) network_names: Names,
    pub(super) secret_names: Names,
    pub(super) config_names: Names,
    /// Network id to the addresses in use on it.
    pub(super) addresses: Addresses,
    pub(super) vnis: Arc<BTreeMap<u32, Arc<str>>>,
    /// Published ingress ports.
    pub(super) ports: Arc<BTreeMap<(Protocol, u16), Arc<str>>>,
}

impl Indices {
    /// Replaces what is derived from `old` by what is derived from `new`.
    pub(super) fn change(&mut self, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (Some(Object::Task(old)), Some(Object::Task(new))) => self.change_task(Some(old), Some(new)),
            (Some(Object::Task(old)), None) => self.change_task(Some(old), None),
            (None, Some(Object::Task(new))) => self.change_task(None, Some(new)),
            _ => {
                old.into_iter().for_each(|object| self.update(object, false));
                new.into_iter().for_each(|object| self.update(object, true));
            }
        }
    }

    /// Tasks change most often and rarely in what is indexed, so only differences are touched.
    pub(super) fn change_task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let Some(any) = old.or(new) else { return };
        let id = Id::of(any.id.as_str());
        let owner = |task: &'_ Task| Id::of(task.service_id.as_str());
        change_group(&mut self.tasks_of_service, &id, old.map(owner), new.map(owner));
        let node = |task: &'_ Task| Id::of(node_key(task));
        change_group(&mut self.tasks_of_node, &id, old.map(node), new.map(node));
        let before = old.map(task_addresses).unwrap_or_default();
        let after = new.map(task_addresses).unwrap_or_default();
        if before != after {
            self.release(&before);
            self.hold(&after, &Holder::Task(any.id.as_str().into()));
        }
    }

    /// A task was given its node.
    pub(super) fn assign_task(&mut self, task: &Task) {
        let (id, node) = (Id::of(task.id.as_str()), Id::of(node_key(task)));
        change_group(&mut self.tasks_of_node, &id, Some(Id::of("")), Some(node));
    }

    /// A task that held `before` has other addresses now.
    pub(super) fn readdress_task(&mut self, task: &Task, before: &[(String, IpAddr)]) {
        self.release(before);
        self.hold(&task_addresses(task), &Holder::Task(task.id.as_str().into()));
    }

    fn update(&mut self, object: &Object, add: bool) {
        match object {
            Object::Cluster(_) => {}
            Object::Task(task) if add => self.change_task(None, Some(task)),
            Object::Task(task) => self.change_task(Some(task), None),
            Object::Node(node) => {
                if node.manager_status.is_some() {
                    let managers = Arc::make_mut(&mut self.managers);
                    if add {
                        managers.insert(node.id.as_str().into());
                    } else {
                        managers.remove(node.id.as_str());
                    }
                }
                let id: Arc<str> = node.id.as_str().into();
                if !node.certificate.key_digest.is_empty() {
                    self.node_keys.set(&node.certificate.key_digest, &id, add);
                }
                self.set_addresses(&node_addresses(node), &Holder::Node(id), add);
            }
            Object::Service(service) => self.update_service(service, add),
            Object::Network(network) => {
                let id: Arc<str> = network.id.as_str().into();
                if !network.pending_delete {
                    self.network_names.set(&network.spec.name, &id, add);
                }
                if network.vni != 0 {
                    set(&mut self.vnis, network.vni, &id, add);
                }
            }
            Object::Secret(secret) => {
                self.secret_names.set(&secret.spec.name, &secret.id.as_str().into(), add);
            }
            Object::Config(config) => {
                self.config_names.set(&config.spec.name, &config.id.as_str().into(), add);
            }
        }
    }

    fn update_service(&mut self, service: &Service, add: bool) {
        let id: Arc<str> = service.id.as_str().into();
        if !service.pending_delete {
            self.service_names.set(&service.spec.name, &id, add);
        }
        for port in service_ports(service) {
            set(&mut self.ports, port, &id, add);
        }
        let held = service_addresses(service);
        self.set_addresses(&held, &Holder::Service(id), add);
    }

    fn set_addresses(&mut self, held: &[(String, IpAddr)], holder: &Holder, add: bool) {
        if add {
            self.hold(held, holder);
        } else {
            self.release(held);
        }
    }

    fn hold(&mut self, held: &[(String, IpAddr)], holder: &Holder) {
        for (network, address) in held {
            let networks = Arc::make_mut(&mut self.addresses);
            let used = networks.entry(network.as_str().into()).or_default();
            Arc::make_mut(used).insert(*address, holder.clone());
        }
    }

    fn release(&mut self, held: &[(String, IpAddr)]) {
        for (network, address) in held {
            let networks = Arc::make_mut(&mut self.addresses);
            let Some(used) = networks.get_mut(network.as_str()) else { continue };
            Arc::make_mut(used).remove(address);
            if used.is_empty() {
                networks.remove(network.as_str());
            }
        }
    }
}

/// An ended task holds no address: its process, and so its leg, is known to be gone.
pub(super) fn task_addresses(task: &Task) -> Vec<(String, IpAddr)> {
    if task.status.state.is_terminal() {
        return Vec::new();
    }
    let legs = task.attachments.iter();
    legs.flat_map(|leg| leg.addresses.iter().map(|net| (leg.network.0.clone(), net.addr()))).collect()
}

pub(super) fn service_addresses(service: &Service) -> Vec<(String, IpAddr)> {
    service.endpoint.virtual_ips.iter().map(|vip| (vip.network.0.clone(), vip.address.addr())).collect()
}

pub(super) fn node_addresses(node: &Node) -> Vec<(String, IpAddr)> {
    let attachments = node.attachments.iter().chain(&node.attachments_ipv6);
    attachments.map(|(network, net)| (network.0.clone(), net.addr())).collect()
}

pub(super) fn service_ports(service: &Service) -> Vec<(Protocol, u16)> {
    let allocated = service.endpoint.ports.iter();
    allocated
        .filter(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}

/// A global service's task has its node from the start, but is that node's only once assigned.
pub(super) fn node_key(task: &Task) -> &str {
    if task.status.state < TaskState::Assigned { "" } else { task.node_id.as_str() }
}

fn change_group(group: &mut Group, id: &Id, old: Option<Id>, new: Option<Id>) {
    if old == new {
        return;
    }
    if let Some(old) = old
        && let Some(members) = group.find_mut(&old)
    {
        Arc::make_mut(members).remove(id);
        if members.is_empty() {
            drop(group.take_id(&old));
        }
    }
    if let Some(new) = new {
        Arc::make_mut(group.entry(&new, Arc::default)).insert(id.clone());
    }
}

fn set<K: Ord + Clone>(map: &mut Arc<BTreeMap<K, Arc<str>>>, key: K, id: &Arc<str>, add: bool) {
    let map = Arc::make_mut(map);
    if add {
        map.insert(key, Arc::clone(id));
    } else if map.get(&key) == Some(id) {
        map.remove(&key);
    }
}

/// The VXLAN identifier a network has, if any.
pub(super) fn network_claims(network: &ClusterNetwork) -> Option<u32> {
    (network.vni != 0).then_some(network.vni)
}

/// Whether `network` is what `name` refers to while it is not being removed.
pub(super) fn network_in_use_name(network: &ClusterNetwork) -> Option<&str> {
    (!network.pending_delete).then_some(network.spec.name.as_str())
}
