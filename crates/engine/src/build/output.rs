//! What the user sees of a build.
//!
//! Stages run side by side. As text their lines come in the order of the Dockerfile: each
//! stage writes into a lane of its own, and the [`Printer`] empties lane after lane. As
//! events each is told at once, with the number of its step.

use super::error::{BuildError, BuildResult};
use super::event::BuildEvent;
use crate::progress::{Progress, ProgressSender};
use skep_model::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hexadecimal digits of an id in the output.
const SHORT_ID_LENGTH: usize = 12;
/// Bytes of output a quiet build keeps to show if it fails.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Pieces of a stage's output that wait for the stages before it. After that the stage waits.
const LANE_PIECES_MAX: usize = 4096;
/// Numbers of warnings among the steps, far from those of the Dockerfile.
const FIRST_WARNING: u32 = 1 << 21;
/// Progress of a pull on its way to be told as events.
const PULL_REPORTS_MAX: usize = 16;

/// How a build is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// The classic builder's lines.
    #[default]
    Text,
    /// Only the image's id, and all lines if the build fails.
    Quiet,
    /// [`BuildEvent`]s.
    Events,
}

/// Tells the client; there is one a build.
#[derive(Debug)]
pub(crate) struct Printer {
    sender: ProgressSender,
    style: Style,
    held: String,
    warnings: u32,
}

/// Where one stage tells what it does.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    sender: ProgressSender,
    style: Style,
    stopped: CancellationToken,
    steps: Arc<AtomicU32>,
    /// The step under way.
    step: Option<u32>,
}

impl Printer {
    pub(crate) fn new(sender: ProgressSender, style: Style) -> Self {
        Self { sender, style, held: String::new(), warnings: 0 }
    }

    /// Outputs for so many stages, and what [`Printer::relay`] is to be given. `stopped` ends them all.
    pub(crate) fn lanes(
        &self,
        count: usize,
        stopped: &CancellationToken,
    ) -> (Vec<Output>, Vec<mpsc::Receiver<Progress>>) {
        let steps = Arc::new(AtomicU32::new(0));
        let output = |sender| Output {
            sender,
            style: self.style,
            stopped: stopped.clone(),
            steps: Arc::clone(&steps),
            step: None,
        };
        if self.style == Style::Events {
            return ((0..count).map(|_| output(self.sender.clone())).collect(), Vec::new());
        }
        let lanes = (0..count).map(|_| mpsc::channel(LANE_PIECES_MAX));
        lanes.map(|(sender, receiver)| (output(sender), receiver)).unzip()
    }

    /// Tells what comes out of the lanes, one after the other, until all are closed.
    pub(crate) async fn relay(&mut self, lanes: Vec<mpsc::Receiver<Progress>>) {
        for mut lane in lanes {
            loop {
                let progress = tokio::select! {
                    progress = lane.recv() => progress,
                    // A silent command would keep a build that nobody waits for.
                    () = self.sender.closed() => return,
                };
                let Some(progress) = progress else { break };
                if self.tell(progress).await.is_err() {
                    // Dropping the lanes tells the stages.
                    return;
                }
            }
        }
    }

    /// A line of the classic output.
    pub(crate) async fn print(&mut self, text: impl Into<String>) -> BuildResult<()> {
        if self.style == Style::Events { Ok(()) } else { self.tell(Progress::Stream(text.into())).await }
    }

    /// Something the user should know of the whole build.
    pub(crate) async fn warn(&mut self, text: &str) -> BuildResult<()> {
        if self.style != Style::Events {
            return self.tell(Progress::Stream(format!("[Warning] {text}\n"))).await;
        }
        self.warnings += 1;
        let (step, at) = (FIRST_WARNING + self.warnings, now());
        let name = format!("[internal] warning: {text}");
        self.send(Progress::Build(BuildEvent::Started { step, name, at })).await?;
        let ended = BuildEvent::Finished { step, cached: false, error: String::new(), at };
        self.send(Progress::Build(ended)).await
    }

    /// The one line of a quiet build.
    pub(crate) async fn result(&mut self, id: &str) -> BuildResult<()> {
        if self.style == Style::Quiet { self.send(Progress::Stream(format!("{id}\n"))).await } else { Ok(()) }
    }

    /// Shows what a quiet build held back.
    pub(crate) async fn reveal(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            // The build has failed already; a client that left changes nothing.
            let _ = self.send(Progress::Stream(held)).await;
        }
    }

    async fn tell(&mut self, progress: Progress) -> BuildResult<()> {
        if self.style != Style::Quiet {
            return self.send(progress).await;
        }
        if self.sender.is_closed() {
            return Err(BuildError::Cancelled);
        }
        if let Progress::Stream(text) = progress
            && self.held.len() + text.len() <= HELD_BYTES_MAX
        {
            self.held.push_str(&text);
        }
        Ok(())
    }

    async fn send(&self, progress: Progress) -> BuildResult<()> {
        self.sender.send(progress).await.map_err(|_| BuildError::Cancelled)
    }
}

