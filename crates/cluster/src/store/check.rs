//! What must hold of every write, in release builds too: a planner's mistake is refused
//! here instead of becoming replicated state.

use super::index::{network_in_use_name, node_addresses, service_addresses, service_ports, task_addresses};
use super::{Holder, Store};
use crate::command::Object;
use skep_model::service::ClusterNetwork;
use skep_model::task::{Task, TaskState};
use std::net::IpAddr;

type Check = Result<(), String>;

impl Store {
    pub(super) fn check_put(&self, old: Option<&Object>, new: &Object) -> Check {
        match new {
            Object::Cluster(cluster) => {
                let other = self.cluster().is_some_and(|present| present.id != cluster.id);
                unless(other, || "there is a cluster object already".into())
            }
            Object::Node(node) => self.check_addresses(&node_addresses(node), &Holder::Node(node.id.as_str().into())),
            Object::Service(service) => {
                let id = service.id.as_str();
                let named = self.service_by_name(&service.spec.name).filter(|_| !service.pending_delete);
                unless(named.is_some_and(|named| named.id != service.id), || taken("service", &service.spec.name))?;
                for (protocol, port) in service_ports(service) {
                    let holder = self.port_holder(protocol, port).filter(|holder| *holder != id);
                    unless(holder.is_some(), || format!("port {port}/{} is taken", protocol.as_str()))?;
                }
                self.check_addresses(&service_addresses(service), &Holder::Service(id.into()))
            }
            Object::Task(task) => {
                if let Some(Object::Task(old)) = old {
                    check_task_change(old, task)?;
                }
                let changed = !matches!(old, Some(Object::Task(old)) if task_addresses(old) == task_addresses(task));
                if changed {
                    self.check_addresses(&task_addresses(task), &Holder::Task(task.id.as_str().into()))?;
                }
                Ok(())
            }
            Object::Network(network) => self.check_network(network),
            Object::Secret(secret) => {
                let named = self.secret_by_name(&secret.spec.name);
                unless(named.is_some_and(|named| named.id != secret.id), || taken("secret", &secret.spec.name))
            }
            Object::Config(config) => {
                let named = self.config_by_name(&config.spec.name);
                unless(named.is_some_and(|named| named.id != config.id), || taken("config", &config.spec.name))
            }
        }
    }

    /// A task goes only when nothing of it can still run.
    pub(super) fn check_remove(&self, old: &Object) -> Check {
        let Object::Task(task) = old else { return Ok(()) };
        let state = task.status.state;
        let may_run = state >= TaskState::Assigned && !state.is_terminal();
        let reachable = self.node(task.node_id.as_str()).is_some();
        unless(may_run && reachable, || format!("task {} may still run on its node", task.id))
    }

    fn check_network(&self, network: &ClusterNetwork) -> Check {
        let id = network.id.as_str();
        if let Some(name) = network_in_use_name(network) {
            let named = self.network_by_name(name);
            unless(named.is_some_and(|named| named.id != network.id), || taken("network", name))?;
        }
        let holder = self.vni_holder(network.vni).filter(|holder| *holder != id);
        unless(holder.is_some(), || format!("VNI {} is taken", network.vni))
    }

    fn check_addresses(&self, wanted: &[(String, IpAddr)], holder: &Holder) -> Check {
        for (network, address) in wanted {
            let present = self.addresses(network).and_then(|used| used.get(address));
            if let Some(present) = present.filter(|present| *present != holder) {
                return Err(format!("address {address} is held by {present}"));
            }
        }
        Ok(())
    }
}

/// A task never changes what it is, and only ever moves on.
fn check_task_change(old: &Task, new: &Task) -> Check {
    let id = &old.id;
    let moved = !old.node_id.is_empty() && old.node_id != new.node_id;
    unless(moved, || format!("task {id} must not change its node"))?;
    let other = old.service_id != new.service_id || old.slot != new.slot || old.spec_version != new.spec_version;
    unless(other || old.spec != new.spec, || format!("task {id} must not change its spec"))?;
    unless(new.status.state < old.status.state, || format!("task {id} must not go back in state"))?;
    unless(new.desired_state < old.desired_state, || format!("task {id} must not go back in desired state"))?;
    let readdressed = !old.attachments.is_empty() && old.attachments != new.attachments;
    unless(readdressed, || format!("task {id} must not change its addresses"))
}

fn unless(broken: bool, text: impl FnOnce() -> String) -> Check {
    if broken { Err(text()) } else { Ok(()) }
}

fn taken(kind: &str, name: &str) -> String {
    format!(
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: {kind} {name} already exists"
    )
}
