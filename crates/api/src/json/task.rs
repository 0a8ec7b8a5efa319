//! Tasks.

use super::network::TaskNetwork;
use super::node::write_assigned;
use super::service::{PortConfig, TaskSpec};
use super::swarm::{Meta, Version};
use super::zero;
use crate::filters::Filters;
use serde::Serialize;
use serde_json::{Map, Value, json};
use skep_model::service::ClusterNetwork;
use skep_model::task::{Task as Model, TaskState, TaskStatus};
use skep_model::{Error, Result};
use std::sync::Arc;

pub(crate) const FILTERS: [&str; 8] =
    ["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

/// A task, in Docker's order.
#[derive(Debug, Serialize)]
pub(crate) struct Task {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Labels")]
    labels: Map<String, Value>,
    #[serde(rename = "Spec")]
    spec: TaskSpec,
    #[serde(rename = "ServiceID", skip_serializing_if = "zero")]
    service_id: String,
    #[serde(rename = "Slot", skip_serializing_if = "zero")]
    slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "zero")]
    node_id: String,
    #[serde(rename = "Status")]
    status: Status,
    #[serde(rename = "DesiredState")]
    desired_state: &'static str,
    #[serde(rename = "NetworksAttachments", skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Value>,
    #[serde(rename = "GenericResources", skip_serializing_if = "Vec::is_empty")]
    generic_resources: Vec<Value>,
    #[serde(rename = "JobIteration", skip_serializing_if = "Option::is_none")]
    job_iteration: Option<Version>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    timestamp: String,
    state: &'static str,
    #[serde(skip_serializing_if = "zero")]
    message: String,
    #[serde(skip_serializing_if = "zero")]
    err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status: Option<Value>,
    port_status: Value,
}

impl Task {
    /// `networks` are the swarm's, for the attachments.
    pub(crate) fn of(task: &Model, networks: &[Arc<ClusterNetwork>]) -> Self {
        let attachments = task.attachments.iter().filter_map(|leg| {
            let network = networks.iter().find(|network| network.id == leg.network)?;
            let addresses: Vec<String> = leg.addresses.iter().map(ToString::to_string).collect();
            Some(json!({ "Network": TaskNetwork::of(network), "Addresses": addresses }))
        });
        Self {
            id: task.id.to_string(),
            meta: Meta::of(&task.meta),
            labels: Map::new(),
            spec: TaskSpec::of(&task.spec),
            service_id: task.service_id.to_string(),
            slot: task.public_slot(),
            node_id: task.node_id.to_string(),
            status: Status::of(&task.status),
            desired_state: task.desired_state.as_str(),
            attachments: attachments.collect(),
            generic_resources: write_assigned(&task.resources),
            job_iteration: task.job_iteration.map(|index| Version { index }),
        }
    }
}

impl Status {
    fn of(status: &TaskStatus) -> Self {
        let ports: Vec<PortConfig> = status.ports.iter().map(PortConfig::of).collect();
        Self {
            timestamp: status.timestamp.to_rfc3339(),
            state: status.state.as_str(),
            message: status.message.clone(),
            err: status.err.clone(),
            container_status: status.container.as_ref().map(|container| {
                json!({
                    "ContainerID": container.container_id, "PID": container.pid, "ExitCode": container.exit_code
                })
            }),
            port_status: if ports.is_empty() { json!({}) } else { json!({ "Ports": ports }) },
        }
    }
}

/// What a list asks for, with names already resolved to ids.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) filters: Filters,
    pub(crate) services: Option<Vec<String>>,
    pub(crate) nodes: Option<Vec<String>>,
}

impl Wanted {
    /// # Errors
    /// Filter values that mean nothing.
    pub(crate) fn check(&self) -> Result<()> {
        for state in self.filters.values("desired-state") {
            if !matches!(state, "running" | "shutdown" | "accepted" | "ready" | "complete" | "remove") {
                return Err(Error::invalid(format!("invalid task filter: desired-state {state:?}")));
            }
        }
        self.filters.boolean("_up-to-date").map(|_| ())
    }

