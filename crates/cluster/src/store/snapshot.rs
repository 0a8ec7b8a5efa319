//! The store as bytes. Indices are derived again on reading.

use super::{Rejection, Store};
use crate::command::Object;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use skep_model::cluster::Cluster;
use skep_model::node::Node;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ClusterNetwork, Service};
use skep_model::task::Task;
use std::sync::Arc;

/// What is written.
#[derive(Serialize)]
struct SnapshotRef<'a> {
    index: u64,
    cluster: Option<&'a Cluster>,
    nodes: Vec<&'a Node>,
    services: Vec<&'a Service>,
    tasks: Vec<&'a Task>,
    networks: Vec<&'a ClusterNetwork>,
    secrets: Vec<&'a Secret>,
    configs: Vec<&'a Config>,
    recent: Vec<(&'a str, &'a Option<Rejection>)>,
}

/// What is read.
#[derive(Deserialize)]
struct Snapshot {
    index: u64,
    cluster: Option<Cluster>,
    nodes: Vec<Node>,
    services: Vec<Service>,
    tasks: Vec<Task>,
    networks: Vec<ClusterNetwork>,
    secrets: Vec<Secret>,
    configs: Vec<Config>,
    recent: Vec<(String, Option<Rejection>)>,
}

impl Store {
    /// Equal on every manager at equal index.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }

    /// Snapshot bytes. They hold the CA key and secrets: encrypt them at rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(&self.snapshot()).expect("plain data always serialises to memory")
    }

    /// Reads what `to_bytes` wrote.
    ///
    /// # Errors
    /// The bytes are not a snapshot.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        rmp_serde::from_slice::<Snapshot>(bytes).map(Self::restored)
    }

    fn snapshot(&self) -> SnapshotRef<'_> {
        SnapshotRef {
            index: self.index,
            cluster: self.cluster.as_deref(),
            nodes: self.nodes.values().map(Arc::as_ref).collect(),
            services: self.services.values().map(Arc::as_ref).collect(),
            tasks: self.tasks.values().map(Arc::as_ref).collect(),
            networks: self.networks.values().map(Arc::as_ref).collect(),
            secrets: self.secrets.values().map(Arc::as_ref).collect(),
            configs: self.configs.values().map(Arc::as_ref).collect(),
            recent: self.recent.entries().collect(),
        }
    }

    fn restored(snapshot: Snapshot) -> Self {
        let mut store = Self { index: snapshot.index, ..Self::default() };
        let objects = (snapshot.cluster.into_iter().map(Object::Cluster))
            .chain(snapshot.nodes.into_iter().map(|node| Object::Node(Box::new(node))))
            .chain(snapshot.services.into_iter().map(|service| Object::Service(Box::new(service))))
            .chain(snapshot.tasks.into_iter().map(|task| Object::Task(Box::new(task))))
            .chain(snapshot.networks.into_iter().map(Object::Network))
            .chain(snapshot.secrets.into_iter().map(Object::Secret))
            .chain(snapshot.configs.into_iter().map(Object::Config));
        objects.for_each(|object| store.replace(None, object));
        for (id, outcome) in snapshot.recent {
            store.recent.remember(&id, outcome);
        }
        store
    }
}

impl Serialize for Store {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.snapshot().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Store {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Snapshot::deserialize(deserializer).map(Self::restored)
    }
}
