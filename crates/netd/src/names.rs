//! Names by which people enter the namespaces that netd works in:
//! `nsenter --net=/run/skep/netd/netns/NAME`.
//!
//! The names are those that the reference's users know: `1-<network>` is a network's
//! namespace and `lb_<network>` that of its balancer, which are one and the same here;
//! `ingress_sbox` is where published ports are balanced, which is the host's own.

use crate::desired::Desired;
use crate::kernel::netns;
use skep_model::netstate::NetworkKind;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// So many characters of a network's id tell it from others.
const NETWORK_LENGTH: usize = 10;
const BALANCER_LENGTH: usize = 9;

/// Each name with the path it stands for; `overlays` is where their namespaces are.
pub fn wanted(desired: &Desired, overlays: &Path) -> BTreeMap<String, PathBuf> {
    let mut names = BTreeMap::new();
    for network in &desired.cluster.networks {
        let id = network.id.as_str();
        match network.kind {
            NetworkKind::Overlay { .. } => {
                names.insert(format!("1-{}", prefix(id, NETWORK_LENGTH)), overlays.join(id));
                names.insert(balancer(id), overlays.join(id));
            }
            NetworkKind::Mesh { .. } => {
                let own = PathBuf::from(netns::OWN);
                names.insert(format!("1-{}", prefix(id, NETWORK_LENGTH)), own.clone());
                names.insert("ingress_sbox".into(), own);
            }
            NetworkKind::Bridge { .. } => {}
        }
    }
    names
}

/// The name of a network's balancer.
pub fn balancer(network: &str) -> String {
    format!("lb_{}", prefix(network, BALANCER_LENGTH))
}

fn prefix(id: &str, length: usize) -> &str {
    id.get(..length).unwrap_or(id)
}

/// Makes a directory hold these namespaces and nothing else; it goes with its last name. Mounts,
/// not links: a container that is given the directory can enter them, too.
///
/// # Errors
/// What the kernel says; the other names are right all the same.
pub fn converge(directory: &Path, names: &BTreeMap<String, PathBuf>) -> io::Result<()> {
    let present = match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let exists = !present.is_empty() || directory.exists();
    let mut failures = Vec::new();
    for entry in present {
        let target = entry.file_name().to_str().and_then(|name| names.get(name));
        if !target.is_some_and(|target| netns::is_same(target, &entry.path())) {
            failures.extend(netns::Namespace::remove(&entry.path()).err());
        }
    }
    if names.is_empty() && exists {
        failures.extend(fs::remove_dir(directory).err());
    } else if !names.is_empty() {
        fs::create_dir_all(directory)?;
    }
    for (name, target) in names {
        let path = directory.join(name);
        // A namespace that is to come has no name yet.
        if target.exists() && !netns::is_same(target, &path) {
            failures.extend(netns::bind(target, &path).err());
        }
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}
