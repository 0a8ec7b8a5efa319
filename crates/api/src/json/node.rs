//! Nodes of the swarm.

use super::swarm::{Meta, TlsInfo, read_availability};
use super::{wire, zero};
use crate::filters::Filters;
use serde::Serialize;
use serde_json::{Value, json};
use skep_model::node::{Availability, Node as Model, NodeDescription, NodeSpec as ModelSpec, NodeState, Role};
use skep_model::task::AssignedResource;
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const FILTERS: [&str; 7] = ["id", "label", "membership", "name", "node.label", "engine.label", "role"];

wire!(
    NodeSpec {
        #[serde(skip_serializing_if = "zero")]
        name: String,
        labels: BTreeMap<String, String>,
        role: String,
        availability: String,
    }
);

impl NodeSpec {
    /// # Errors
    /// A role or availability that does not exist.
    pub(crate) fn into_model(self) -> Result<ModelSpec> {
        Ok(ModelSpec {
            name: self.name,
            labels: self.labels,
            role: read_role(&self.role)?,
            availability: read_availability(&self.availability)?,
        })
    }

    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self {
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            role: spec.role.as_str().into(),
            availability: availability_word(spec.availability).into(),
        }
    }
}

fn read_role(text: &str) -> Result<Role> {
    match text {
        "worker" => Ok(Role::Worker),
        "manager" => Ok(Role::Manager),
        other => Err(Error::invalid(format!("invalid Role: {other:?}"))),
    }
}

pub(crate) fn availability_word(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

pub(crate) fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Spec")]
    spec: NodeSpec,
    #[serde(rename = "Description")]
    description: Description,
    #[serde(rename = "Status")]
    status: Status,
    #[serde(rename = "ManagerStatus", skip_serializing_if = "Option::is_none")]
    manager_status: Option<ManagerStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    hostname: String,
    platform: Value,
    resources: Resources,
    engine: Engine,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo,
}

#[derive(Debug, Serialize)]
struct Resources {
    #[serde(rename = "NanoCPUs")]
    nano_cpus: i64,
    #[serde(rename = "MemoryBytes")]
    memory_bytes: i64,
    #[serde(rename = "GenericResources", skip_serializing_if = "zero")]
    generic: Vec<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Engine {
    engine_version: String,
    #[serde(skip_serializing_if = "zero")]
    labels: BTreeMap<String, String>,
    plugins: Vec<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "zero")]
    message: String,
    #[serde(skip_serializing_if = "zero")]
    addr: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatus {
    #[serde(skip_serializing_if = "zero")]
    leader: bool,
    reachability: &'static str,
    addr: String,
}

impl Node {
    pub(crate) fn of(node: &Model) -> Self {
        let told = &node.description;
        Self {
            id: node.id.to_string(),
            meta: Meta::of(&node.meta),
            spec: NodeSpec::of(&node.spec),
            description: Description {
                hostname: told.hostname.clone(),
                platform: json!({ "Architecture": told.platform.architecture, "OS": told.platform.os }),
                resources: Resources {
                    nano_cpus: told.nano_cpus,
                    memory_bytes: told.memory_bytes,
                    generic: write_generic(told),
                },
                engine: Engine {
                    engine_version: told.engine_version.clone(),
                    labels: told.engine_labels.clone(),
                    plugins: told.plugins.iter().map(|(kind, name)| json!({ "Type": kind, "Name": name })).collect(),
                },
                tls_info: TlsInfo::of(told),
            },
            status: Status {
                state: state_word(node.status.state),
                message: node.status.message.clone(),
                addr: node.status.address.clone(),
            },
            manager_status: node.manager_status.as_ref().map(|status| ManagerStatus {
                leader: status.leader,
                reachability: if status.reachable { "reachable" } else { "unreachable" },
                addr: status.address.clone(),
            }),
        }
    }
}

/// What a node has, as the API lists it.
fn write_generic(told: &NodeDescription) -> Vec<Value> {
    let counted = told.generic_resources.iter().map(|(kind, count)| discrete(kind, *count));
    counted.chain(told.named_resources.iter().flat_map(|(kind, names)| named(kind, names))).collect()
}

