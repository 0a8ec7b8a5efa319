//! What is replicated: one command is one Raft entry and one atomic change.

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;
use skep_model::cluster::{Cluster, Meta};
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::Task;

/// Writes in one command at most, as in the reference.
pub const WRITES_PER_COMMAND_MAX: usize = 200;

/// A stored object of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "there is one cluster object, and it is seldom written")]
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
#[allow(clippy::large_enum_variant, reason = "removals are rare and few; every put would pay for a box")]
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

impl Object {
    /// The name of this object.
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(cluster) => Key::new(Kind::Cluster, cluster.id.as_str()),
            Self::Node(node) => Key::new(Kind::Node, node.id.as_str()),
            Self::Service(service) => Key::new(Kind::Service, service.id.as_str()),
            Self::Task(task) => Key::new(Kind::Task, task.id.as_str()),
            Self::Network(network) => Key::new(Kind::Network, network.id.as_str()),
            Self::Secret(secret) => Key::new(Kind::Secret, secret.id.as_str()),
            Self::Config(config) => Key::new(Kind::Config, config.id.as_str()),
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Self::Cluster(cluster) => &cluster.meta,
            Self::Node(node) => &node.meta,
            Self::Service(service) => &service.meta,
            Self::Task(task) => &task.meta,
            Self::Network(network) => &network.meta,
            Self::Secret(secret) => &secret.meta,
            Self::Config(config) => &config.meta,
        }
    }

    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Cluster(cluster) => &mut cluster.meta,
            Self::Node(node) => &mut node.meta,
            Self::Service(service) => &mut service.meta,
            Self::Task(task) => &mut task.meta,
            Self::Network(network) => &mut network.meta,
            Self::Secret(secret) => &mut secret.meta,
            Self::Config(config) => &mut config.meta,
        }
    }

    /// Raft index of its last change, 0 before it is stored.
    pub fn version(&self) -> u64 {
        self.meta().version
    }
}

impl Key {
    pub fn new(kind: Kind, id: &str) -> Self {
        Self { kind, id: id.to_owned() }
    }
}

impl Write {
    /// Puts an object over the version it carries; 0 creates it.
    pub fn put(object: Object) -> Self {
        let expected = object.version();
        Self::Put { object, expected }
    }

    /// The object this changes.
    pub fn key(&self) -> Key {
        match self {
            Self::Put { object, .. } => object.key(),
            Self::Remove { key, .. } => key.clone(),
        }
    }
}
