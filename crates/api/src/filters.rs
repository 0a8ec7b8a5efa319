//! The `filters` query parameter: JSON of key to values, in two historical shapes.

use regex::RegexBuilder;
use serde::Deserialize;
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one compiled `name` pattern, so that a pattern cannot eat the daemon's memory.
const PATTERN_SIZE_MAX: usize = 64 << 10;

/// Key to values. All keys must match; of one key's values any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    /// What clients before API 1.22 sent, and the CLI still does.
    Set(BTreeMap<String, bool>),
}

impl Filters {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parsed: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| Error::invalid("invalid filter: not a map of lists"))?;
        let values = |values| match values {
            Values::List(list) => list.into_iter().collect(),
            Values::Set(set) => set.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect(),
        };
        Ok(Self(parsed.into_iter().map(|(key, v)| (key, values(v))).collect()))
    }

    /// One key with one value.
    pub(crate) fn single(key: &str, value: &str) -> Self {
        Self(BTreeMap::from([(key.to_owned(), BTreeSet::from([value.to_owned()]))]))
    }

    /// Refuses keys that the list does not know.
    pub(crate) fn check(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// No such filter, or one of its values satisfies `matches`.
    pub(crate) fn any(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(matches)
    }

    pub(crate) fn exact(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| wanted == value)
    }

    pub(crate) fn prefix(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| value.starts_with(wanted))
    }

    /// Values are regular expressions, or substrings where they are not valid ones.
    pub(crate) fn pattern(&self, key: &str, value: &str) -> bool {
        self.any(key, |wanted| match RegexBuilder::new(wanted).size_limit(PATTERN_SIZE_MAX).build() {
            Ok(pattern) => pattern.is_match(value),
            Err(_) => value.contains(wanted),
        })
    }

    /// Labels: `key` or `key=value`; every one must be there.
    pub(crate) fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|wanted| has_label(labels, wanted))
    }

    /// `label` and `label!` together, as the prune calls have them.
    pub(crate) fn labels_and_not(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels("label", labels) && !self.values("label!").any(|unwanted| has_label(labels, unwanted))
    }

    /// A boolean filter; `None` when absent.
    ///
    /// # Errors
    /// Both values at once, or another word.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let mut answer = None;
        for value in self.values(key) {
            let one = match value.to_ascii_lowercase().as_str() {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => return Err(Error::invalid(format!("invalid filter '{key}=[{value}]'"))),
            };
            if answer.is_some_and(|other| other != one) {
                return Err(Error::invalid(format!("invalid filter '{key}': both true and false")));
            }
            answer = Some(one);
        }
        Ok(answer)
    }
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(text: &str) -> Filters {
        Filters::parse(text).unwrap()
    }

    #[test]
    fn both_shapes_say_the_same() {
        assert_eq!(filters(r#"{"name":["a","b"]}"#), filters(r#"{"name":{"a":true,"b":true,"c":false}}"#));
        assert!(Filters::parse("[]").is_err() && Filters::parse(r#"{"a":1}"#).is_err());
        assert!(filters("").exact("name", "anything"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert_eq!(filters(r#"{"x":["1"]}"#).check(&["name"]).unwrap_err().message, "invalid filter 'x'");
    }

    #[test]
    fn labels_must_all_match() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        assert!(filters(r#"{"label":["a=1","b"]}"#).labels("label", &labels));
        assert!(!filters(r#"{"label":["a=2"]}"#).labels("label", &labels));
        assert!(!filters(r#"{"label!":["a"]}"#).labels_and_not(&labels));
    }

    #[test]
    fn names_are_patterns() {
        assert!(filters(r#"{"name":["^/web$"]}"#).pattern("name", "/web"));
        assert!(!filters(r#"{"name":["^/web$"]}"#).pattern("name", "/web2"));
        assert!(filters(r#"{"name":["eb"]}"#).pattern("name", "/web"));
        assert!(filters(r#"{"name":["w(e"]}"#).pattern("name", "w(e"));
    }

    #[test]
    fn booleans() {
        assert_eq!(filters(r#"{"dangling":["true"]}"#).boolean("dangling").unwrap(), Some(true));
        assert_eq!(filters("").boolean("dangling").unwrap(), None);
        assert!(filters(r#"{"dangling":["true","false"]}"#).boolean("dangling").is_err());
        assert!(filters(r#"{"dangling":["x"]}"#).boolean("dangling").is_err());
    }
}
