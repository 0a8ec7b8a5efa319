//! IPVS' table as a value, and the pure difference between the wanted one and the
//! kernel's.

use crate::nft::expression::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// A service known by the firewall mark of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub mark: u32,
    pub family: Family,
}

/// Where connections go; port 0 keeps the one that the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
}

/// Each service with its destinations and their weights; 0 takes no new connection.
pub type Services = BTreeMap<Service, BTreeMap<Destination, u32>>;

/// Seconds after which an idle connection is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_s: u32,
    /// After the first sign of its end.
    pub tcp_end_s: u32,
    pub udp_s: u32,
}

impl Timeouts {
    /// Of the kernel's connection tracking, unless the machine's owner chose others.
    pub const CONNTRACK: Self = Self { tcp_s: 432_000, tcp_end_s: 120, udp_s: 120 };
    /// IPVS' own.
    pub const IPVS: Self = Self { tcp_s: 900, tcp_end_s: 120, udp_s: 300 };

    fn at_least(self, other: Self) -> Self {
        Self {
            tcp_s: self.tcp_s.max(other.tcp_s),
            tcp_end_s: self.tcp_end_s.max(other.tcp_end_s),
            udp_s: self.udp_s.max(other.udp_s),
        }
    }
}

/// What the kernel has in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenBalancing {
    pub services: Services,
    /// Services that somebody gave another scheduler or other flags.
    pub altered: BTreeSet<Service>,
    pub timeouts: Timeouts,
    /// Those of connection tracking, which must not outlive ours: a connection that only
    /// one of the two remembers is cut.
    pub conntrack: Timeouts,
}

impl Default for SeenBalancing {
    fn default() -> Self {
        let (services, altered) = (Services::new(), BTreeSet::new());
        Self { services, altered, timeouts: Timeouts::IPVS, conntrack: Timeouts::CONNTRACK }
    }
}

/// One change of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    SetTimeouts(Timeouts),
    NewService(Service),
    SetService(Service),
    DeleteService(Service),
    NewDestination(Service, Destination, u32),
    SetDestination(Service, Destination, u32),
    DeleteDestination(Service, Destination),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetTimeouts(timeouts) => write!(f, "timeouts are not {timeouts:?}"),
            Self::NewService(service) => write!(f, "service {:#x} is missing", service.mark),
            Self::SetService(service) => write!(f, "service {:#x} differs", service.mark),
            Self::DeleteService(service) => write!(f, "service {:#x} is not wanted", service.mark),
            Self::NewDestination(service, to, _) => write!(f, "{} of {:#x} is missing", to.address, service.mark),
            Self::SetDestination(service, to, weight) => {
                write!(f, "weight of {} of {:#x} is not {weight}", to.address, service.mark)
            }
            Self::DeleteDestination(service, to) => write!(f, "{} of {:#x} is not wanted", to.address, service.mark),
        }
    }
}

/// What turns the kernel's table into the wanted one. `is_ours` says which services we
/// may remove: on the host others may balance, too.
pub fn difference(want: Option<&Services>, have: &SeenBalancing, is_ours: impl Fn(&Service) -> bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let nothing = BTreeMap::new();
    if want.is_some_and(|want| !want.is_empty()) {
        let timeouts = have.timeouts.at_least(have.conntrack);
        changes.extend((timeouts != have.timeouts).then_some(Change::SetTimeouts(timeouts)));
    }
    for (service, wanted) in want.into_iter().flatten() {
        let present = have.services.get(service);
        if present.is_none() {
            changes.push(Change::NewService(*service));
        } else if have.altered.contains(service) {
            changes.push(Change::SetService(*service));
        }
        let present = present.unwrap_or(&nothing);
        for (destination, weight) in wanted {
            match present.get(destination) {
                None => changes.push(Change::NewDestination(*service, *destination, *weight)),
                Some(other) if other != weight => changes.push(Change::SetDestination(*service, *destination, *weight)),
                Some(_) => {}
            }
        }
        let gone = present.keys().filter(|destination| !wanted.contains_key(*destination));
        changes.extend(gone.map(|destination| Change::DeleteDestination(*service, *destination)));
    }
    let is_wanted = |service: &Service| want.is_some_and(|want| want.contains_key(service));
    let gone = have.services.keys().filter(|service| is_ours(service) && !is_wanted(service));
    changes.extend(gone.map(|service| Change::DeleteService(*service)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service = Service { mark: 0x100, family: Family::V4 };

    fn to(address: &str) -> Destination {
        Destination { address: address.parse().unwrap(), port: 0 }
    }

    fn services(destinations: &[(&str, u32)]) -> Services {
        BTreeMap::from([(SERVICE, destinations.iter().map(|(address, weight)| (to(address), *weight)).collect())])
    }

    fn seen(services: &Services) -> SeenBalancing {
        SeenBalancing { services: services.clone(), timeouts: Timeouts::CONNTRACK, ..SeenBalancing::default() }
    }

    fn check(want: Option<&Services>, have: &SeenBalancing, expect: &[Change]) {
        assert_eq!(difference(want, have, |service| service.mark == SERVICE.mark), expect);
    }

    #[test]
    fn differences_are_minimal_and_weights_change_in_place() {
        let base = services(&[("10.0.0.1", 1), ("10.0.0.2", 1)]);
        check(Some(&base), &seen(&base), &[]);
        check(None, &seen(&base), &[Change::DeleteService(SERVICE)]);
        check(
            Some(&services(&[("10.0.0.1", 0), ("10.0.0.3", 1)])),
            &seen(&base),
            &[
                Change::SetDestination(SERVICE, to("10.0.0.1"), 0),
                Change::NewDestination(SERVICE, to("10.0.0.3"), 1),
                Change::DeleteDestination(SERVICE, to("10.0.0.2")),
            ],
        );
    }

    #[test]
    fn what_others_balance_stays_and_what_others_alter_is_set_right() {
        let base = services(&[]);
        let mut have = seen(&base);
        have.services.insert(Service { mark: 7, family: Family::V4 }, BTreeMap::new());
        check(Some(&base), &have, &[]);
        have.altered.insert(SERVICE);
        check(Some(&base), &have, &[Change::SetService(SERVICE)]);
    }

    #[test]
    fn timeouts_are_raised_to_those_of_connection_tracking_and_never_lowered() {
        let base = services(&[]);
        let mut have = SeenBalancing { services: base.clone(), ..SeenBalancing::default() };
        let expect = Timeouts { tcp_s: 432_000, tcp_end_s: 120, udp_s: 300 };
        check(Some(&base), &have, &[Change::SetTimeouts(expect)]);
        have.timeouts = Timeouts { tcp_s: 1_000_000, ..expect };
        check(Some(&base), &have, &[]);
        check(None, &SeenBalancing::default(), &[]);
    }
}
