//! What happens in a build, step by step: for clients that show steps side by side.

use skep_model::Timestamp;

/// One thing that happened. Steps are numbered from 1 within their build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    Started {
        step: u32,
        name: String,
        at: Timestamp,
    },
    /// Output of the step's command, or the builder's own words about it.
    Log {
        step: u32,
        is_error: bool,
        data: Vec<u8>,
        at: Timestamp,
    },
    /// Something comes over the network; `total` 0 is unknown.
    Transfer {
        step: u32,
        id: String,
        what: String,
        current: u64,
        total: u64,
        at: Timestamp,
    },
    /// `error` is empty when it went well.
    Finished {
        step: u32,
        cached: bool,
        error: String,
        at: Timestamp,
    },
}
