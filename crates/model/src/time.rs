//! A point in time as plain data. Reading the clock is the caller's business.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nanoseconds since the Unix epoch, UTC. Zero is "never" and prints as Docker's
/// zero time, `0001-01-01T00:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The point that stands for "never happened".
    pub const NEVER: Self = Self(0);

    /// Whether this is a real point in time.
    pub fn is_set(self) -> bool {
        self.0 != 0
    }

    /// RFC 3339 with nanoseconds as Go prints it: trailing zeros dropped.
    pub fn to_rfc3339(self) -> String {
        if !self.is_set() {
            return "0001-01-01T00:00:00Z".into();
        }
        let text = self.to_chrono().to_rfc3339_opts(SecondsFormat::Nanos, true);
        let trimmed = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
        format!("{trimmed}Z")
    }

    /// Parses RFC 3339; the zero time gives [`Timestamp::NEVER`].
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed = DateTime::parse_from_rfc3339(text).ok()?;
        if parsed.timestamp() < 0 {
            return Some(Self::NEVER);
        }
        parsed.timestamp_nanos_opt().map(Self)
    }

    /// The same point as a chrono value.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.0)
    }

    /// From a chrono value; out-of-range times saturate.
    pub fn from_chrono(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_nanos_opt().unwrap_or(i64::MAX))
    }

    /// Whole seconds since the epoch.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// This point plus a duration, saturating.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to this point; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_go() {
        assert_eq!(Timestamp::NEVER.to_rfc3339(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp(1_500_000_000_120_000_000).to_rfc3339(), "2017-07-14T02:40:00.12Z");
        assert_eq!(Timestamp(1_500_000_000_000_000_000).to_rfc3339(), "2017-07-14T02:40:00Z");
    }

    #[test]
    fn round_trips() {
        let at = Timestamp(1_500_000_000_123_456_789);
        assert_eq!(Timestamp::parse_rfc3339(&at.to_rfc3339()), Some(at));
        assert_eq!(Timestamp::parse_rfc3339("0001-01-01T00:00:00Z"), Some(Timestamp::NEVER));
    }
}
