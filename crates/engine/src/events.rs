//! What happened, for `docker events` and for the agent.

use skep_model::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use tokio::sync::broadcast;

/// Events kept for `--since`.
const HISTORY_MAX: usize = 1024;
/// Events a slow subscriber may lag behind before it loses the oldest.
const SUBSCRIBER_LAG_MAX: usize = 1024;

/// `container`, `image`, `network`, `volume` with an action and the object's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: &'static str,
    /// `create`, `start`, `die`, `exec_create: sh`, `health_status: healthy`, ...
    pub action: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    pub at: Timestamp,
}

/// The engine's one event bus.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    history: Mutex<VecDeque<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::channel(SUBSCRIBER_LAG_MAX).0, history: Mutex::new(VecDeque::new()) }
    }
}

impl Events {
    /// Tells everybody.
    pub fn emit(&self, event: Event) {
        {
            let mut history = self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if history.len() == HISTORY_MAX {
                history.pop_front();
            }
            history.push_back(event.clone());
        }
        // An error only says that nobody listens.
        let _ = self.sender.send(event);
    }

    /// Events from now on, and those kept since `since`.
    pub fn subscribe(&self, since: Option<Timestamp>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let receiver = self.sender.subscribe();
        let kept = since.map(|since| history.iter().filter(|e| e.at >= since).cloned().collect());
        (kept.unwrap_or_default(), receiver)
    }
}
