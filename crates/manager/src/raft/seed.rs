//! The files of a manager that begins with a store that is there already.

use super::epoch::{Epoch, FIRST};
use super::snapshot::SnapshotFile;
use super::types::{LogId, Member, Membership, SnapshotMeta};
use super::{Replicator, Seal, members};
use openraft::impls::leader_id_adv::LeaderId;
use skep_cluster::Store;
use skep_identity::Vault;
use skep_model::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

impl Replicator {
    /// Fills the folder `dir`, which must be empty or missing, so that it can be opened as the
    /// only member, with `store` applied.
    pub(crate) fn seed(dir: &Path, vault: &Vault, raft_id: u64, own: Member, store: &Store) -> Result<(), Error> {
        let failed =
            |e: std::io::Error| Error::internal(format!("cannot write the Raft files in {}: {e}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        members::own_raft_id(dir, raft_id).map_err(failed)?;
        // Managers of the swarm that the store is of are not listened to.
        Epoch::open(dir).and_then(|epoch| epoch.set(rand::random::<u64>().max(FIRST + 1))).map_err(failed)?;
        let seal = Seal::of(vault)?;
        let log_id = LogId::new(LeaderId { term: 0, node_id: 0 }, store.index());
        let voters = openraft::Membership::new(vec![BTreeSet::from([raft_id])], BTreeMap::from([(raft_id, own)]))
            .map_err(|e| Error::internal(e.to_string()))?;
        let last_membership = Membership::new(Some(log_id), voters);
        let meta = SnapshotMeta { last_log_id: Some(log_id), last_membership };
        SnapshotFile::new(dir, seal).write(&meta, &store.to_bytes()).map_err(failed)
    }
}
