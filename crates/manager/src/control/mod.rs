//! What the API may ask of a manager. Reads answer from the local store; writes return
//! after their command is committed and applied.
//!
//! `name` arguments take a full id, an exact name or a unique id prefix. Errors carry
//! the reference's texts (`service x not found`, `rpc error: code = ... desc = ...`).

mod managers;
mod names;
mod orchestrate;
mod reach;
mod swarm;

use crate::dispatch::Tunnels;
use crate::edit::edit;
use crate::external_ca::ExternalSigner;
use crate::lock::Settled;
use crate::raft::{Member, Replicator};
use names::resolve;
use skep_cluster::Store;
use skep_cluster::command::Write;
use skep_cluster::edit as decide;
use skep_cluster::ids::IdSource;
use skep_model::id::{ConfigId, NetworkId, NodeId, SecretId, ServiceId};
use skep_model::network::NetworkSpec;
use skep_model::node::{Node, NodeSpec, Role};
use skep_model::secret::{Config, ConfigSpec, Secret, SecretSpec};
use skep_model::service::{ClusterNetwork, Service, ServiceSpec};
use skep_model::task::Task;
use skep_model::{Result, Timestamp};
use std::sync::Arc;
use tokio::sync::watch;

pub use orchestrate::{Move, Moves, TaskReason, Why};
pub(crate) use swarm::fresh_token;
pub use swarm::{JoinTokens, RotateFlags};

/// Handle to the manager on this node. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    replicator: Replicator,
    node_id: NodeId,
    /// How this manager is reached.
    own: Member,
    locks: watch::Receiver<Settled>,
    tunnels: Tunnels,
    external: ExternalSigner,
}

impl Control {
    pub(crate) fn new(
        replicator: Replicator,
        own: Member,
        locks: watch::Receiver<Settled>,
        tunnels: Tunnels,
        external: ExternalSigner,
    ) -> Self {
        Self { replicator, node_id: own.node_id.clone(), own, locks, tunnels, external }
    }

