//! Progress of long work, as values; the API turns them into JSON lines.

use crate::build::BuildEvent;
use tokio::sync::mpsc;

/// One thing to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `{"stream": text}`: build output.
    Stream(String),
    /// `{"status": ..., "id": ..., "progressDetail": {...}}`
    Status { id: Option<String>, status: String, current: u64, total: u64 },
    /// `{"aux": {"ID": ...}}` after a build.
    ImageId(String),
    /// `{"aux": {"Tag":..., "Digest":..., "Size":...}}` after a push.
    Pushed { tag: String, digest: String, size: u64 },
    /// A build that was asked to tell of its steps one by one.
    Build(BuildEvent),
}

/// Where progress goes. Bounded; a receiver that went away cancels the work at its next report.
pub type ProgressSender = mpsc::Sender<Progress>;