    /// `spec_version` is that of the task's service.
    pub(crate) fn matches(&self, task: &Model, spec_version: Option<u64>) -> bool {
        let desired = |wanted: &str| match wanted {
            "running" => task.desired_state == TaskState::Running,
            "shutdown" => task.desired_state == TaskState::Shutdown,
            other => task.desired_state.as_str() == other,
        };
        let one_of = |list: &Option<Vec<String>>, id: &str| list.as_ref().is_none_or(|ids| ids.iter().any(|i| i == id));
        let filters = &self.filters;
        let up_to_date = filters.boolean("_up-to-date").unwrap_or_default();
        filters.prefix("id", task.id.as_str())
            && filters.prefix("name", &task.container_name())
            && filters.labels("label", &task.service_labels)
            && filters.exact("runtime", "container")
            && filters.any("desired-state", desired)
            && one_of(&self.services, task.service_id.as_str())
            && one_of(&self.nodes, task.node_id.as_str())
            && up_to_date.is_none_or(|wanted| wanted == (spec_version == Some(task.spec_version)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::service::PortConfig as ModelPort;
    use skep_model::task::{TaskAttachment, TaskContainerStatus};
    use std::collections::BTreeMap;

    fn task() -> Model {
        let mut task = Model {
            id: "05x7".into(),
            service_id: "vm69".into(),
            service_name: "web".into(),
            service_labels: BTreeMap::from([("com.docker.stack.namespace".to_owned(), "s".to_owned())]),
            slot: 2,
            node_id: "uykr".into(),
            desired_state: TaskState::Running,
            spec_version: 7,
            attachments: vec![TaskAttachment {
                network: "n1".into(),
                addresses: vec!["10.0.1.4/24".parse().unwrap()],
                ..TaskAttachment::default()
            }],
            ..Model::default()
        };
        task.status.state = TaskState::Running;
        task.status.message = "started".into();
        task.status.container =
            Some(TaskContainerStatus { container_id: "de9f".into(), pid: 3368, ipv6: false, exit_code: 0 });
        task
    }

    #[test]
    fn it_prints_like_dockers() {
        let network = ClusterNetwork { id: "n1".into(), vni: 4097, ..ClusterNetwork::default() };
        let wire = serde_json::to_value(Task::of(&task(), &[network.into()])).unwrap();
        assert_eq!(
            wire["Status"],
            json!({"Timestamp": "0001-01-01T00:00:00Z", "State": "running", "Message": "started",
                   "ContainerStatus": {"ContainerID": "de9f", "PID": 3368, "ExitCode": 0}, "PortStatus": {}})
        );
        assert_eq!((&wire["Slot"], &wire["Labels"], &wire["DesiredState"]), (&json!(2), &json!({}), &json!("running")));
        assert_eq!(wire["NetworksAttachments"][0]["Addresses"], json!(["10.0.1.4/24"]));
        assert_eq!(wire["NetworksAttachments"][0]["Network"]["ID"], "n1");
    }

    #[test]
    fn host_ports_are_told() {
        let mut task = task();
        task.status.ports = vec![ModelPort { target_port: 80, published_port: 8080, ..ModelPort::default() }];
        let wire = serde_json::to_value(Task::of(&task, &[])).unwrap();
        assert_eq!(wire["Status"]["PortStatus"]["Ports"][0]["PublishedPort"], 8080);
    }

    #[test]
    fn filters_choose() {
        let check = |filters: &str, services: Option<&[&str]>| {
            let services = services.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
            let wanted = Wanted { filters: Filters::parse(filters).unwrap(), services, nodes: None };
            wanted.check().unwrap();
            wanted.matches(&task(), Some(7))
        };
        assert!(check(r#"{"desired-state":["running"],"name":["web.2"],"id":["05"]}"#, Some(&["vm69"])));
        assert!(check(r#"{"label":["com.docker.stack.namespace=s"],"_up-to-date":["true"]}"#, None));
        assert!(!check(r#"{"desired-state":["shutdown"]}"#, None) && !check("", Some(&["other"])));
        assert!(!check(r#"{"_up-to-date":["false"]}"#, None));
        let odd = Wanted { filters: Filters::parse(r#"{"desired-state":["x"]}"#).unwrap(), ..Wanted::default() };
        assert!(odd.check().is_err());
    }
}
