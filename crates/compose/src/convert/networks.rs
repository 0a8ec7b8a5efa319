//! Networks: those a stack makes, and how services attach to them.

use super::service::set;
use super::{Namespace, list, texts};
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// The network of services that name none.
const DEFAULT: &str = "default";
/// Driver of networks that name none.
const DEFAULT_DRIVER: &str = "overlay";

/// Networks to make: name and body.
pub(super) type Made = Vec<(String, Json)>;

/// Networks to make, by name, and names of those that must be there: only what services use.
///
/// # Errors
/// Values that make no sense.
pub(super) fn convert(project: &Project, namespace: &Namespace<'_>) -> Result<(Made, Vec<String>)> {
    let used: BTreeSet<String> = project.section("services").flat_map(|(_, service)| names(service)).collect();
    let (mut made, mut external) = (Vec::new(), Vec::new());
    for key in used {
        let node = project.object("networks", &key);
        if node.map_or(Ok(false), |node| node.flag("external"))? {
            external.push(target(project, &key, namespace));
        } else {
            made.push((target(project, &key, namespace), body(node, namespace)?));
        }
    }
    made.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((made, external))
}

/// Attachments of one service, by the networks' names.
///
/// # Errors
/// A network that is not defined.
pub(super) fn attachments(
    project: &Project,
    key: &str,
    service: &Node,
    namespace: &Namespace<'_>,
) -> Result<Vec<Json>> {
    let mut all: Vec<(String, Json)> = Vec::new();
    for name in names(service) {
        if name != DEFAULT && project.object("networks", &name).is_none() {
            return Err(service.wrong(&format!("service {key}: undefined network \"{name}\"")));
        }
        let given = service.get("networks").and_then(|networks| networks.get(&name));
        let target = target(project, &name, namespace);
        let mut aliases = list(given.and_then(|given| given.get("aliases")));
        // Networks that every node has by itself know no aliases.
        if !matches!(target.as_str(), "host" | "bridge" | "none" | "default") {
            aliases.push(key.to_owned());
        }
        let mut wire = json!({"Target": target, "Aliases": aliases});
        let options = given.and_then(|given| given.get("driver_opts"));
        set(&mut wire, "DriverOpts", options.map(|options| texts(Some(options)).into()));
        all.push((target, wire));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all.into_iter().map(|(_, wire)| wire).collect())
}

fn names(service: &Node) -> Vec<String> {
    let named: Vec<String> =
        service.get("networks").into_iter().flat_map(Node::entries).map(|(name, _)| name.clone()).collect();
    // A network without settings is null, which `entries` gives too.
    if named.is_empty() { vec![DEFAULT.to_owned()] } else { named }
}

fn target(project: &Project, key: &str, namespace: &Namespace<'_>) -> String {
    let name = project.object("networks", key).map(|node| node.text_of("name")).unwrap_or_default();
    if name.is_empty() { namespace.scope(key) } else { name }
}

fn body(node: Option<&Node>, namespace: &Namespace<'_>) -> Result<Json> {
    let text = |key: &str| node.map(|node| node.text_of(key)).unwrap_or_default();
    let flag = |key: &str| node.map_or(Ok(false), |node| node.flag(key));
    let driver = text("driver");
    let mut body = json!({
        "CheckDuplicate": true,
        "Driver": if driver.is_empty() { DEFAULT_DRIVER } else { &driver },
        "Labels": namespace.labels(node.and_then(|node| node.get("labels"))),
        "Options": texts(node.and_then(|node| node.get("driver_opts"))),
        "Internal": flag("internal")?,
        "Attachable": flag("attachable")?,
        "EnableIPv6": flag("enable_ipv6")?,
    });
    set(&mut body, "IPAM", node.and_then(|node| node.get("ipam")).map(ipam));
    Ok(body)
}

pub(super) fn ipam(ipam: &Node) -> Json {
    let ranges: Vec<Json> = ipam.get("config").map_or(&[][..], Node::items).iter().map(range).collect();
    let mut wire = json!({"Driver": ipam.text_of("driver"), "Config": ranges});
    set(&mut wire, "Options", ipam.get("options").map(|options| texts(Some(options)).into()));
    wire
}

fn range(node: &Node) -> Json {
    let mut wire = json!({"Subnet": node.text_of("subnet")});
    for (key, field) in [("gateway", "Gateway"), ("ip_range", "IPRange")] {
        set(&mut wire, field, node.get(key).and_then(Node::as_text).map(Json::from));
    }
    let reserved = node.get("aux_addresses").map(|reserved| texts(Some(reserved)).into());
    set(&mut wire, "AuxiliaryAddresses", reserved);
    wire
}
