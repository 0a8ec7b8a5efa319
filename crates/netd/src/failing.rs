//! What netd could not do, for `status` and for the retry.

use crate::ports::HostPort;
use std::collections::BTreeMap;

/// What could not be made, by where it came from.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    /// The difference that is still there, and the reason.
    pub(crate) ops: BTreeMap<String, String>,
    pub(crate) ports: BTreeMap<HostPort, String>,
    pub(crate) resolvers: Vec<String>,
    pub(crate) impossible: Vec<String>,
    pub(crate) unreadable: Vec<String>,
}

impl Failing {
    /// For `status`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let ops = self.ops.iter().map(|(op, reason)| format!("{op}: {reason}"));
        ops.chain(self.ports.values().cloned())
            .chain(self.resolvers.iter().cloned())
            .chain(self.impossible.iter().cloned())
            .chain(self.unreadable.iter().cloned())
            .collect()
    }

    /// Whether nothing is worth a retry soon.
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.ports.is_empty() && self.resolvers.is_empty()
    }
}
