//! Questions that change nothing: status, verification, traces.

use super::Worker;
use crate::diff;
use crate::plan::{PlaceId, Seen};
use crate::rules::guard;
use crate::trace::{self, Facts};
use crate::wanted::wanted;
use skep_model::error::Result;
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::{NetdCounters, NetdStatus};
use std::collections::BTreeMap;

impl Worker {
    pub(super) fn status(&self) -> NetdStatus {
        NetdStatus {
            pid: std::process::id(),
            balancer: self.balancer.name().to_owned(),
            cluster_generation: self.read(|desired| desired.cluster.generation),
            repairs: self.repairs,
            failing: self.failing.lines(),
            counters: NetdCounters { forged_frames: self.forged_frames.clone(), ..self.resolvers.counters() },
        }
    }

    pub(super) fn verify(&mut self) -> Result<Vec<String>> {
        let wanted = self.read(|desired| wanted(desired, &self.circumstances()));
        let seen = self.kernel.observe_all(&wanted)?;
        self.note_forged_frames(&seen);
        let mut lines: Vec<String> = diff::difference(&wanted, &seen).iter().map(ToString::to_string).collect();
        lines.extend(wanted.impossible);
        lines.extend(self.failing.ports.values().cloned());
        lines.extend(self.failing.resolvers.iter().cloned());
        Ok(lines)
    }

    pub(super) fn trace(&mut self, service: &str) -> Result<ServiceTrace> {
        let Some((id, name)) = self.read(|desired| trace::find(desired, service)) else {
            return Ok(ServiceTrace { balancer: self.balancer.name().to_owned(), ..ServiceTrace::default() });
        };
        let mut wanted = self.read(|desired| wanted(desired, &self.circumstances()));
        wanted.places.retain(|place, _| !matches!(place, PlaceId::Container(_)));
        let seen = self.kernel.observe_all(&wanted)?;
        let mut traffic = BTreeMap::new();
        for place in wanted.places.keys() {
            traffic.insert(place.clone(), self.kernel.traffic(place)?);
        }
        let (balancer, taken_ports) = (self.balancer.name(), &self.failing.ports);
        Ok(self.read(|desired| {
            let facts = Facts { desired, wanted: &wanted, seen: &seen, traffic: &traffic, balancer, taken_ports };
            trace::trace(&facts, &id, name)
        }))
    }

    /// The kernel counts from when the rules were made.
    pub(super) fn note_forged_frames(&mut self, seen: &Seen) {
        let guards = seen.places.iter().filter_map(|(place, seen)| match place {
            PlaceId::Overlay(network) => Some((network, seen.guard.as_ref()?)),
            PlaceId::Host | PlaceId::Container(_) => None,
        });
        let dropped = guards.map(|(network, table)| (network.clone(), guard::dropped(table)));
        self.forged_frames = dropped.filter(|(_, frames)| *frames > 0).collect();
    }
}
