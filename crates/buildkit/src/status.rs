//! What is known of the builds that were asked for by gRPC: their messages so far, for
//! whoever asks for them at whatever time.

use crate::proto::control::StatusResponse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Builds that are known at a time.
const BUILDS_MAX: usize = 1024;
/// Messages kept of one build; later ones are told only to those who listen already.
const MESSAGES_MAX: usize = 200_000;

/// One build's messages.
#[derive(Debug, Default)]
pub(crate) struct Told {
    messages: Mutex<Vec<Arc<StatusResponse>>>,
    /// How many there are, and whether the build is over.
    state: watch::Sender<(usize, bool)>,
}

impl Told {
    pub(crate) fn push(&self, message: StatusResponse) {
        let count = {
            let mut messages = self.messages();
            if messages.len() >= MESSAGES_MAX {
                return;
            }
            messages.push(Arc::new(message));
            messages.len()
        };
        self.state.send_modify(|state| state.0 = count);
    }

    pub(crate) fn finish(&self) {
        self.state.send_modify(|state| state.1 = true);
    }

    /// The messages from a number on, once there are any; `None` after the last.
    pub(crate) async fn next(&self, from: usize) -> Option<Vec<Arc<StatusResponse>>> {
        let mut state = self.state.subscribe();
        let (count, _) = *state.wait_for(|(count, is_over)| *count > from || *is_over).await.ok()?;
        if count <= from {
            return None;
        }
        self.messages().get(from..).map(<[_]>::to_vec)
    }

    fn messages(&self) -> MutexGuard<'_, Vec<Arc<StatusResponse>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All builds, by the name that their clients gave them.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<HashMap<String, Arc<Told>>>);

impl Board {
    /// The build of that name, which may be about to begin.
    pub(crate) fn entry(&self, name: &str) -> Option<Arc<Told>> {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !builds.contains_key(name) && builds.len() >= BUILDS_MAX {
            // Those that nobody builds or listens to any more.
            builds.retain(|_, told| Arc::strong_count(told) > 1);
            if builds.len() >= BUILDS_MAX {
                return None;
            }
        }
        Some(Arc::clone(builds.entry(name.to_owned()).or_default()))
    }

    /// The build is over; who listens goes on to the end.
    pub(crate) fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_late_hears_all_and_the_end() {
        let told = Told::default();
        told.push(StatusResponse::default());
        told.push(StatusResponse::default());
        assert_eq!(told.next(0).await.map(|messages| messages.len()), Some(2));
        told.finish();
        assert!(told.next(2).await.is_none());
        assert_eq!(told.next(1).await.map(|messages| messages.len()), Some(1));
    }
}
