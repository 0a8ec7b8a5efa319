//! The Raft logs on disk: a leader makes one entry for an index, on whichever manager it lies,
//! and at the end all logs are the same.

use serde_json::Value;
use skep_manager::{Manager, ManagerConfig};
use std::collections::BTreeMap;

/// Term and number of the leader that made an entry, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    term: u64,
    leader: u64,
    content: String,
}

type Log = BTreeMap<u64, Entry>;

#[derive(Default)]
pub(crate) struct Logs {
    /// By index, term and leader.
    known: BTreeMap<(u64, u64, u64), Entry>,
    pub(crate) read: u64,
}

impl Logs {
    /// Reads the log of a manager that does not run.
    ///
    /// # Errors
    /// It contradicts one that was read before, or is damaged.
    pub(crate) fn learn(&mut self, config: &ManagerConfig, who: &str) -> Result<(), String> {
        for (index, entry) in read(config).map_err(|e| format!("{who}: {e}"))? {
            self.read += 1;
            let known = self.known.entry((index, entry.term, entry.leader)).or_insert_with(|| entry.clone());
            if *known != entry {
                return Err(format!("{who}: entry {index} of term {} is {entry:?}, elsewhere {known:?}", entry.term));
            }
        }
        Ok(())
    }
}

/// At the end, with everything committed: all logs have the same entry at each index.
///
/// # Errors
/// Two differ.
pub(crate) fn check_equal(configs: &[ManagerConfig]) -> Result<(), String> {
    let logs = configs.iter().map(read).collect::<Result<Vec<Log>, String>>()?;
    for (index, entry) in &logs[0] {
        for (number, other) in logs.iter().enumerate().skip(1) {
            if let Some(theirs) = other.get(index).filter(|theirs| *theirs != entry) {
                return Err(format!("entry {index} is {entry:?} on the first manager, {theirs:?} on {number}"));
            }
        }
    }
    Ok(())
}

fn read(config: &ManagerConfig) -> Result<Log, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let mut lines = Vec::new();
    let dumped = runtime.map_err(|e| e.to_string())?.block_on(Manager::dump(config, &mut lines));
    let summary = dumped.map_err(|error| error.message)?;
    if summary.damaged > 0 {
        return Err(format!("{} damaged records", summary.damaged));
    }
    let mut log = Log::new();
    for line in String::from_utf8_lossy(&lines).lines() {
        let line: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if line["type"] == "entry" {
            let (index, entry) = entry(&line).ok_or_else(|| format!("not understood: {line}"))?;
            log.insert(index, entry);
        }
    }
    Ok(log)
}

fn entry(line: &Value) -> Option<(u64, Entry)> {
    let leader = &line["log_id"]["leader_id"];
    let content =
        [&line["command"]["id"], &line["membership"], &line["blank"]].into_iter().find(|part| !part.is_null());
    let entry =
        Entry { term: leader["term"].as_u64()?, leader: leader["node_id"].as_u64()?, content: content?.to_string() };
    Some((line["index"].as_u64()?, entry))
}
