//! Named storage of a node.

use crate::id::ContainerId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeInfo {
    pub name: String,
    /// `local`
    pub driver: String,
    pub mountpoint: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Made without a name.
    pub anonymous: bool,
    /// The container it was made for and lives no longer than; empty for every other volume.
    pub made_for: ContainerId,
}
