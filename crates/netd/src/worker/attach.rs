//! Attaching and detaching containers: the frequent commands, which touch only what
//! they are about.

use super::{Cause, Scope, Worker};
use crate::balance::ipvs::table::Services;
use crate::diff::{self, Op};
use crate::nft::table::{self, TableFamily};
use crate::plan::{PlaceId, SeenPlace, WantedPlace};
use crate::ports::{self, Holder};
use crate::rules;
use crate::wanted;
use skep_model::error::{Error, Result};
use skep_model::id::{EndpointId, NetworkId};
use skep_model::netstate::{AttachRequest, DesiredEndpoint, DesiredNetwork, NetworkKind};
use skep_model::network::Protocol;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

impl Worker {
    /// All legs of one container or none.
    pub(super) fn attach(&mut self, request: &AttachRequest) -> Result<()> {
        // An endpoint with new settings is a new endpoint.
        let is_replaced = |old: &DesiredEndpoint| request.endpoints.iter().any(|new| new.id == old.id && new != old);
        self.detach(is_replaced)?;
        request.endpoints.iter().try_for_each(ports::check_families)?;
        let ports: Vec<_> = request.endpoints.iter().flat_map(ports::of_endpoint).collect();
        self.ports.take(&ports)?;
        let outcome = self
            .edit(|desired| desired.attach(request))
            .and_then(|()| self.attach_in_kernel(request))
            .and_then(|()| self.save());
        if let Err(error) = outcome {
            let ids: BTreeSet<&EndpointId> = request.endpoints.iter().map(|endpoint| &endpoint.id).collect();
            if let Err(undo) = self.detach(|endpoint| ids.contains(&endpoint.id)) {
                tracing::warn!(error = %undo.message, "cannot undo a failed attachment completely");
            }
            self.ports.release(|holder| matches!(holder, Holder::Endpoint(id) if ids.contains(id)));
            return Err(error);
        }
        Ok(())
    }

    fn attach_in_kernel(&mut self, request: &AttachRequest) -> Result<()> {
        let namespaces: BTreeSet<PathBuf> = request.endpoints.iter().map(|endpoint| endpoint.netns.clone()).collect();
        for path in &namespaces {
            let missing = || Error::not_found(format!("network namespace {} does not exist", path.display()));
            let inode = self.kernel.namespace_inode(path)?.ok_or_else(missing)?;
            self.write(|desired| desired.namespaces.insert(path.clone(), inode));
            self.open_resolver(path).map_err(|error| Error::internal(format!("resolver: {error}")))?;
        }
        let wanted = self.read(|desired| wanted::containers(desired, &self.circumstances(), &namespaces));
        let mut containers = wanted.clone();
        containers.places.retain(|place, _| matches!(place, PlaceId::Container(_)));
        let seen = self.kernel.observe(&containers)?;
        if let Some(reason) = seen.unreadable.first() {
            return Err(Error::internal(format!("cannot attach: {reason}")));
        }
        self.update_guards(request.endpoints.iter())?;
        let ops = diff::attachment(&wanted, &seen);
        let failed = self.kernel.apply(&ops);
        if let Some((op, error)) = failed.first() {
            return Err(Error::internal(format!("cannot attach: {op}: {error}")));
        }
        let needs_rules = request.endpoints.iter().any(|endpoint| !endpoint.ports.is_empty());
        if needs_rules || self.read(|desired| !desired.cluster.ingress.is_empty()) {
            self.update_host_rules()?;
        }
        Ok(())
    }

    /// Removes the endpoints that `gone` names.
    pub(super) fn detach(&mut self, gone: impl Fn(&DesiredEndpoint) -> bool) -> Result<()> {
        let removed = self.edit(|desired| Ok(desired.detach(&gone)))?;
        if removed.is_empty() {
            return Ok(());
        }
        self.save()?;
        let removed_ids: BTreeSet<&EndpointId> = removed.iter().map(|endpoint| &endpoint.id).collect();
        let had_rules = removed.iter().any(|endpoint| !endpoint.ports.is_empty());
        if had_rules || self.read(|desired| !desired.cluster.ingress.is_empty()) {
            self.update_host_rules()?;
        }
        self.update_guards(removed.iter())?;
        self.forget_flows(&removed);
        self.ports.release(|holder| matches!(holder, Holder::Endpoint(id) if removed_ids.contains(id)));
        // The redirection inside the container stays: it harms nobody there, dies with
        // the namespace, and taking it out costs a grace period of the kernel.
        let resolvers = self.read(|desired| desired.local.resolvers.keys().cloned().collect());
        self.resolvers.retain(&resolvers);
        let ops: Vec<Op> = self.read(|desired| {
            removed
                .iter()
                .filter_map(|endpoint| Some(delete_port(endpoint, desired.network(&endpoint.network)?)))
                .collect()
        });
        for (op, error) in self.kernel.apply(&ops) {
            // A dead container's namespace takes its rules with it; a link that stays is found by the next check.
            tracing::warn!(%op, %error, "cannot detach completely, trying again");
            self.failing.ops.insert(op.to_string(), error.to_string());
        }
        Ok(())
    }

