//! The replicated state: tables of objects with the indices planners need. Cloning is
//! cheap (tables are shared and copied on write), so a clone is a snapshot.

mod check;
mod id;
mod index;
mod names;
mod recent;
mod snapshot;
mod table;
mod working;

pub use index::Holder;

use crate::command::{Command, Key, Kind, Object, Write};
use id::Id;
use index::Indices;
use recent::Recent;
use serde::{Deserialize, Serialize};
use skep_model::Timestamp;
use skep_model::cluster::{Cluster, Meta};
use skep_model::network::Protocol;
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::{Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use table::Table;

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("update out of sequence")]
    OutOfSequence(Key),
    #[error("{0:?} does not exist")]
    NotFound(Key),
    #[error("{0}")]
    Invariant(String),
}

/// What `apply` did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Keys that changed, in order; removed ones included.
    pub changed: Vec<Key>,
    /// Writes of an independent command that were dropped. Plan them again.
    pub dropped: Vec<Key>,
    /// The id was seen before: nothing was done now.
    pub duplicate: bool,
}

/// All objects at one Raft index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    index: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: Table<Node>,
    services: Table<Service>,
    tasks: Table<Task>,
    networks: Table<ClusterNetwork>,
    secrets: Table<Secret>,
    configs: Table<Config>,
    recent: Recent,
    indices: Indices,
}

