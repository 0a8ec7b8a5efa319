//! Names and the ids that have them. Names are often alike in their beginnings, so they are
//! spread over the buckets of a table by a digest.

use super::id::Id;
use super::table::Table;
use skep_model::hash::fnv1a;
use std::sync::Arc;

/// Cheap to clone and cheap to change after a clone, like the tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Names(Table<str>);

impl Names {
    /// Id of who has a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&key(name)).map(|id| &**id)
    }

    /// Gives a name to `id`, or takes it away if it has it.
    pub(super) fn set(&mut self, name: &str, id: &Arc<str>, add: bool) {
        let key = key(name);
        if add {
            self.0.insert(Id::of(&key), Arc::clone(id));
        } else if self.0.get(&key) == Some(id) {
            self.0.remove(&key);
        }
    }
}

/// Two characters of a digest (FNV-1a), by which the table is split, and the name.
fn key(name: &str) -> String {
    let digest = fnv1a(name);
    // Each character changes the lowest bits; those in the middle hardly differ for short names.
    format!("{:02x}{name}", digest as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_from_its_holder_alone() {
        let (mut names, a, b): (Names, Arc<str>, Arc<str>) = (Names::default(), "a".into(), "b".into());
        names.set("web", &a, true);
        let before = names.clone();
        names.set("web", &b, false);
        assert_eq!(names.get("web"), Some("a"));
        names.set("web", &a, false);
        assert_eq!((names.get("web"), before.get("web"), before.get("we")), (None, Some("a"), None));
    }

    #[test]
    fn names_that_begin_alike_are_spread() {
        let digests: std::collections::BTreeSet<String> =
            (0..1000).map(|number| key(&format!("web{number}"))[..2].to_owned()).collect();
        assert!(digests.len() > 200, "{}", digests.len());
    }
}
