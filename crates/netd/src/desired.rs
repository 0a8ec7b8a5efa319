//! The desired state: two sections with one owner each, edited, checked and kept in a
//! small file, so that a killed netd goes on by itself.

use crate::kernel::netns::Namespace;
use serde::{Deserialize, Serialize};
use skep_model::error::{Error, Result};
use skep_model::id::NetworkId;
use skep_model::netstate::{
    AttachRequest, ClusterNetState, DesiredEndpoint, DesiredNetwork, LocalNetState, NetworkKind,
};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const INTERFACE_NAME_LENGTH_MAX: usize = 15;
/// More than any machine runs; keeps a mad caller from filling the memory.
const ENDPOINTS_MAX: usize = 10_000;

/// Everything netd was told, and the ports its resolvers took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Desired {
    pub local: LocalNetState,
    pub cluster: ClusterNetState,
    /// Where each namespace's resolver listens: a restarted netd takes the same port,
    /// and the rules in the namespace stay as they are.
    pub resolver_ports: BTreeMap<PathBuf, u16>,
    /// Which namespace each path led to when it was attached.
    pub namespaces: BTreeMap<PathBuf, u64>,
}

impl Desired {
    /// A network of either section.
    pub fn network(&self, id: &NetworkId) -> Option<&DesiredNetwork> {
        self.networks().find(|network| network.id == *id)
    }

    /// Whether names are to be answered in a namespace: a resolver was asked for and
    /// one of the networks there has names.
    pub fn wants_resolver(&self, namespace: &Path) -> bool {
        self.local.resolvers.contains_key(namespace)
            && self.local.endpoints.iter().any(|endpoint| {
                endpoint.netns == namespace && self.network(&endpoint.network).is_some_and(|network| network.dns)
            })
    }

    pub fn networks(&self) -> impl Iterator<Item = &DesiredNetwork> {
        self.local.networks.iter().chain(&self.cluster.networks)
    }

    /// Adds or replaces a local network.
    ///
    /// # Errors
    /// When it could not exist in a kernel or steals another's bridge.
    pub fn put_network(&mut self, network: DesiredNetwork) -> Result<()> {
        check_network(&network)?;
        if let NetworkKind::Bridge { bridge, .. } = &network.kind {
            let taken = self.local.networks.iter().find(|other| {
                other.id != network.id
                    && matches!(&other.kind, NetworkKind::Bridge { bridge: name, .. } if name == bridge)
            });
            if let Some(other) = taken {
                return Err(Error::conflict(format!("bridge {bridge} belongs to network {}", other.name)));
            }
        }
        self.local.networks.retain(|other| other.id != network.id);
        self.local.networks.push(network);
        Ok(())
    }

    /// Removes a local network; an unknown one is fine.
    ///
    /// # Errors
    /// While endpoints are on it.
    pub fn remove_network(&mut self, id: &NetworkId) -> Result<()> {
        if self.local.endpoints.iter().any(|endpoint| endpoint.network == *id) {
            return Err(Error::forbidden(format!("network {id} has active endpoints")));
        }
        self.local.networks.retain(|network| network.id != *id);
        Ok(())
    }