    /// UDP has no end of connection: a client would go on talking to the old address.
    fn forget_flows(&mut self, removed: &[DesiredEndpoint]) {
        let publishes_udp = |endpoint: &&DesiredEndpoint| {
            endpoint.ports.iter().any(|port| port.protocol == Protocol::Udp)
                || self.read(|desired| desired.cluster.ingress.iter().any(|port| port.protocol == Protocol::Udp))
        };
        let addresses: Vec<(IpAddr, Option<u16>)> =
            removed.iter().filter(publishes_udp).flat_map(|e| &e.addresses).map(|net| (net.addr(), None)).collect();
        // Looking through the kernel's connections takes milliseconds.
        if addresses.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.flush_flows(&PlaceId::Host, &addresses) {
            tracing::warn!(%error, "cannot forget the flows of a detached container");
        }
    }

    /// Makes the host's table right by the difference to what it was left at, or, when
    /// somebody changed it, to what it is.
    fn update_host_rules(&mut self) -> Result<()> {
        let (want, balanced) =
            self.read(|desired| wanted::host_rules(desired, self.balancer.as_ref(), super::bridges_are_filtered()));
        self.update_balanced(balanced)?;
        let host = (PlaceId::Host, TableFamily::Inet);
        let changes = table::difference(want.as_ref(), self.tables.get(&host));
        if changes.is_empty() {
            return Ok(());
        }
        let failed = self.kernel.apply(&[Op::Rules { place: PlaceId::Host, family: TableFamily::Inet, changes }]);
        if failed.is_empty() {
            match want {
                Some(table) => self.tables.insert(host, table),
                None => self.tables.remove(&host),
            };
            return Ok(());
        }
        let failures = self.converge(Scope::Networks, Cause::Drift);
        match failures.into_iter().find(|(op, _)| matches!(op, Op::Rules { place: PlaceId::Host, .. })) {
            Some((op, reason)) => Err(Error::internal(format!("{op}: {reason}"))),
            None => Ok(()),
        }
    }
}

impl Worker {
    /// Makes the overlays' bridges let exactly these and their neighbours through.
    fn update_guards<'a>(&mut self, endpoints: impl Iterator<Item = &'a DesiredEndpoint>) -> Result<()> {
        let networks: BTreeSet<NetworkId> = endpoints.map(|endpoint| endpoint.network.clone()).collect();
        for network in networks {
            let key = (PlaceId::Overlay(network.clone()), TableFamily::Bridge);
            // What has no such table is no overlay, or is not there yet, or any more.
            let Some(have) = self.tables.get(&key) else { continue };
            let on_network = |endpoint: &&DesiredEndpoint| endpoint.network == network;
            let want = self.read(|desired| rules::guard::table(desired.local.endpoints.iter().filter(on_network)));
            let changes = table::difference(Some(&want), Some(have));
            if changes.is_empty() {
                continue;
            }
            let failed = self.kernel.apply(&[Op::Rules { place: key.0.clone(), family: key.1, changes }]);
            if failed.is_empty() {
                self.tables.insert(key, want);
                continue;
            }
            // Somebody changed it: all of it is looked at.
            let failures = self.converge(Scope::Networks, Cause::Drift);
            let is_it = |op: &Op| matches!(op, Op::Rules { place, family, .. } if (place, family) == (&key.0, &key.1));
            if let Some((op, reason)) = failures.into_iter().find(|(op, _)| is_it(op)) {
                return Err(Error::internal(format!("{op}: {reason}")));
            }
        }
        Ok(())
    }

    /// What IPVS has on the host is read each time: it is a handful of services.
    fn update_balanced(&mut self, balanced: Option<Services>) -> Result<()> {
        if balanced.is_none() {
            return Ok(());
        }
        let have = SeenPlace { balanced: self.kernel.balanced(&PlaceId::Host)?, ..SeenPlace::default() };
        let want = WantedPlace { balanced, ..WantedPlace::default() };
        let ops = diff::balancing(&PlaceId::Host, &want, &have);
        match self.kernel.apply(&ops).into_iter().next() {
            Some((op, error)) => Err(Error::internal(format!("{op}: {error}"))),
            None => Ok(()),
        }
    }
}

fn delete_port(endpoint: &DesiredEndpoint, network: &DesiredNetwork) -> Op {
    let place = match network.kind {
        NetworkKind::Bridge { .. } => PlaceId::Host,
        NetworkKind::Overlay { .. } => PlaceId::Overlay(network.id.clone()),
        NetworkKind::Mesh { .. } => PlaceId::Host,
    };
    Op::DeleteLink { place, name: wanted::port_name(endpoint) }
}