impl Store {
    /// The only mutation. `index` is the Raft index, which becomes the version of what is put.
    ///
    /// # Errors
    /// The first write of a dependent command that cannot be done; nothing is changed then.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Applied, Rejection> {
        if index <= self.index {
            return Ok(Applied { duplicate: true, ..Applied::default() });
        }
        self.index = index;
        match self.recent.outcome(&command.id) {
            Some(None) => return Ok(Applied { duplicate: true, ..Applied::default() }),
            Some(Some(rejection)) => return Err(rejection.clone()),
            None => {}
        }
        let result = if command.independent { Ok(self.apply_each(command)) } else { self.apply_together(command) };
        self.recent.remember(&command.id, result.as_ref().err().cloned());
        result
    }

    fn apply_each(&mut self, command: &Command) -> Applied {
        let mut applied = Applied::default();
        // Tasks are made because others of their service were told to end: if one of those words
        // was overtaken, nothing new comes beside it before the service is planned again.
        let mut overtaken = BTreeSet::new();
        for write in &command.writes {
            let task = match write {
                Write::Put { object: Object::Task(task), .. } => Some(task),
                _ => None,
            };
            let is_new = task.is_some_and(|task| task.meta.version == 0);
            let held = is_new && task.is_some_and(|task| overtaken.contains(&task.service_id));
            if !held && self.apply_write(write, command.at).is_ok() {
                applied.changed.push(write.key());
                continue;
            }
            applied.dropped.push(write.key());
            overtaken.extend(task.map(|task| task.service_id.clone()));
        }
        applied
    }

    fn apply_together(&mut self, command: &Command) -> Result<Applied, Rejection> {
        // One that fails leaves everything as it was; of several the first may be done by then.
        if let [only] = command.writes.as_slice() {
            self.apply_write(only, command.at)?;
        } else {
            let mut next = self.clone();
            for write in &command.writes {
                next.apply_write(write, command.at)?;
            }
            *self = next;
        }
        let changed = command.writes.iter().map(Write::key).collect();
        Ok(Applied { changed, ..Applied::default() })
    }

    /// Checks, then changes; a failed check leaves everything as it was.
    fn apply_write(&mut self, write: &Write, at: Timestamp) -> Result<(), Rejection> {
        let key = write.key();
        let old = self.get(&key);
        let version = old.as_ref().map_or(0, Object::version);
        match write {
            Write::Put { object, expected } => {
                if version != *expected {
                    return Err(Rejection::OutOfSequence(key));
                }
                let object = stamped(object.clone(), old.as_ref(), self.index, at);
                self.check_put(old.as_ref(), &object).map_err(Rejection::Invariant)?;
                self.replace(old.as_ref(), object);
            }
            Write::Remove { expected, .. } => {
                let Some(old) = old else { return Err(Rejection::NotFound(key)) };
                if version != *expected {
                    return Err(Rejection::OutOfSequence(key));
                }
                self.check_remove(&old).map_err(Rejection::Invariant)?;
                self.forget(&old);
            }
        }
        Ok(())
    }

    /// Whether a write is acceptable; it is done then. For a planner's trial.
    pub(crate) fn takes(&mut self, write: &Write, at: Timestamp) -> bool {
        self.apply_write(write, at).is_ok()
    }

    /// Puts without any check, for a planner's working copy.
    pub(crate) fn put_unchecked(&mut self, object: Object) {
        let old = self.get(&object.key());
        self.replace(old.as_ref(), object);
    }

    /// Removes without any check, for a planner's working copy.
    pub(crate) fn remove_unchecked(&mut self, key: &Key) {
        if let Some(old) = self.get(key) {
            self.forget(&old);
        }
    }

    fn replace(&mut self, old: Option<&Object>, new: Object) {
        self.indices.change(old, Some(&new));
        match new {
            Object::Cluster(cluster) => self.cluster = Some(Arc::new(cluster)),
            Object::Node(node) => self.nodes.insert(Id::of(node.id.as_str()), Arc::new(*node)),
            Object::Service(service) => self.services.insert(Id::of(service.id.as_str()), Arc::new(*service)),
            Object::Task(task) => self.tasks.insert(Id::of(task.id.as_str()), Arc::new(*task)),
            Object::Network(network) => self.networks.insert(Id::of(network.id.as_str()), Arc::new(network)),
            Object::Secret(secret) => self.secrets.insert(Id::of(secret.id.as_str()), Arc::new(secret)),
            Object::Config(config) => self.configs.insert(Id::of(config.id.as_str()), Arc::new(config)),
        }
    }

    fn forget(&mut self, old: &Object) {
        self.indices.change(Some(old), None);
        match old {
            Object::Cluster(_) => self.cluster = None,
            Object::Node(node) => self.nodes.remove(node.id.as_str()),
            Object::Service(service) => self.services.remove(service.id.as_str()),
            Object::Task(task) => self.tasks.remove(task.id.as_str()),
            Object::Network(network) => self.networks.remove(network.id.as_str()),
            Object::Secret(secret) => self.secrets.remove(secret.id.as_str()),
            Object::Config(config) => self.configs.remove(config.id.as_str()),
        }
    }

    /// Raft index of the last applied command.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// A copy of any object.
    pub fn get(&self, key: &Key) -> Option<Object> {
        let id = key.id.as_str();
        match key.kind {
            Kind::Cluster => self.cluster().filter(|c| c.id.as_str() == id).map(|c| Object::Cluster((**c).clone())),
            Kind::Node => self.node(id).map(|node| Object::Node(Box::new((**node).clone()))),
            Kind::Service => self.service(id).map(|service| Object::Service(Box::new((**service).clone()))),
            Kind::Task => self.task(id).map(|task| Object::Task(Box::new((**task).clone()))),
            Kind::Network => self.network(id).map(|network| Object::Network((**network).clone())),
            Kind::Secret => self.secret(id).map(|secret| Object::Secret((**secret).clone())),
            Kind::Config => self.config(id).map(|config| Object::Config((**config).clone())),
        }
    }

    /// The cluster object; `None` before the first command.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// In the order of ids, as all lists here.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A node that was certified for the public key with this digest.
    pub fn node_by_key(&self, digest: &str) -> Option<&Arc<Node>> {
        self.node(self.indices.node_keys.get(digest)?)
    }

    /// Nodes that take part in Raft.
    pub fn managers(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.indices.managers.iter().filter_map(|id| self.node(id))
    }

    pub fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    /// Includes those being removed (`pending_delete`), which users should not be shown.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A service by name, unless it is being removed.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.service(self.indices.service_names.get(name)?)
    }

    pub fn task(&self, id: &str) -> Option<&Arc<Task>> {
        self.tasks.get(id)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    pub fn tasks_of_service(&self, service: &str) -> impl Iterator<Item = &Arc<Task>> {
        let ids = self.indices.tasks_of_service.get(service);
        ids.into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.tasks.find(id))
    }

    /// How many tasks a service has, ended ones included.
    pub(crate) fn task_count_of_service(&self, service: &str) -> usize {
        self.indices.tasks_of_service.get(service).map_or(0, |ids| ids.len())
    }

    /// Tasks that were assigned to the node, ended ones included.
    pub fn tasks_of_node(&self, node: &str) -> impl Iterator<Item = &Arc<Task>> {
        let ids = self.indices.tasks_of_node.get(node);
        ids.into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.tasks.find(id))
    }

    /// Tasks that wait for addresses or a node.
    pub fn tasks_unassigned(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_of_node("")
    }

    pub fn network(&self, id: &str) -> Option<&Arc<ClusterNetwork>> {
        self.networks.get(id)
    }

    /// Includes those being removed (`pending_delete`), which users should not be shown.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<ClusterNetwork>> {
        self.networks.values()
    }

    /// A network by name, unless it is being removed.
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<ClusterNetwork>> {
        self.network(self.indices.network_names.get(name)?)
    }

    /// The network of the routing mesh.
    pub fn ingress_network(&self) -> Option<&Arc<ClusterNetwork>> {
        self.networks().find(|network| network.spec.ingress && !network.pending_delete)
    }

    pub fn secret(&self, id: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(id)
    }

    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    pub fn secret_by_name(&self, name: &str) -> Option<&Arc<Secret>> {
        self.secret(self.indices.secret_names.get(name)?)
    }

    pub fn config(&self, id: &str) -> Option<&Arc<Config>> {
        self.configs.get(id)
    }

    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    pub fn config_by_name(&self, name: &str) -> Option<&Arc<Config>> {
        self.config(self.indices.config_names.get(name)?)
    }

    /// Addresses in use on a network and by whom; `None` when there is none.
    pub fn addresses(&self, network: &str) -> Option<&BTreeMap<IpAddr, Holder>> {
        self.indices.addresses.get(network).map(|used| &**used)
    }

    /// Id of the service that publishes a port through the mesh.
    pub fn port_holder(&self, protocol: Protocol, port: u16) -> Option<&str> {
        self.indices.ports.get(&(protocol, port)).map(|id| &**id)
    }

    /// Services with a port of the mesh, those being removed included.
    pub(crate) fn publishing_services(&self) -> Vec<&Arc<Service>> {
        let ids: BTreeSet<&Arc<str>> = self.indices.ports.values().collect();
        ids.into_iter().filter_map(|id| self.service(id)).collect()
    }

    /// Id of the network with a VXLAN identifier.
    pub fn vni_holder(&self, vni: u32) -> Option<&str> {
        self.indices.vnis.get(&vni).map(|id| &**id)
    }

    /// Names of services whose present or previous tasks may need `uses`, sorted.
    pub(crate) fn services_where(&self, uses: impl Fn(&Service) -> bool) -> Vec<String> {
        let users = self.services().filter(|service| !service.pending_delete && uses(service));
        let names: BTreeSet<String> = users.map(|service| service.spec.name.clone()).collect();
        names.into_iter().collect()
    }
}