impl Output {
    /// A line of the classic output, or a piece of one.
    pub(crate) async fn print(&self, text: impl Into<String>) -> BuildResult<()> {
        if self.style == Style::Events { self.check() } else { self.send(Progress::Stream(text.into())).await }
    }

    /// What a command wrote, or a warning.
    pub(crate) async fn log(&self, text: String, is_error: bool) -> BuildResult<()> {
        if self.style != Style::Events {
            return self.print(text).await;
        }
        let step = self.step.unwrap_or_default();
        self.event(BuildEvent::Log { step, is_error, data: text.into_bytes(), at: now() }).await
    }

    /// The id of a finished stage.
    pub(crate) async fn image(&self, id: &str) -> BuildResult<()> {
        if self.style == Style::Events { Ok(()) } else { self.send(Progress::ImageId(id.to_owned())).await }
    }

    /// A step of that name begins; only events tell.
    pub(crate) async fn begin(&mut self, name: String) -> BuildResult<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        self.step = Some(step);
        self.event(BuildEvent::Started { step, name, at: now() }).await
    }

    /// The step under way ended.
    pub(crate) async fn finish(&mut self, cached: bool, error: Option<&BuildError>) -> BuildResult<()> {
        let Some(step) = self.step.take() else { return Ok(()) };
        let error = error.map(ToString::to_string).unwrap_or_default();
        self.event(BuildEvent::Finished { step, cached, error, at: now() }).await
    }

    /// Runs a pull with its progress told.
    pub(crate) async fn pulling<T, F: Future<Output = T>>(&self, pull: impl FnOnce(ProgressSender) -> F) -> T {
        if self.style != Style::Events {
            return pull(self.sender.clone()).await;
        }
        let (sender, mut reports) = mpsc::channel(PULL_REPORTS_MAX);
        let step = self.step.unwrap_or_default();
        let tell = async {
            while let Some(report) = reports.recv().await {
                let Progress::Status { id: Some(id), status, current, total } = report else { continue };
                let event = BuildEvent::Transfer { step, id, what: status, current, total, at: now() };
                if self.event(event).await.is_err() {
                    // Dropping the receiver ends the pull.
                    return;
                }
            }
        };
        let (pulled, ()) = tokio::join!(pull(sender), tell);
        pulled
    }

    /// Resolves once nobody listens any more, or another stage failed.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.sender.closed() => {}
            () = self.stopped.cancelled() => {}
        }
    }

    fn check(&self) -> BuildResult<()> {
        if self.sender.is_closed() || self.stopped.is_cancelled() { Err(BuildError::Cancelled) } else { Ok(()) }
    }

    async fn event(&self, event: BuildEvent) -> BuildResult<()> {
        if self.style == Style::Events { self.send(Progress::Build(event)).await } else { Ok(()) }
    }

    async fn send(&self, progress: Progress) -> BuildResult<()> {
        self.sender.send(progress).await.map_err(|_| BuildError::Cancelled)
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

/// `sha256:0123…` as `0123456789ab`.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..SHORT_ID_LENGTH).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Progress {
        Progress::Stream(text.to_owned())
    }

    #[tokio::test]
    async fn stages_that_run_side_by_side_are_told_in_order() {
        let (sender, mut told) = mpsc::channel(16);
        let mut printer = Printer::new(sender, Style::Text);
        let (mut outputs, lanes) = printer.lanes(2, &CancellationToken::new());
        let (second, first) = (outputs.pop().unwrap(), outputs.pop().unwrap());
        second.print("second").await.unwrap();
        first.print("first").await.unwrap();
        drop((first, second));
        printer.relay(lanes).await;
        assert_eq!((told.recv().await, told.recv().await), (Some(stream("first")), Some(stream("second"))));
    }

    #[tokio::test]
    async fn a_quiet_build_says_all_only_when_it_fails() {
        let (sender, mut told) = mpsc::channel(16);
        let mut printer = Printer::new(sender, Style::Quiet);
        printer.print("step\n").await.unwrap();
        assert!(told.try_recv().is_err());
        printer.reveal().await;
        assert_eq!(told.recv().await, Some(stream("step\n")));
    }

    #[tokio::test]
    async fn a_client_that_left_ends_every_stage() {
        let (sender, told) = mpsc::channel(1);
        let mut printer = Printer::new(sender, Style::Text);
        let (outputs, lanes) = printer.lanes(2, &CancellationToken::new());
        outputs[0].print("x").await.unwrap();
        // The first is told, and then the stages are silent when the client goes.
        let leaving = async move {
            let mut told = told;
            told.recv().await.unwrap();
        };
        tokio::join!(printer.relay(lanes), leaving);
        outputs[1].ended().await;
    }
}
