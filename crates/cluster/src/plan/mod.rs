//! Reconcilers: look at one snapshot, say what to write next. They take no hint of what
//! changed beyond the dirty keys, are idempotent and reach a fixed point: after their
//! writes are applied, planning again writes nothing.

use crate::command::{Key, Write};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::Timestamp;
use std::collections::BTreeSet;

/// What one planning round decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be proposed as one independent command (split at `WRITES_PER_COMMAND_MAX`).
    pub writes: Vec<Write>,
    /// Plan again then, even if nothing changes (restart delays, heartbeats, update windows).
    pub wake_at: Option<Timestamp>,
    /// What was done and what is waited for, a line each, for logs and `service why`.
    pub report: Vec<String>,
}

/// Runs every planner in its fixed order over one snapshot plus the writes so far:
/// node liveness is the dispatcher's fact; replicated, global, restart, allocate,
/// schedule, enforce, reap.
///
/// `dirty` limits the work to what depends on those keys; an empty set means all (a new
/// leader's first round).
pub fn plan(store: &Store, dirty: &BTreeSet<Key>, now: Timestamp, ids: &mut dyn IdSource) -> Plan {
    let _ = (store, dirty, now, ids);
    todo!()
}
