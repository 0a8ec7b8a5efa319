//! Host ports of published container ports.

use skep_model::container::ContainerInfo;
use skep_model::id::ContainerId;
use skep_model::network::{PortBinding, PortKey, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// First and last port chosen for those who name none.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

/// Ports that are really bound, by container port.
pub(crate) type Bound = BTreeMap<PortKey, Vec<PortBinding>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Holding {
    port: u16,
    protocol: Protocol,
    /// `None` is every address.
    address: Option<IpAddr>,
    container: ContainerId,
}

/// Which container holds which host port.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    held: BTreeSet<Holding>,
    last_ephemeral: u16,
}

/// `Bind for 0.0.0.0:8080 failed: port is already allocated`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortTaken(pub(crate) String);

impl PortTable {
    /// Takes all host ports a container wants, or none. `is_free` asks the machine about
    /// a port nobody here holds.
    pub(crate) fn reserve(
        &mut self,
        info: &ContainerInfo,
        is_free: &dyn Fn(u16, Protocol) -> bool,
    ) -> Result<Bound, PortTaken> {
        let mut bound = Bound::new();
        for (key, bindings) in wanted(info) {
            for binding in bindings {
                match self.take(&info.id, key, &binding, is_free) {
                    Ok(host_port) => bound.entry(key).or_default().push(PortBinding {
                        host_ip: binding.host_ip,
                        host_port,
                        host_port_end: 0,
                    }),
                    Err(taken) => {
                        self.release(&info.id);
                        return Err(taken);
                    }
                }
            }
        }
        Ok(bound)
    }

    /// Of a container that was found running.
    pub(crate) fn adopt(&mut self, container: &ContainerId, bound: &Bound) {
        for (key, bindings) in bound {
            for binding in bindings {
                self.hold(container, binding.host_port, key.protocol, binding.host_ip);
            }
        }
    }

    pub(crate) fn release(&mut self, container: &ContainerId) {
        self.held.retain(|holding| holding.container != *container);
    }

    fn take(
        &mut self,
        container: &ContainerId,
        key: PortKey,
        binding: &PortBinding,
        is_free: &dyn Fn(u16, Protocol) -> bool,
    ) -> Result<u16, PortTaken> {
        let free = |table: &Self, port: u16| !table.is_held(port, key.protocol, binding.host_ip);
        let chosen = match (binding.host_port, binding.host_port_end) {
            (0, _) => self.ephemeral(|table, port| free(table, port) && is_free(port, key.protocol)),
            (port, 0) => Some(port).filter(|&port| free(self, port)),
            (first, last) => (first..=last).find(|&port| free(self, port)),
        };
        let port = chosen.ok_or_else(|| {
            let address = binding.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
            PortTaken(format!("Bind for {address}:{} failed: port is already allocated", binding.host_port))
        })?;
        self.hold(container, port, key.protocol, binding.host_ip);
        Ok(port)
    }

    fn ephemeral(&mut self, fits: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        let behind = self.last_ephemeral.saturating_add(1).max(*EPHEMERAL.start());
        let found = (behind..=*EPHEMERAL.end()).chain(*EPHEMERAL.start()..behind).find(|&port| fits(self, port))?;
        self.last_ephemeral = found;
        Some(found)
    }

    fn is_held(&self, port: u16, protocol: Protocol, address: Option<IpAddr>) -> bool {
        self.held.iter().any(|holding| {
            let meets = holding.address.is_none() || address.is_none() || holding.address == address;
            holding.port == port && holding.protocol == protocol && meets
        })
    }

    fn hold(&mut self, container: &ContainerId, port: u16, protocol: Protocol, address: Option<IpAddr>) {
        self.held.insert(Holding { port, protocol, address, container: container.clone() });
    }
}

/// Bindings by container port; `-P` adds one for each exposed port without.
fn wanted(info: &ContainerInfo) -> Bound {
    let mut wanted = info.host.port_bindings.clone();
    for bindings in wanted.values_mut() {
        if bindings.is_empty() {
            bindings.push(PortBinding::default());
        }
    }
    if info.host.publish_all_ports {
        for key in &info.config.exposed_ports {
            wanted.entry(*key).or_insert_with(|| vec![PortBinding::default()]);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::{ContainerConfig, HostConfig};

    fn container(id: &str, bindings: &[(&str, Option<&str>, u16, u16)]) -> ContainerInfo {
        let mut host = HostConfig::default();
        for (key, address, host_port, host_port_end) in bindings {
            let binding = PortBinding {
                host_ip: address.map(|address| address.parse().unwrap()),
                host_port: *host_port,
                host_port_end: *host_port_end,
            };
            host.port_bindings.entry(key.parse().unwrap()).or_default().push(binding);
        }
        ContainerInfo { id: id.into(), host, ..Default::default() }
    }

    fn ports(bound: &Bound) -> Vec<u16> {
        bound.values().flatten().map(|binding| binding.host_port).collect()
    }

    #[test]
    fn a_port_is_held_by_one_container() {
        let mut table = PortTable::default();
        let free = |_: u16, _: Protocol| true;
        table.reserve(&container("a", &[("80/tcp", None, 8080, 0)]), &free).unwrap();
        let error = table.reserve(&container("b", &[("81/tcp", None, 8081, 0), ("80/tcp", None, 8080, 0)]), &free);
        assert_eq!(error.unwrap_err().0, "Bind for 0.0.0.0:8080 failed: port is already allocated");
        // Nothing of the failed one is held.
        table.reserve(&container("c", &[("81/tcp", None, 8081, 0)]), &free).unwrap();
        table.reserve(&container("d", &[("80/udp", None, 8080, 0)]), &free).unwrap();
        table.release(&"a".into());
        table.reserve(&container("e", &[("80/tcp", Some("127.0.0.1"), 8080, 0)]), &free).unwrap();
        table.reserve(&container("f", &[("80/tcp", Some("127.0.0.2"), 8080, 0)]), &free).unwrap();
        assert!(table.reserve(&container("g", &[("80/tcp", None, 8080, 0)]), &free).is_err());
    }

    #[test]
    fn ranges_and_free_choice_find_the_next_port() {
        let mut table = PortTable::default();
        let free = |port: u16, _: Protocol| port != 32768;
        let range = |id| container(id, &[("80/tcp", None, 9000, 9001)]);
        assert_eq!(ports(&table.reserve(&range("a"), &free).unwrap()), [9000]);
        assert_eq!(ports(&table.reserve(&range("b"), &free).unwrap()), [9001]);
        assert!(table.reserve(&range("c"), &free).is_err());
        let mut all = container("d", &[]);
        all.host.publish_all_ports = true;
        all.config = ContainerConfig { exposed_ports: ["80/tcp".parse().unwrap()].into(), ..Default::default() };
        assert_eq!(ports(&table.reserve(&all, &free).unwrap()), [32769]);
    }
}