/// Sets what only the store knows: versions and the times at which it saw things happen.
fn stamped(mut object: Object, old: Option<&Object>, index: u64, at: Timestamp) -> Object {
    let created_at = old.map_or(at, |old| old.meta().created_at);
    *object.meta_mut() = Meta { version: index, created_at, updated_at: at };
    match (&mut object, old) {
        (Object::Service(service), Some(Object::Service(old))) => {
            let same = service.spec.task == old.spec.task && service.spec.endpoint == old.spec.endpoint;
            service.spec_version = if same { old.spec_version } else { index };
        }
        (Object::Service(service), _) => service.spec_version = index,
        (Object::Task(task), old) => {
            let old = if let Some(Object::Task(old)) = old { Some(&**old) } else { None };
            stamp_task(task, old, index, at);
        }
        (Object::Node(node), Some(Object::Node(old))) if node.status.state == old.status.state => {
            node.status.since = old.status.since;
        }
        (Object::Node(node), _) => node.status.since = at,
        _ => {}
    }
    object
}

fn stamp_task(task: &mut Task, old: Option<&Task>, index: u64, at: Timestamp) {
    task.created_index = old.map_or(index, |old| old.created_index);
    let before = old.map_or(TaskState::New, |old| old.status.state);
    task.running_at = old.map_or(Timestamp::NEVER, |old| old.running_at);
    task.ended_at = old.map_or(Timestamp::NEVER, |old| old.ended_at);
    if task.status.state == TaskState::Running && before < TaskState::Running {
        task.running_at = at;
    }
    if task.status.state.is_terminal() && !before.is_terminal() {
        task.ended_at = at;
    }
}

#[cfg(test)]
mod tests;