    /// The store version, changed with every applied command: a reader that polls waits on this.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.replicator.store().version()
    }

    /// Those that were removed are not shown, though their tasks may take a while to stop.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.store().services().filter(|service| !service.pending_delete).cloned().collect()
    }

    pub fn service(&self, name: &str) -> Result<Arc<Service>> {
        find_service(&self.store(), name).cloned()
    }

    pub async fn create_service(&self, spec: ServiceSpec) -> Result<ServiceId> {
        self.edit(|store, now, ids| decide::create_service(store, spec.clone(), now, ids)).await
    }

    /// `rollback`: go back to the previous spec instead of `spec`.
    pub async fn update_service(&self, name: &str, version: u64, spec: ServiceSpec, rollback: bool) -> Result<()> {
        self.edit(|store, now, _| {
            let id = find_service(store, name)?.id.clone();
            Ok(((), decide::update_service(store, &id, version, spec.clone(), rollback, now)?))
        })
        .await
    }

    pub async fn remove_service(&self, name: &str) -> Result<()> {
        self.edit(|store, now, _| {
            let id = find_service(store, name)?.id.clone();
            Ok(((), decide::remove_service(store, &id, now)?))
        })
        .await
    }

    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.store().tasks().cloned().collect()
    }

    pub fn task(&self, name: &str) -> Result<Arc<Task>> {
        let store = self.store();
        let named = |task: &Arc<Task>, name: &str| task.slot_name() == name;
        resolve("task", name, store.tasks(), |task| task.id.as_str(), named).cloned()
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let seen = self.seen_managers();
        self.store().nodes().map(|node| seen.correct(node)).collect()
    }

    /// `self` is this node.
    pub fn node(&self, name: &str) -> Result<Arc<Node>> {
        let store = self.store();
        self.find_node(&store, name).map(|node| self.seen_managers().correct(node))
    }

    pub async fn update_node(&self, name: &str, version: u64, spec: NodeSpec) -> Result<()> {
        if spec.role == Role::Worker {
            crate::managers::refresh(&self.replicator).await;
        }
        self.edit(|store, _, _| {
            let id = self.find_node(store, name)?.id.clone();
            Ok(((), decide::update_node(store, &id, version, spec.clone())?))
        })
        .await
    }

    pub async fn remove_node(&self, name: &str, force: bool) -> Result<()> {
        crate::managers::refresh(&self.replicator).await;
        self.edit(|store, now, _| {
            let id = self.find_node(store, name)?.id.clone();
            let mut writes = decide::remove_node(store, &id, force)?;
            writes.extend(decide::lock_out(store, &id, now));
            Ok(((), writes))
        })
        .await
    }

    pub fn networks(&self) -> Vec<Arc<ClusterNetwork>> {
        self.store().networks().cloned().collect()
    }

    pub fn network(&self, name: &str) -> Result<Arc<ClusterNetwork>> {
        find_network(&self.store(), name).cloned()
    }

    pub async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId> {
        self.edit(|store, now, ids| decide::create_network(store, spec.clone(), now, ids)).await
    }

    pub async fn remove_network(&self, name: &str) -> Result<()> {
        self.edit(|store, _, _| {
            let id = find_network(store, name)?.id.clone();
            Ok(((), decide::remove_network(store, &id)?))
        })
        .await
    }

    /// Without their data, which never leaves the managers but to tasks.
    pub fn secrets(&self) -> Vec<Arc<Secret>> {
        let store = self.store();
        store.secrets().map(|secret| Arc::new(without_data(secret))).collect()
    }

    /// Without its data.
    pub fn secret(&self, name: &str) -> Result<Arc<Secret>> {
        find_secret(&self.store(), name).map(|secret| Arc::new(without_data(secret)))
    }

    pub async fn create_secret(&self, spec: SecretSpec) -> Result<SecretId> {
        self.edit(|store, _, ids| decide::create_secret(store, spec.clone(), ids)).await
    }

    pub async fn remove_secret(&self, name: &str) -> Result<()> {
        self.edit(|store, _, _| {
            let id = find_secret(store, name)?.id.clone();
            Ok(((), decide::remove_secret(store, &id)?))
        })
        .await
    }

    pub fn configs(&self) -> Vec<Arc<Config>> {
        self.store().configs().cloned().collect()
    }

    pub fn config(&self, name: &str) -> Result<Arc<Config>> {
        find_config(&self.store(), name).cloned()
    }

    pub async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId> {
        self.edit(|store, _, ids| decide::create_config(store, spec.clone(), ids)).await
    }

    pub async fn remove_config(&self, name: &str) -> Result<()> {
        self.edit(|store, _, _| {
            let id = find_config(store, name)?.id.clone();
            Ok(((), decide::remove_config(store, &id)?))
        })
        .await
    }

    /// This node's id.
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    fn store(&self) -> Arc<Store> {
        self.replicator.store().snapshot()
    }

    async fn edit<T>(
        &self,
        decide: impl FnMut(&Store, Timestamp, &mut dyn IdSource) -> Result<(T, Vec<Write>)>,
    ) -> Result<T> {
        edit(&self.replicator, decide).await
    }

    /// Nodes go by their host names.
    fn find_node<'a>(&self, store: &'a Store, name: &str) -> Result<&'a Arc<Node>> {
        let name = if name == "self" { self.node_id.as_str() } else { name };
        let named = |node: &Arc<Node>, name: &str| node.description.hostname == name;
        resolve("node", name, store.nodes(), |node| node.id.as_str(), named)
    }
}

fn find_service<'a>(store: &'a Store, name: &str) -> Result<&'a Arc<Service>> {
    let named = |service: &Arc<Service>, name: &str| service.spec.name == name;
    let services = store.services().filter(|service| !service.pending_delete);
    resolve("service", name, services, |service| service.id.as_str(), named)
}

fn find_network<'a>(store: &'a Store, name: &str) -> Result<&'a Arc<ClusterNetwork>> {
    let named = |network: &Arc<ClusterNetwork>, name: &str| network.spec.name == name;
    resolve("network", name, store.networks(), |network| network.id.as_str(), named)
}

fn find_secret<'a>(store: &'a Store, name: &str) -> Result<&'a Arc<Secret>> {
    let named = |secret: &Arc<Secret>, name: &str| secret.spec.name == name;
    resolve("secret", name, store.secrets(), |secret| secret.id.as_str(), named)
}

fn find_config<'a>(store: &'a Store, name: &str) -> Result<&'a Arc<Config>> {
    let named = |config: &Arc<Config>, name: &str| config.spec.name == name;
    resolve("config", name, store.configs(), |config| config.id.as_str(), named)
}

fn without_data(secret: &Secret) -> Secret {
    let mut bare = secret.clone();
    bare.spec.data = Vec::new();
    bare
}
