//! Tasks: one attempt to run one slot of a service on one node.

use crate::cluster::Meta;
use crate::id::{ContainerId, NetworkId, NodeId, ServiceId, TaskId};
use crate::service::{PortConfig, ServiceEndpoint, TaskSpec};
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The ladder a task climbs. It never goes down. The numbers are the reference's,
/// with gaps on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made by an orchestrator, waits for addresses and ports.
    #[default]
    New = 0,
    /// Waits for a node.
    Pending = 64,
    /// Has a node.
    Assigned = 192,
    /// The node's agent knows of it.
    Accepted = 256,
    /// Image, networks and container are being made.
    Preparing = 320,
    /// Could start at once.
    Ready = 384,
    Starting = 448,
    /// Runs, and is healthy if it has a health check.
    Running = 512,
    /// Ended with exit code 0.
    Complete = 576,
    /// Ended because it was told to.
    Shutdown = 640,
    /// Ended by itself with another exit code, or became unhealthy.
    Failed = 704,
    /// Could not be prepared.
    Rejected = 768,
    /// Only as desired state: stop and forget.
    Remove = 800,
    /// Its node has been away too long or was removed.
    Orphaned = 832,
}

impl TaskState {
    /// No process exists any more, and none will.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }

    /// Lower-case word as the API prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskStatus {
    pub state: TaskState,
    pub timestamp: Timestamp,
    /// What it is doing (`started`, `preparing`).
    pub message: String,
    /// Why it waits or ended, empty if all is well.
    pub err: String,
    pub container: Option<TaskContainerStatus>,
    /// Host-mode ports really bound.
    pub ports: Vec<PortConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskContainerStatus {
    pub container_id: ContainerId,
    pub pid: u32,
    /// Published ports may lead to it over IPv6.
    pub ipv6: bool,
    pub exit_code: i32,
}

/// A leg that the allocator gave the task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskAttachment {
    pub network: NetworkId,
    /// Empty for a network that every node has by itself (`host`, `bridge`).
    pub addresses: Vec<IpNet>,
    pub aliases: Vec<String>,
    /// How users call it: the only name under which a node finds a network of its own.
    pub network_name: String,
}

/// A part of a node's generic resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignedResource {
    Count(i64),
    Named(BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    pub id: TaskId,
    pub meta: Meta,
    pub service_id: ServiceId,
    pub service_name: String,
    pub service_labels: BTreeMap<String, String>,
    /// One for all tasks of a service that have the same: there may be a million of them.
    pub spec: Arc<TaskSpec>,
    /// The service's `spec_version` this was made from.
    pub spec_version: u64,
    /// From 1 for replicated services, 0 for global ones.
    pub slot: u64,
    /// Of a job's task: the iteration it belongs to.
    pub job_iteration: Option<u64>,
    /// Empty until scheduled; preset for global services. Never changes once set.
    pub node_id: NodeId,
    pub status: TaskStatus,
    pub desired_state: TaskState,
    pub attachments: Vec<TaskAttachment>,
    /// Kind to what the scheduler reserved of it on the node.
    pub resources: BTreeMap<String, AssignedResource>,
    pub endpoint: ServiceEndpoint,
    /// Do not go beyond READY before this time (restart delay).
    pub start_not_before: Timestamp,
    /// The task this one replaces, awaited before it starts.
    pub replaces: Option<TaskId>,
    /// The task of the same slot that runs until this one does, and is told to stop then:
    /// a move from one node to another without a gap.
    pub beside: Option<TaskId>,
    /// Raft index of its creation: the order of a slot's tasks, whatever leaders' clocks
    /// say. Set by the store.
    pub created_index: u64,
    /// When the store first saw it RUNNING. Set by the store, so on the leader's clock.
    pub running_at: Timestamp,
    /// When the store first saw it ended. Set by the store.
    pub ended_at: Timestamp,
}

impl TaskStatus {
    /// Whether published ports may lead to its container over IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.ipv6)
    }
}

impl Task {
    /// The number clients know the slot by: as in the reference, those of jobs begin at 0.
    pub fn public_slot(&self) -> u64 {
        self.slot.saturating_sub(u64::from(self.job_iteration.is_some()))
    }

    /// `web.1`, or `agent.<node id>` where clients see no number.
    pub fn slot_name(&self) -> String {
        match self.public_slot() {
            0 => format!("{}.{}", self.service_name, self.node_id),
            number => format!("{}.{number}", self.service_name),
        }
    }

    /// The container's name on its node: `web.1.<task id>`.
    pub fn container_name(&self) -> String {
        format!("{}.{}", self.slot_name(), self.id)
    }

    /// Counts against its slot: neither ended nor meant to end.
    pub fn is_wanted(&self) -> bool {
        self.desired_state <= TaskState::Complete && !self.status.state.is_terminal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_orders_states() {
        assert!(TaskState::New < TaskState::Running);
        assert!(TaskState::Running < TaskState::Complete);
        assert!(!TaskState::Running.is_terminal());
        assert!(TaskState::Rejected.is_terminal());
        assert_eq!(TaskState::Running as u32, 512);
    }
}
