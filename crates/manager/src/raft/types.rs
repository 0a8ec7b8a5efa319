//! What openraft is told about us: our entries, answers and members.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_cluster::Command;
use skep_cluster::store::{Applied, Rejection};
use skep_model::id::NodeId;
use std::fmt;
use std::sync::Arc;

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Member,
);

pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;
pub(crate) type Membership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type RaftHandle = openraft::Raft<TypeConfig, super::machine::Machine>;

/// A command on its way through the log; shared, for openraft copies entries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Proposal(pub(crate) Arc<Command>);

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Command::deserialize(deserializer).map(|command| Self(Arc::new(command)))
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {} of {} writes", self.0.id, self.0.writes.len())
    }
}

/// What applying an entry did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The entry carried no command.
    Nothing,
    Applied(Applied),
    Rejected(Rejection),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Applied(applied) => write!(f, "{} changed", applied.changed.len()),
            Self::Rejected(rejection) => write!(f, "rejected: {rejection}"),
        }
    }
}

/// A manager in the Raft membership.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Member {
    pub(crate) node_id: NodeId,
    /// `host:port` of its gRPC listener.
    pub(crate) address: String,
}
