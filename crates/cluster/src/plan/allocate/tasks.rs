//! Addresses of tasks, and of every node's balancer on the networks its tasks use.

use super::addresses::{Family, families, is_overlay, next_free, note_last};
use super::networks::is_allocated;
use super::services::unallocated;
use crate::plan::draft::Draft;
use crate::plan::waiting::Waiters;
use crate::store::Store;
use ipnet::IpNet;
use skep_model::id::NetworkId;
use skep_model::node::NodeState;
use skep_model::service::{ClusterNetwork, ServiceEndpoint};
use skep_model::task::{Task, TaskAttachment, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// NEW becomes PENDING once a task has all its addresses.
pub(crate) fn tasks(draft: &mut Draft<'_>, waiters: &mut Waiters) {
    for (id, tasks) in waiters.iter_mut().filter(|(_, tasks)| tasks.iter().any(|task| !task.is_pending)) {
        let Some(service) = draft.store.service(id).cloned() else { continue };
        // Its tasks wait for the same reason.
        let blocked = unallocated(&draft.store, &service);
        for task in tasks.iter_mut().filter(|task| !task.is_pending) {
            let legs = match &blocked {
                Some(reason) => Err(reason.clone()),
                None => draft.store.task(&task.id).map_or(Ok(Vec::new()), |task| attachments(&draft.store, task)),
            };
            match legs {
                Ok(legs) => {
                    admit(draft, &task.id, legs, &service.endpoint);
                    task.is_pending = true;
                }
                Err(reason) => {
                    draft.waiting(|| format!("task {}: {reason}", task.id));
                    draft.say_why(&task.id, &reason);
                }
            }
        }
    }
}

fn attachments(store: &Store, task: &Task) -> Result<Vec<TaskAttachment>, String> {
    task.spec
        .networks
        .iter()
        .map(|config| {
            let network =
                store.network(&config.target).ok_or_else(|| format!("network {} not found", config.target))?;
            let addresses = match (is_overlay(network), is_allocated(network)) {
                (false, _) => Vec::new(),
                (true, false) => return Err(format!("network {} has no subnet yet", network.spec.name)),
                (true, true) => {
                    let free = families(network).iter().map(|family| next_free(store, network, *family));
                    free.collect::<Result<_, _>>()?
                }
            };
            Ok(TaskAttachment {
                network: network.id.clone(),
                addresses,
                aliases: config.aliases.clone(),
                network_name: network.spec.name.clone(),
            })
        })
        .collect()
}

fn admit(draft: &mut Draft<'_>, task: &str, legs: Vec<TaskAttachment>, endpoint: &ServiceEndpoint) {
    for leg in &legs {
        for address in &leg.addresses {
            draft.edit_network(leg.network.as_str(), |network| note_last(network, address.addr()));
        }
    }
    let now = draft.now;
    draft.change_task(task, |task| {
        task.attachments = legs;
        task.endpoint = endpoint.clone();
        task.status.state = TaskState::Pending;
        task.status.timestamp = now;
        task.status.message = "pending task scheduling".into();
        task.status.err.clear();
    });
}

/// Every node has one address on each overlay its tasks use, and on the mesh.
pub(crate) fn nodes(draft: &mut Draft<'_>, ids: &BTreeSet<String>) {
    for id in ids {
        let Some(node) = draft.store.node(id).cloned() else { continue };
        // What a node that is away believes is unknown: its addresses stay its own.
        if node.status.state == NodeState::Down {
            continue;
        }
        let wanted = networks_of_node(&draft.store, id);
        let kept = |held: &BTreeMap<NetworkId, IpNet>| {
            let kept = held.iter().filter(|(network, _)| wanted.contains(*network));
            kept.map(|(network, net)| (network.clone(), *net)).collect::<BTreeMap<_, _>>()
        };
        let (mut attachments, mut attachments_ipv6) = (kept(&node.attachments), kept(&node.attachments_ipv6));
        for network in wanted {
            let Some(object) = draft.store.network(network.as_str()).cloned() else { continue };
            for family in families(&object) {
                let held = if *family == Family::V4 { &mut attachments } else { &mut attachments_ipv6 };
                if !held.contains_key(&network) {
                    held.extend(balancer_address(draft, id, &object, *family).map(|net| (network.clone(), net)));
                }
            }
        }
        if attachments != node.attachments || attachments_ipv6 != node.attachments_ipv6 {
            draft.edit_node(id, |node| {
                node.attachments = attachments;
                node.attachments_ipv6 = attachments_ipv6;
            });
        }
    }
}

fn balancer_address(draft: &mut Draft<'_>, node: &str, network: &ClusterNetwork, family: Family) -> Option<IpNet> {
    match next_free(&draft.store, network, family) {
        Ok(address) => {
            draft.edit_network(network.id.as_str(), |network| note_last(network, address.addr()));
            Some(address)
        }
        Err(reason) => {
            draft.waiting(|| format!("node {node}: {reason}"));
            None
        }
    }
}

fn networks_of_node(store: &Store, node: &str) -> BTreeSet<NetworkId> {
    let tasks = store.tasks_of_node(node).filter(|task| !task.status.state.is_terminal());
    let legs = tasks.flat_map(|task| task.attachments.iter().map(|leg| leg.network.clone()));
    let mut networks: BTreeSet<NetworkId> = legs.collect();
    networks.extend(store.ingress_network().map(|network| network.id.clone()));
    let usable = |id: &NetworkId| store.network(id.as_str()).is_some_and(|n| is_overlay(n) && is_allocated(n));
    networks.retain(usable);
    networks
}
