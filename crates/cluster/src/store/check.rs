//! What must hold of every write, in release builds too: a planner's mistake is refused
//! here instead of becoming replicated state.

use super::index::{network_in_use_name, node_addresses, service_addresses, service_ports, task_addresses};
use super::{Holder, Store};
use crate::command::Object;
use skep_model::node::Node;
use skep_model::service::{ClusterNetwork, Service, UpdateState};
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
            Object::Node(node) => {
                self.check_certificate(old, node)?;
                self.check_addresses(&node_addresses(node), &Holder::Node(node.id.as_str().into()))
            }
            Object::Service(service) => {
                let id = service.id.as_str();
                let old = if let Some(Object::Service(old)) = old { Some(&**old) } else { None };
                self.check_references(old, service)?;
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
            Object::Network(network) => {
                let kept = matches!(old, Some(Object::Network(old)) if !old.pending_delete);
                if kept && network.pending_delete {
                    self.check_network_unused(network)?;
                }
                self.check_network(network)
            }
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

    /// A task goes only when nothing of it can still run, and nothing goes that a service uses.
    pub(super) fn check_remove(&self, old: &Object) -> Check {
        match old {
            Object::Task(task) => self.check_task_over(task),
            Object::Network(network) if !network.pending_delete => self.check_network_unused(network),
            Object::Secret(secret) => {
                let uses =
                    |service: &Service| service.spec.task.container.secrets.iter().any(|s| s.secret_id == secret.id);
                unless(!self.services_where(uses).is_empty(), || format!("secret {} is in use", secret.spec.name))
            }
            Object::Config(config) => {
                let uses =
                    |service: &Service| service.spec.task.container.configs.iter().any(|c| c.config_id == config.id);
                unless(!self.services_where(uses).is_empty(), || format!("config {} is in use", config.spec.name))
            }
            Object::Network(_) | Object::Cluster(_) | Object::Node(_) | Object::Service(_) => Ok(()),
        }
    }

    /// A manager whose store is behind may sign with a root that is not to be trusted any more.
    /// Such a certificate is refused here, before it leaves that manager.
    fn check_certificate(&self, old: Option<&Object>, new: &Node) -> Check {
        let before = if let Some(Object::Node(old)) = old { old.certificate.issuer.as_str() } else { "" };
        let issuer = new.certificate.issuer.as_str();
        let signing = self.cluster().map_or("", |cluster| cluster.root_ca.signing_digest());
        let stale = !issuer.is_empty() && issuer != before && !signing.is_empty() && issuer != signing;
        unless(stale, || "the certificate is of a root that does not sign any more".into())
    }

    /// Users check this before they ask, but two may ask at the same time. A rollback goes
    /// back to what was, even if parts of it are gone by now: its tasks wait and say so.
    fn check_references(&self, old: Option<&Service>, new: &Service) -> Check {
        let status = new.update_status.as_ref().map(|status| status.state);
        let same = old.is_some_and(|old| old.spec.task == new.spec.task);
        if same || new.pending_delete || status == Some(UpdateState::RollbackStarted) {
            return Ok(());
        }
        let task = &new.spec.task;
        let network = |id: &str| self.network(id).is_some_and(|network| !network.pending_delete);
        if let Some(gone) = task.networks.iter().find(|config| !network(&config.target)) {
            return Err(format!("network {} not found", gone.target));
        }
        let secret = task.container.secrets.iter().find(|secret| self.secret(secret.secret_id.as_str()).is_none());
        unless(secret.is_some(), || format!("secret not found: {}", secret.map_or("", |s| &s.secret_name)))?;
        let config = task.container.configs.iter().find(|config| self.config(config.config_id.as_str()).is_none());
        unless(config.is_some(), || format!("config not found: {}", config.map_or("", |c| &c.config_name)))
    }

    fn check_network_unused(&self, network: &ClusterNetwork) -> Check {
        let id = network.id.as_str();
        let users = self.services_where(|service| service.spec.task.networks.iter().any(|config| config.target == id));
        unless(!users.is_empty(), || format!("network {id} is in use by service {}", users.join(", ")))
    }

    fn check_task_over(&self, task: &Task) -> Check {
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
