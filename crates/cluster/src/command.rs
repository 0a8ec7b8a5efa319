//! What is replicated: one command is one Raft entry and one atomic change.

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;
use skep_model::cluster::Cluster;
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::Task;

/// Writes in one command at most, as in the reference.
pub const WRITES_PER_COMMAND_MAX: usize = 200;

/// A stored object of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    Cluster(Cluster),
    Node(Box<Node>),
    Service(Box<Service>),
    Task(Box<Task>),
    Network(ClusterNetwork),
    Secret(Secret),
    Config(Config),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Cluster,
    Node,
    Service,
    Task,
    Network,
    Secret,
    Config,
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    pub id: String,
}

/// One change. The version of a put object and its `updated_at` are set by `apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// `expected`: the version the writer saw; 0 means the object must not exist yet.
    Put {
        object: Object,
        expected: u64,
    },
    Remove {
        key: Key,
        expected: u64,
    },
}

/// One Raft entry. Time is stamped by the leader.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Command {
    /// Unique; a command that was applied already is answered, not repeated.
    pub id: String,
    pub at: Timestamp,
    pub writes: Vec<Write>,
    /// A failed version check drops only its own write (planners), not the whole command (users).
    pub independent: bool,
}
