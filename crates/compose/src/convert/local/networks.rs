//! Networks of a project, and how its containers attach to them.

use super::{LocalNetwork, name_of};
use crate::convert::{list, networks as shared, service::set, texts};
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

/// The network of services that name none.
pub(super) const DEFAULT: &str = "default";
/// Driver of networks that name none.
const DRIVER: &str = "bridge";

/// # Errors
/// Values that make no sense.
pub(super) fn convert(project: &Project, used: &BTreeSet<String>) -> Result<Vec<LocalNetwork>> {
    let mut all = Vec::new();
    for key in used {
        let node = project.object("networks", key);
        let external = node.map_or(Ok(false), |node| node.flag("external"))?;
        let body = if external { None } else { Some(body(node)?) };
        all.push(LocalNetwork { key: key.clone(), name: name_of(project, node, key), body });
    }
    Ok(all)
}

fn body(node: Option<&Node>) -> Result<Json> {
    let text = |key: &str| node.map(|node| node.text_of(key)).unwrap_or_default();
    let flag = |key: &str| node.map_or(Ok(false), |node| node.flag(key));
    let driver = text("driver");
    let mut body = json!({
        "Driver": if driver.is_empty() { DRIVER } else { &driver },
        "Labels": texts(node.and_then(|node| node.get("labels"))),
        "Options": texts(node.and_then(|node| node.get("driver_opts"))),
        "Internal": flag("internal")?,
        "Attachable": flag("attachable")?,
        "EnableIPv6": flag("enable_ipv6")?,
    });
    let ipv4 = node.and_then(|node| node.get("enable_ipv4")).map(Node::as_bool).transpose()?;
    set(&mut body, "EnableIPv4", ipv4.map(Json::from));
    set(&mut body, "IPAM", node.and_then(|node| node.get("ipam")).map(shared::ipam));
    Ok(body)
}

/// Keys of the networks a service joins; none where it shares or shuns all networks.
pub(super) fn names(service: &Node) -> Vec<String> {
    if service.get("network_mode").is_some() {
        return Vec::new();
    }
    let named: Vec<String> = match service.get("networks") {
        Some(networks) => networks.entries().map(|(name, _)| name.clone()).collect(),
        None => Vec::new(),
    };
    if named.is_empty() { vec![DEFAULT.to_owned()] } else { named }
}

/// `NetworkMode` and the endpoints of a service's containers, by the networks' names.
///
/// # Errors
/// A network that is not defined, or both `networks` and `network_mode`.
pub(super) fn endpoints(project: &Project, key: &str, service: &Node) -> Result<(String, Map<String, Json>)> {
    if let Some(mode) = service.get("network_mode") {
        if service.get("networks").is_some() {
            return Err(mode.wrong(&format!("service {key} declares mutually exclusive `network_mode` and `networks`")));
        }
        return Ok((mode.as_text().unwrap_or_default(), Map::new()));
    }
    let mut order: Vec<(i64, String)> = Vec::new();
    let mut all = Map::new();
    for name in names(service) {
        if name != DEFAULT && project.object("networks", &name).is_none() {
            return Err(service
                .wrong(&format!("service \"{key}\" refers to undefined network {name}: invalid compose project")));
        }
        let given = service.get("networks").and_then(|networks| networks.get(&name));
        let priority = given.and_then(|given| given.get("priority")).map_or(Ok(0), Node::as_int)?;
        let target = name_of(project, project.object("networks", &name), &name);
        all.insert(target.clone(), endpoint(key, service, given));
        order.push((-priority, target));
    }
    order.sort();
    let first = order.into_iter().next().map(|(_, name)| name).unwrap_or_default();
    Ok((first, all))
}

fn endpoint(key: &str, service: &Node, given: Option<&Node>) -> Json {
    let mut aliases = vec![key.to_owned()];
    aliases.extend(list(given.and_then(|given| given.get("aliases"))));
    let mut wire = json!({ "Aliases": aliases });
    let text = |name: &str| given.and_then(|given| given.get(name)).and_then(Node::as_text);
    let mut addresses = json!({});
    set(&mut addresses, "IPv4Address", text("ipv4_address").map(Json::from));
    set(&mut addresses, "IPv6Address", text("ipv6_address").map(Json::from));
    if addresses.as_object().is_some_and(|object| !object.is_empty()) {
        wire["IPAMConfig"] = addresses;
    }
    let mac = text("mac_address").or_else(|| service.get("mac_address").and_then(Node::as_text));
    set(&mut wire, "MacAddress", mac.map(Json::from));
    let options = given.and_then(|given| given.get("driver_opts"));
    set(&mut wire, "DriverOpts", options.map(|options| texts(Some(options)).into()));
    wire
}
