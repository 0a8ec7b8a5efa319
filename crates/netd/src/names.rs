//! Names by which people enter the namespaces that netd works in:
//! `nsenter --net=/run/skep/netd/netns/NAME`.
//!
//! The names are those that the reference's users know: `1-<network>` is a network's
//! namespace and `lb_<network>` that of its balancer, which are one and the same here;
//! `ingress_sbox` is where published ports are balanced, which is the host's own.

use crate::desired::Desired;
use skep_model::netstate::NetworkKind;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
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
                names.insert(format!("lb_{}", prefix(id, BALANCER_LENGTH)), overlays.join(id));
            }
            NetworkKind::Mesh { .. } => {
                let own = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
                names.insert(format!("1-{}", prefix(id, NETWORK_LENGTH)), own.clone());
                names.insert("ingress_sbox".into(), own);
            }
            NetworkKind::Bridge { .. } => {}
        }
    }
    names
}

fn prefix(id: &str, length: usize) -> &str {
    id.get(..length).unwrap_or(id)
}

/// Makes a directory hold these links and nothing else; it goes with its last name.
///
/// # Errors
/// What the file system says.
pub fn converge(directory: &Path, names: &BTreeMap<String, PathBuf>) -> io::Result<()> {
    let present = match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && names.is_empty() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    for entry in present {
        let target = fs::read_link(entry.path()).ok();
        let is_right = entry.file_name().to_str().and_then(|name| names.get(name)) == target.as_ref();
        if !is_right || target.is_none() {
            fs::remove_file(entry.path())?;
        }
    }
    if names.is_empty() {
        return fs::remove_dir(directory);
    }
    fs::create_dir_all(directory)?;
    for (name, target) in names {
        match symlink(target, directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
