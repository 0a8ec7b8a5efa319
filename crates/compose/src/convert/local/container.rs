//! The body of `/containers/create`.

use super::{files, host, mounts, networks, seconds};
use crate::convert::service::{environment, set};
use crate::convert::{list, texts};
use crate::error::Result;
use crate::load::Files;
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use serde_json::{Map, Value as Json, json};
use std::fmt;

/// Permissions of a placed file where none are given.
const MODE_DEFAULT: u32 = 0o444;

/// A file to put into a container before it starts.
#[derive(Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// Absolute path in the container.
    pub path: String,
    pub user: u64,
    pub group: u64,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// The content may be a secret.
impl fmt::Debug for PlacedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// # Errors
/// Values that make no sense, files that cannot be read.
pub(super) fn body(
    project: &Project,
    key: &str,
    node: &Node,
    image: &str,
    health: Option<Json>,
    files: &dyn Files,
) -> Result<Json> {
    let (network_mode, endpoints) = networks::endpoints(project, key, node)?;
    let ports = host::ports(node)?;
    let mounts = mounts::convert(project, node)?;
    let mut exposed: Map<String, Json> = ports.keys().map(|port| (port.clone(), json!({}))).collect();
    for port in list(node.get("expose")) {
        exposed.insert(if port.contains('/') { port } else { format!("{port}/tcp") }, json!({}));
    }
    let mut body = json!({
        "Image": image,
        "Hostname": node.text_of("hostname"),
        "Domainname": node.text_of("domainname"),
        "User": node.text_of("user"),
        "WorkingDir": node.text_of("working_dir"),
        "Env": environment(node),
        "Labels": texts(node.get("labels")),
        "Tty": node.flag("tty")?,
        "OpenStdin": node.flag("stdin_open")?,
        "StopSignal": node.text_of("stop_signal"),
        "ExposedPorts": exposed,
        "HostConfig": host::config(node, network_mode, ports, mounts, project.folder(), files)?,
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    });
    // An empty list resets what the image says.
    for (name, field) in [("command", "Cmd"), ("entrypoint", "Entrypoint")] {
        set(&mut body, field, node.get(name).map(|words| list(Some(words)).into()));
    }
    set(&mut body, "Healthcheck", health);
    set(&mut body, "StopTimeout", node.get("stop_grace_period").map(seconds).transpose()?.map(Json::from));
    let mac = node.get("mac_address").filter(|_| node.get("network_mode").is_some());
    set(&mut body, "MacAddress", mac.and_then(Node::as_text).map(Json::from));
    Ok(body)
}

/// Secrets and configs whose content the project holds itself.
///
/// # Errors
/// One that is not defined or has no content, or an owner that is no number.
pub(super) fn placed_files(project: &Project, node: &Node) -> Result<Vec<PlacedFile>> {
    let mut placed = Vec::new();
    for section in ["secrets", "configs"] {
        for reference in node.get(section).map_or(&[][..], Node::items) {
            let (source, defined) = mounts::referenced(project, section, reference)?;
            if !defined.text_of("file").is_empty() || defined.flag("external")? {
                continue;
            }
            placed.push(PlacedFile {
                path: mounts::target(reference, &source, mounts::folder(section)),
                user: reference.get("uid").map_or(Ok(0), Node::as_count)?,
                group: reference.get("gid").map_or(Ok(0), Node::as_count)?,
                mode: reference.get("mode").map_or(Ok(MODE_DEFAULT), units::file_mode)?,
                content: files::own_content(project, section, &source, defined)?,
            });
        }
    }
    Ok(placed)
}