    /// Adds a container's endpoints, replacing those with the same ids.
    ///
    /// # Errors
    /// When an endpoint is malformed or its network unknown; nothing was changed then.
    pub fn attach(&mut self, request: &AttachRequest) -> Result<()> {
        if self.local.endpoints.len() + request.endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::unavailable(format!("more than {ENDPOINTS_MAX} endpoints on one node")));
        }
        for endpoint in &request.endpoints {
            check_endpoint(endpoint)?;
            if self.network(&endpoint.network).is_none() {
                return Err(Error::not_found(format!("network {} not found", endpoint.network)));
            }
        }
        for endpoint in &request.endpoints {
            self.local.endpoints.retain(|other| other.id != endpoint.id);
            self.local.endpoints.push(endpoint.clone());
            if let Some(resolver) = &request.resolver {
                self.local.resolvers.insert(endpoint.netns.clone(), resolver.clone());
            }
        }
        Ok(())
    }

    /// Removes the endpoints that `gone` names and returns them; a namespace that has
    /// none left has no resolver either.
    pub fn detach(&mut self, gone: impl Fn(&DesiredEndpoint) -> bool) -> Vec<DesiredEndpoint> {
        let (removed, kept) =
            std::mem::take(&mut self.local.endpoints).into_iter().partition(|endpoint| gone(endpoint));
        self.local.endpoints = kept;
        self.drop_unused_resolvers();
        removed
    }

    fn drop_unused_resolvers(&mut self) {
        let endpoints = &self.local.endpoints;
        let in_use = |path: &PathBuf| endpoints.iter().any(|endpoint| endpoint.netns == *path);
        self.local.resolvers.retain(|path, _| in_use(path));
        self.resolver_ports.retain(|path, _| in_use(path));
        self.namespaces.retain(|path, _| in_use(path));
    }

    /// Replaces the swarm's section.
    ///
    /// # Errors
    /// An older generation, or a malformed network.
    pub fn set_cluster(&mut self, state: ClusterNetState) -> Result<()> {
        let present = self.cluster.generation;
        if state.generation < present {
            let text = format!("network state generation {} is older than the present {present}", state.generation);
            return Err(Error::conflict(text));
        }
        state.networks.iter().try_for_each(check_network)?;
        self.cluster = state;
        Ok(())
    }

    /// Replaces the engine's section.
    ///
    /// # Errors
    /// A malformed network or endpoint.
    pub fn sync_local(&mut self, state: LocalNetState) -> Result<()> {
        state.networks.iter().try_for_each(check_network)?;
        state.endpoints.iter().try_for_each(check_endpoint)?;
        self.local = state;
        self.drop_unused_resolvers();
        Ok(())
    }

    /// Reads the file; endpoints whose namespace is gone are dropped, since after a
    /// reboot a path may lead to another process's namespace or to none.
    ///
    /// # Errors
    /// An unreadable file. A malformed one is reported and taken as empty: the daemon
    /// sends its section again when it connects.
    pub fn load(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut state: Self = match skep_proto::codec::decode(&bytes) {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the state file is malformed, starting empty");
                return Ok(Self::default());
            }
        };
        let is_same = |path: &Path, inode: u64| matches!(Namespace::open(path), Ok(Some(namespace)) if namespace.inode().is_ok_and(|found| found == inode));
        let alive: Vec<PathBuf> = state
            .namespaces
            .iter()
            .filter(|(path, inode)| is_same(path, **inode))
            .map(|(path, _)| path.clone())
            .collect();
        state.detach(|endpoint| !alive.contains(&endpoint.netns));
        Ok(state)
    }

    /// Writes the file so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&skep_proto::codec::encode(self))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn check_network(network: &DesiredNetwork) -> Result<()> {
    // Ids become file names and parts of rule names.
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_plain(network.id.as_str()) {
        return Err(Error::invalid(format!("network id \"{}\" is malformed", network.id)));
    }
    if let NetworkKind::Bridge { bridge, .. } = &network.kind {
        check_interface_name(bridge)?;
    }
    Ok(())
}

fn check_endpoint(endpoint: &DesiredEndpoint) -> Result<()> {
    check_interface_name(&endpoint.interface)?;
    if endpoint.id.is_empty() || endpoint.addresses.is_empty() {
        return Err(Error::invalid(format!("endpoint \"{}\" has no id or no address", endpoint.id)));
    }
    for key in endpoint.sysctls.keys() {
        if !key.starts_with("net.") || key.contains("..") || key.contains('/') {
            return Err(Error::invalid(format!("sysctl \"{key}\" is not a net sysctl")));
        }
    }
    Ok(())
}

fn check_interface_name(name: &str) -> Result<()> {
    let is_fine = !name.is_empty()
        && name.len() <= INTERFACE_NAME_LENGTH_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_fine { Ok(()) } else { Err(Error::invalid(format!("interface name \"{name}\" is malformed"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_generation_is_refused_and_an_equal_one_taken() {
        let mut desired = Desired::default();
        let state = |generation| ClusterNetState { generation, ..ClusterNetState::default() };
        assert!(desired.set_cluster(state(5)).is_ok());
        assert!(desired.set_cluster(state(4)).is_err());
        assert!(desired.set_cluster(state(5)).is_ok());
        assert_eq!(desired.cluster.generation, 5);
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        assert!(check_interface_name("br-0123456789ab").is_ok());
        for name in ["", "..", "a/b", "0123456789abcdef", "a b", "x:1"] {
            assert!(check_interface_name(name).is_err(), "{name}");
        }
    }
}
