//! What a plan looks at, derived from the keys that changed.

use super::constraint;
use super::enforce::reserves;
use super::slots::node_keeps_tasks;
use crate::command::{Key, Kind};
use crate::store::Store;
use skep_model::service::Service;
use skep_model::task::Task;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) services: BTreeSet<String>,
    /// Nodes that changed: may their tasks stay?
    pub(super) nodes: BTreeSet<String>,
    /// Nodes whose tasks changed: which networks do they use?
    pub(super) balancers: BTreeSet<String>,
    /// Services that need nothing in this round.
    pub(super) calm: BTreeSet<String>,
    /// Services whose spec this plan has put back; they wait for the next plan.
    pub(super) rolled_back: BTreeSet<String>,
}

impl Scope {
    pub(super) fn of(store: &Store, dirty: &BTreeSet<Key>) -> Self {
        let mut scope = Self::default();
        if dirty.is_empty() || dirty.iter().any(|key| key.kind == Kind::Cluster) {
            scope.include_all(store);
        } else {
            dirty.iter().for_each(|key| scope.include(store, key));
        }
        scope.balancers.extend(scope.nodes.iter().cloned());
        scope
    }

    /// Services and nodes, and the owners of tasks whose service or node is gone.
    fn include_all(&mut self, store: &Store) {
        self.services.extend(store.services().map(|service| service.id.0.clone()));
        self.nodes.extend(store.nodes().map(|node| node.id.0.clone()));
        for task in store.tasks() {
            if !self.services.contains(task.service_id.as_str()) {
                self.services.insert(task.service_id.0.clone());
            }
            if !task.node_id.is_empty() && !self.nodes.contains(task.node_id.as_str()) {
                self.nodes.insert(task.node_id.0.clone());
            }
        }
    }

    fn include(&mut self, store: &Store, key: &Key) {
        match key.kind {
            Kind::Service => {
                self.services.insert(key.id.clone());
            }
            Kind::Task => {
                let Some(task) = store.task(&key.id) else { return };
                self.services.insert(task.service_id.0.clone());
                if task.node_id.is_empty() {
                    return;
                }
                self.balancers.insert(task.node_id.0.clone());
                // Whom it is to relieve may need another successor.
                if let Some(old) = task.beside.as_ref().and_then(|id| store.task(id.as_str())) {
                    self.nodes.insert(old.node_id.0.clone());
                }
                // Its order to leave may have been lost to a race with its own report.
                if !may_stay(store, task) {
                    self.nodes.insert(task.node_id.0.clone());
                }
            }
            Kind::Node => {
                self.nodes.insert(key.id.clone());
                self.services.extend(store.tasks_of_node(&key.id).map(|task| task.service_id.0.clone()));
                let global = store.services().filter(|service| service.spec.mode.is_per_node());
                self.services.extend(global.map(|service| service.id.0.clone()));
            }
            Kind::Network => {
                let uses = |service: &&std::sync::Arc<Service>| {
                    service.spec.task.networks.iter().any(|network| network.target == key.id)
                };
                self.services.extend(store.services().filter(uses).map(|service| service.id.0.clone()));
                // It changes with every address it gives; nodes that have theirs are not concerned.
                if let Some(mesh) = store.ingress_network().filter(|network| network.id.as_str() == key.id) {
                    let without = store.nodes().filter(|node| !node.attachments.contains_key(&mesh.id));
                    self.nodes.extend(without.map(|node| node.id.0.clone()));
                }
            }
            Kind::Cluster | Kind::Secret | Kind::Config => {}
        }
    }
}

/// Whether a task is plainly in its place. With reservations it takes a look at all of
/// its node's tasks to tell.
fn may_stay(store: &Store, task: &Task) -> bool {
    let reserves = reserves(&task.spec.resources);
    let Some(node) = store.node(task.node_id.as_str()) else { return false };
    !reserves && node_keeps_tasks(node) && constraint::matches(&task.spec.placement, node)
}