/// What a task was given, as the API lists it.
pub(crate) fn write_assigned(resources: &BTreeMap<String, AssignedResource>) -> Vec<Value> {
    let write = |(kind, given): (&String, &AssignedResource)| match given {
        AssignedResource::Count(count) => vec![discrete(kind, *count)],
        AssignedResource::Named(names) => named(kind, names),
    };
    resources.iter().flat_map(write).collect()
}

fn discrete(kind: &str, count: i64) -> Value {
    json!({ "DiscreteResourceSpec": { "Kind": kind, "Value": count } })
}

fn named(kind: &str, names: &BTreeSet<String>) -> Vec<Value> {
    names.iter().map(|name| json!({ "NamedResourceSpec": { "Kind": kind, "Value": name } })).collect()
}

/// # Errors
/// Filter values that mean nothing.
pub(crate) fn matches(node: &Model, filters: &Filters) -> Result<bool> {
    for role in filters.values("role") {
        read_role(role)?;
    }
    for membership in filters.values("membership") {
        if !matches!(membership, "accepted" | "pending") {
            return Err(Error::invalid(format!("Invalid membership filter: '{membership}'")));
        }
    }
    Ok(filters.prefix("id", node.id.as_str())
        && filters.any("name", |name| node.spec.name.starts_with(name) || node.description.hostname.starts_with(name))
        && filters.exact("role", node.spec.role.as_str())
        && filters.labels("label", &node.description.engine_labels)
        && filters.labels("engine.label", &node.description.engine_labels)
        && filters.labels("node.label", &node.spec.labels)
        // Every node in the store was accepted.
        && filters.exact("membership", "accepted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::node::{ManagerStatus as ModelManagerStatus, NodeStatus, Platform};

    fn node() -> Model {
        Model {
            id: "uykr".into(),
            spec: ModelSpec { role: Role::Manager, ..ModelSpec::default() },
            description: NodeDescription {
                hostname: "node1".into(),
                platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
                nano_cpus: 2_000_000_000,
                plugins: vec![("Volume".into(), "local".into())],
                ..NodeDescription::default()
            },
            status: NodeStatus { state: NodeState::Ready, address: "10.99.0.1".into(), ..NodeStatus::default() },
            manager_status: Some(ModelManagerStatus {
                address: "10.99.0.1:2377".into(),
                leader: true,
                reachable: true,
                raft_id: 1,
            }),
            ..Model::default()
        }
    }

    #[test]
    fn a_manager_prints_like_dockers() {
        let wire = serde_json::to_value(Node::of(&node())).unwrap();
        assert_eq!(wire["Spec"], json!({"Labels": {}, "Role": "manager", "Availability": "active"}));
        assert_eq!(wire["Status"], json!({"State": "ready", "Addr": "10.99.0.1"}));
        assert_eq!(
            wire["ManagerStatus"],
            json!({"Leader": true, "Reachability": "reachable", "Addr": "10.99.0.1:2377"})
        );
        assert_eq!(wire["Description"]["Engine"]["Plugins"], json!([{"Type": "Volume", "Name": "local"}]));
        assert_eq!(wire["Version"]["Index"], 0);
    }

    #[test]
    fn specs_round_trip_and_roles_are_checked() {
        let read = |value| serde_json::from_value::<NodeSpec>(value).unwrap().into_model();
        let wire = json!({"Name": "n", "Labels": {"a": "b"}, "Role": "worker", "Availability": "drain"});
        assert_eq!(serde_json::to_value(NodeSpec::of(&read(wire.clone()).unwrap())).unwrap(), wire);
        assert!(read(json!({"Role": "boss", "Availability": "active"})).is_err());
        assert!(read(json!({"Role": "worker", "Availability": "x"})).is_err());
    }

    #[test]
    fn filters_choose() {
        let check = |filters: &str| matches(&node(), &Filters::parse(filters).unwrap()).unwrap();
        assert!(check(r#"{"role":["manager"],"name":["node"],"id":["uy"],"membership":["accepted"]}"#));
        assert!(!check(r#"{"role":["worker"]}"#) && !check(r#"{"membership":["pending"]}"#));
        assert!(matches(&node(), &Filters::parse(r#"{"role":["x"]}"#).unwrap()).is_err());
    }
}
