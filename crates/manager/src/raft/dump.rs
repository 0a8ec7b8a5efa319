//! What lies in a stopped manager's folder, as JSON lines: the snapshot's objects, then the
//! log's entries. Secrets, keys and tokens are left out. Every record is decrypted, and with
//! that its integrity checked.

use super::Seal;
use super::log::LogStore;
use super::snapshot::SnapshotFile;
use super::types::Entry;
use openraft::EntryPayload;
use openraft::RaftLogReader;
use serde_json::{Value, json};
use skep_cluster::Store;
use skep_cluster::command::{Object, Write as Change};
use skep_identity::Vault;
use skep_model::{Error, Result};
use std::io::Write;
use std::path::Path;

/// How many records there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpSummary {
    pub objects: usize,
    pub entries: usize,
    /// Records that could not be decrypted or read.
    pub damaged: usize,
}

/// Writes the folder `dir` to `out`, a line each. The manager must not run.
///
/// # Errors
/// There is nothing, it is in use or locked, or `out` cannot be written.
pub(crate) async fn dump(dir: &Path, vault: &Vault, out: &mut (dyn Write + Send)) -> Result<DumpSummary> {
    let failed = |e: std::io::Error| Error::internal(format!("cannot read the Raft files in {}: {e}", dir.display()));
    if !dir.join("log").exists() || vault.data_key()?.is_none() {
        return Err(Error::not_found(format!("there is no manager state in {}", dir.display())));
    }
    let seal = Seal::of(vault)?;
    let mut summary = DumpSummary::default();
    let mut line = |value: Value| writeln!(out, "{value}").map_err(Error::from);
    match SnapshotFile::new(dir, seal.clone()).read() {
        Ok(None) => {}
        Ok(Some((meta, bytes))) => {
            let members = serde_json::to_value(&meta.last_membership).unwrap_or_default();
            line(json!({"type": "snapshot", "last_log_id": meta.last_log_id, "membership": members}))?;
            match Store::from_bytes(&bytes) {
                Ok(store) => {
                    for object in objects(&store) {
                        summary.objects += 1;
                        line(json!({"type": "object", "object": without_secrets(object)}))?;
                    }
                }
                Err(error) => {
                    summary.damaged += 1;
                    line(json!({"type": "damaged", "what": "snapshot", "error": error.to_string()}))?;
                }
            }
        }
        Err(error) => {
            summary.damaged += 1;
            line(json!({"type": "damaged", "what": "snapshot", "error": error.to_string()}))?;
        }
    }
    let mut log = LogStore::open(&dir.join("log"), seal).map_err(failed)?;
    let vote = log.read_vote().await.map_err(failed)?;
    line(json!({"type": "vote", "vote": vote}))?;
    log.each(|index, entry| match entry {
        Ok(entry) => {
            summary.entries += 1;
            line(entry_line(&entry))
        }
        Err(error) => {
            summary.damaged += 1;
            line(json!({"type": "damaged", "what": "entry", "index": index, "error": error.to_string()}))
        }
    })
    .map_err(failed)??;
    Ok(summary)
}

fn objects(store: &Store) -> Vec<Object> {
    let mut all: Vec<Object> =
        store.cluster().map(|cluster| Object::Cluster((**cluster).clone())).into_iter().collect();
    all.extend(store.nodes().map(|node| Object::Node(Box::new((**node).clone()))));
    all.extend(store.services().map(|service| Object::Service(Box::new((**service).clone()))));
    all.extend(store.tasks().map(|task| Object::Task(Box::new((**task).clone()))));
    all.extend(store.networks().map(|network| Object::Network((**network).clone())));
    all.extend(store.secrets().map(|secret| Object::Secret((**secret).clone())));
    all.extend(store.configs().map(|config| Object::Config((**config).clone())));
    all
}

fn entry_line(entry: &Entry) -> Value {
    let mut line = json!({"type": "entry", "index": entry.log_id.index, "log_id": entry.log_id});
    match &entry.payload {
        EntryPayload::Blank => line["blank"] = true.into(),
        EntryPayload::Membership(membership) => line["membership"] = json!(membership),
        EntryPayload::Normal(proposal) => {
            let command = &proposal.0;
            let writes: Vec<Value> = command.writes.iter().map(write_line).collect();
            line["command"] = json!({
                "id": command.id, "at": command.at.to_rfc3339(), "independent": command.independent, "writes": writes
            });
        }
    }
    line
}

fn write_line(write: &Change) -> Value {
    match write {
        Change::Put { object, expected } => json!({"put": without_secrets(object.clone()), "expected": expected}),
        Change::Remove { key, expected } => json!({"remove": key, "expected": expected}),
    }
}

/// Sizes in the place of data, nothing in the place of keys and tokens.
fn without_secrets(mut object: Object) -> Value {
    let mut data_bytes = None;
    match &mut object {
        Object::Cluster(cluster) => {
            cluster.unlock_key = Default::default();
            cluster.root_ca = std::mem::take(&mut cluster.root_ca).without_keys();
            cluster.root_ca.worker_token.clear();
            cluster.root_ca.manager_token.clear();
        }
        Object::Secret(secret) => data_bytes = Some(std::mem::take(&mut secret.spec.data).len()),
        Object::Config(config) => data_bytes = Some(std::mem::take(&mut config.spec.data).len()),
        Object::Node(_) | Object::Service(_) | Object::Task(_) | Object::Network(_) => {}
    }
    let mut value = serde_json::to_value(&object).unwrap_or_else(|e| json!({"unprintable": e.to_string()}));
    if let Some(bytes) = data_bytes {
        value["data_bytes"] = bytes.into();
    }
    value
}
