//! A stand-in for a node's kernel: it holds what was made in it, and making something
//! may fail.

use crate::dice::Dice;
use skep_model::netstate::ClusterNetState;
use std::collections::BTreeMap;

/// Objects by kind and name; equal objects need no work.
type Objects = BTreeMap<String, String>;

#[derive(Default)]
pub struct Kernel {
    observed: Objects,
    /// Planted bug: what failed once is believed to be there.
    forgets_failures: bool,
    believed: Objects,
    /// What was last asked for, and whether all of it is done.
    asked: Option<ClusterNetState>,
    done: bool,
}

impl Kernel {
    pub fn new(forgets_failures: bool) -> Self {
        Self { forgets_failures, ..Self::default() }
    }

    /// One round of desired minus observed. Failed operations stay in the difference.
    pub fn reconcile(&mut self, desired: &ClusterNetState, failures_per_mille: u32, dice: &mut Dice) {
        if self.done && self.asked.as_ref() == Some(desired) {
            return;
        }
        self.asked = Some(desired.clone());
        let desired = objects(desired);
        let known = if self.forgets_failures { self.believed.clone() } else { self.observed.clone() };
        for name in known.keys().filter(|name| !desired.contains_key(*name)) {
            self.believed.remove(name);
            if !dice.chance(failures_per_mille) {
                self.observed.remove(name);
            }
        }
        for (name, content) in &desired {
            if known.get(name) == Some(content) {
                continue;
            }
            self.believed.insert(name.clone(), content.clone());
            if !dice.chance(failures_per_mille) {
                self.observed.insert(name.clone(), content.clone());
            }
        }
        self.done = self.forgets_failures || self.observed == desired;
    }

    /// The machine was restarted.
    pub fn reset(&mut self) {
        self.observed.clear();
        self.believed.clear();
        self.done = false;
    }

    /// The first object that is not as desired.
    pub fn difference(&self, desired: &ClusterNetState) -> Option<String> {
        let desired = objects(desired);
        let missing = desired.iter().find(|(name, content)| self.observed.get(*name) != Some(content));
        let left = self.observed.keys().find(|name| !desired.contains_key(*name));
        missing
            .map(|(name, _)| format!("{name} is missing or different"))
            .or_else(|| left.map(|name| format!("{name} is left over")))
    }
}

fn objects(state: &ClusterNetState) -> Objects {
    let networks = state.networks.iter().map(|network| (format!("network {}", network.id), format!("{network:?}")));
    let addresses = state.load_balancer_addresses.iter().chain(&state.load_balancer_addresses_ipv6);
    let addresses = addresses.map(|(id, net)| (format!("balancer {id} {}", net.addr().is_ipv6()), net.to_string()));
    let services = state
        .services
        .iter()
        .map(|service| (format!("service {} {}", service.id, service.network), format!("{service:?}")));
    let ports = state
        .ingress
        .iter()
        .map(|port| (format!("port {}/{}", port.published_port, port.protocol.as_str()), format!("{port:?}")));
    networks.chain(addresses).chain(services).chain(ports).collect()
}
