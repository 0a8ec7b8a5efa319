//! Ids of the last commands and what came of them, so that a command whose answer was
//! lost can be proposed again without being done twice.

use super::Rejection;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A proposer gives up long before this many other commands pass.
const RECENT_COMMANDS_MAX: usize = 1024;

/// Shared between clones.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Recent(Arc<List>);

#[derive(Debug, Clone, Default, PartialEq)]
struct List {
    /// Oldest first.
    ids: VecDeque<Arc<str>>,
    outcomes: BTreeMap<Arc<str>, Option<Rejection>>,
}

impl Recent {
    /// The earlier outcome of a command with this id, if it is known.
    pub(super) fn outcome(&self, id: &str) -> Option<&Option<Rejection>> {
        self.0.outcomes.get(id)
    }

    /// Commands without an id are not remembered.
    pub(super) fn remember(&mut self, id: &str, outcome: Option<Rejection>) {
        if id.is_empty() {
            return;
        }
        let list = Arc::make_mut(&mut self.0);
        let id: Arc<str> = id.into();
        list.ids.push_back(Arc::clone(&id));
        list.outcomes.insert(id, outcome);
        if list.ids.len() > RECENT_COMMANDS_MAX
            && let Some(oldest) = list.ids.pop_front()
        {
            list.outcomes.remove(&oldest);
        }
    }

    /// Oldest first, for the snapshot.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Option<Rejection>)> {
        self.0.ids.iter().filter_map(|id| Some((&**id, self.0.outcomes.get(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_beyond_its_limit() {
        let mut recent = Recent::default();
        for number in 0..=RECENT_COMMANDS_MAX {
            recent.remember(&number.to_string(), None);
        }
        assert_eq!(recent.outcome("0"), None);
        assert_eq!(recent.outcome("1"), Some(&None));
        assert_eq!(recent.entries().count(), RECENT_COMMANDS_MAX);
    }
}
