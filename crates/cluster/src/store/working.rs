//! A planner's working copy: changes without checks, versions or times.

use super::id::Id;
use super::index::{network_claims, node_addresses, node_key, service_addresses, service_ports, task_addresses};
use super::{Holder, Store};
use crate::command::{Object, Write};
use skep_model::task::Task;
use std::net::IpAddr;
use std::sync::Arc;

impl Store {
    /// Adds a task that is not there yet.
    pub(crate) fn insert_task_unchecked(&mut self, task: Task) {
        self.indices.change_task(None, Some(&task));
        self.tasks.insert(Id::of(task.id.as_str()), Arc::new(task));
    }

    /// Changes a task where it is, copying it only when a snapshot shares it. What it is
    /// (service and id) must stay.
    pub(crate) fn change_task_unchecked(&mut self, id: &str, change: impl FnOnce(&mut Task)) -> Option<&Task> {
        let task = Arc::make_mut(self.tasks.get_mut(id)?);
        let unassigned = node_key(task).is_empty();
        let addresses = task_addresses(task);
        change(task);
        // It never moves on from a node.
        if unassigned && !node_key(task).is_empty() {
            self.indices.assign_task(task);
        }
        if addresses != task_addresses(task) {
            self.indices.readdress_task(task, &addresses);
        }
        Some(task)
    }

    /// Takes a task out of the table, leaving the indices behind: the copy is used up.
    pub(crate) fn take_task_unchecked(&mut self, id: &str) -> Option<Arc<Task>> {
        self.tasks.take(id)
    }

    /// Whether one of the writes wants an address, port or identifier that something else
    /// holds, so that the order of writes matters.
    pub(crate) fn any_is_held(&self, writes: &[Write]) -> bool {
        writes.iter().any(|write| match write {
            Write::Put { object, .. } => self.is_held(object),
            Write::Remove { .. } => false,
        })
    }

    fn is_held(&self, object: &Object) -> bool {
        match object {
            Object::Task(task) => {
                let addresses = task_addresses(task);
                !addresses.is_empty() && self.held_by_other(&addresses, &Holder::Task(task.id.as_str().into()))
            }
            Object::Node(node) => self.held_by_other(&node_addresses(node), &Holder::Node(node.id.as_str().into())),
            Object::Service(service) => {
                let id = service.id.as_str();
                let taken = |(protocol, port)| self.port_holder(protocol, port).is_some_and(|holder| holder != id);
                service_ports(service).into_iter().any(taken)
                    || self.held_by_other(&service_addresses(service), &Holder::Service(id.into()))
            }
            Object::Network(network) => network_claims(network)
                .is_some_and(|vni| self.vni_holder(vni).is_some_and(|id| id != network.id.as_str())),
            Object::Cluster(_) | Object::Secret(_) | Object::Config(_) => false,
        }
    }

    fn held_by_other(&self, addresses: &[(String, IpAddr)], own: &Holder) -> bool {
        addresses.iter().any(|(network, address)| {
            self.addresses(network).and_then(|used| used.get(address)).is_some_and(|holder| holder != own)
        })
    }
}
