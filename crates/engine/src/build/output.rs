//! What the user sees of a build.

use super::error::{BuildError, BuildResult};
use crate::progress::{Progress, ProgressSender};

/// Hexadecimal digits of an id in the output.
const SHORT_ID_LENGTH: usize = 12;
/// Bytes of output a quiet build keeps to show if it fails.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Step lines to the client; a quiet build holds them back until it fails.
#[derive(Debug)]
pub(crate) struct Output {
    sender: ProgressSender,
    is_quiet: bool,
    held: String,
}

impl Output {
    pub(crate) fn new(sender: ProgressSender, is_quiet: bool) -> Self {
        Self { sender, is_quiet, held: String::new() }
    }

    /// A line or a piece of one, as it is.
    pub(crate) async fn print(&mut self, text: impl Into<String>) -> BuildResult<()> {
        let text = text.into();
        if !self.is_quiet {
            return self.send(Progress::Stream(text)).await;
        }
        if self.sender.is_closed() {
            return Err(BuildError::Cancelled);
        }
        if self.held.len() + text.len() <= HELD_BYTES_MAX {
            self.held.push_str(&text);
        }
        Ok(())
    }

    /// The id of a finished stage.
    pub(crate) async fn image(&mut self, id: &str) -> BuildResult<()> {
        if self.is_quiet { Ok(()) } else { self.send(Progress::ImageId(id.to_owned())).await }
    }

    /// The one line of a quiet build.
    pub(crate) async fn result(&mut self, id: &str) -> BuildResult<()> {
        if self.is_quiet { self.send(Progress::Stream(format!("{id}\n"))).await } else { Ok(()) }
    }

    /// Shows what a quiet build held back.
    pub(crate) async fn reveal(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            // The build has failed already; a client that left changes nothing.
            let _ = self.send(Progress::Stream(held)).await;
        }
    }

    /// For a pull: where its progress goes.
    pub(crate) fn pull_progress(&self) -> Option<ProgressSender> {
        (!self.is_quiet).then(|| self.sender.clone())
    }

    /// Resolves once nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    async fn send(&self, progress: Progress) -> BuildResult<()> {
        self.sender.send(progress).await.map_err(|_| BuildError::Cancelled)
    }
}

/// `sha256:0123…` as `0123456789ab`.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..SHORT_ID_LENGTH).unwrap_or(hex)
}
