//! The shapes on the wire, and pure conversions between them and the model.
//!
//! The shapes are our own: clients depend on which fields are `null`, `{}` or absent,
//! and on reading a `null` where a value belongs as that type's zero, as Go does.

pub(crate) mod build_event;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod container_list;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod exec;
pub(crate) mod host_config;
pub(crate) mod image;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod orchestrate;
pub(crate) mod privileges;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod service_in;
pub(crate) mod service_out;
pub(crate) mod stats;
pub(crate) mod swarm;
pub(crate) mod system;
pub(crate) mod task;
pub(crate) mod volume;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Declares a wire struct: Go's field names, every field optional, `null` the same as absent.
macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        pub(crate) struct $name {
            $(
                #[serde(deserialize_with = "crate::json::null_is_default")]
                $(#[$field_meta])*
                pub(crate) $field: $ty,
            )*
        }
    };
}
pub(crate) use wire;

/// Reads `null` as the type's zero value.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Go's `omitempty`.
pub(crate) fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A set member's value: `{}` on the way out, anything on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Empty;

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        serializer.serialize_map(Some(0))?.end()
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Text that `Debug` must not show: tokens and keys.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Redacted(pub(crate) String);

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(redacted)")
    }
}

/// A command: a list of words, or one word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Words(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Option::<Either>::deserialize(deserializer)? {
            None => Self::default(),
            Some(Either::One(word)) => Self(vec![word]),
            Some(Either::Many(words)) => Self(words),
        })
    }
}

/// `null` instead of an empty list, as Go prints a list that was never set.
pub(crate) fn list_or_null<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// `null` instead of an empty map.
pub(crate) fn map_or_null<V>(map: BTreeMap<String, V>) -> Option<BTreeMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

/// Nanoseconds on the wire; beyond 292 years they saturate.
pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A duration from nanoseconds.
///
/// # Errors
/// `what` cannot be negative.
pub(crate) fn duration(what: &str, nanos: i64) -> Result<Duration> {
    match u64::try_from(nanos) {
        Ok(nanos) => Ok(Duration::from_nanos(nanos)),
        Err(_) => Err(Error::invalid(format!("{what} cannot be negative"))),
    }
}

/// The refusal of a field that is set but that skep cannot honour.
pub(crate) fn unsupported(field: &str) -> Error {
    Error::not_implemented(format!("{field} is not supported"))
}

/// Refuses the first of the fields that is set.
pub(crate) fn refuse(fields: &[(&str, bool)]) -> Result<()> {
    match fields.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(unsupported(name)),
        None => Ok(()),
    }
}

/// An object's name; the message stays readable however long the name is.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<()> {
    const NAME_SHOWN_MAX: usize = 300;
    skep_model::validate::object_name(kind, name).map_err(|error| {
        if name.chars().count() <= NAME_SHOWN_MAX {
            return error;
        }
        let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
        Error { message: error.message.replace(name, &format!("{shown}...")), ..error }
    })
}

/// Bytes in decimal units with four significant digits at most: `1.984MB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 1000.0 {
        0
    } else if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// A duration the way people say it: `5 minutes`, `About an hour`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, the others cut off.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// The present, for pure functions that take it as an argument.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod feed;
#[cfg(test)]
mod random_tests;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    wire!(Sample { name: String, words: Words, number: Option<u64>, #[serde(skip_serializing_if = "crate::json::zero")] set: BTreeMap<String, Empty> });

    #[test]
    fn null_and_absent_are_zero() {
        let read = |text: &str| serde_json::from_str::<Sample>(text).unwrap();
        assert_eq!(read("{}"), Sample::default());
        assert_eq!(read(r#"{"Name":null,"Words":null,"Number":null,"Set":null,"Unknown":1}"#), Sample::default());
        let sample = read(r#"{"Words":"sh","Set":{"a":null}}"#);
        assert_eq!(sample.words, Words(vec!["sh".into()]));
        let written = serde_json::to_string(&sample).unwrap();
        assert_eq!(written, r#"{"Name":"","Words":["sh"],"Number":null,"Set":{"a":{}}}"#);
    }

    #[test]
    fn sizes_and_durations_read_like_dockers() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1_984_263, "1.984MB"), (401_025_458, "401MB"), (5_570_000, "5.57MB")]
        {
            assert_eq!(human_size(bytes), text);
        }
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (20 * 86400, "2 weeks"),
            (100 * 86400, "3 months"),
            (1000 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
