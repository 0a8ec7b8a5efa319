//! Secrets and configs: small files that the swarm hands to tasks.

use crate::cluster::Meta;
use crate::id::{ConfigId, SecretId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// 1 to 511,999 bytes. Never leaves the managers but to nodes whose tasks use it.
    pub data: Vec<u8>,
    /// `golang`: `data` is a template that each task's node fills in. Empty: it is not.
    pub template_driver: String,
}

impl std::fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSpec").field("name", &self.name).field("bytes", &self.data.len()).finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub id: SecretId,
    pub meta: Meta,
    pub spec: SecretSpec,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// 1 to 1,023,999 bytes.
    pub data: Vec<u8>,
    /// `golang`: `data` is a template that each task's node fills in. Empty: it is not.
    pub template_driver: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub id: ConfigId,
    pub meta: Meta,
    pub spec: ConfigSpec,
}
