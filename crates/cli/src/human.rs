//! Times and sizes as docker words them.

use chrono::{DateTime, Utc};

/// `2 minutes`, `About an hour`, ... for a span of seconds.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds as f64 / 3600.0).round() as i64);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `2 minutes ago` for an RFC 3339 time; empty for none.
pub(crate) fn ago(text: &str, now: DateTime<Utc>) -> String {
    match DateTime::parse_from_rfc3339(text) {
        Ok(at) if at.timestamp() > 0 => format!("{} ago", duration((now - at.with_timezone(&Utc)).num_seconds())),
        _ => String::new(),
    }
}

/// `2026-11-24 04:05:32.043089871 +0000 utc` for an RFC 3339 time.
pub(crate) fn moment(text: &str) -> String {
    match DateTime::parse_from_rfc3339(text) {
        Ok(at) => at.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%S%.f +0000 utc").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// `2 minutes ago` for seconds since the epoch.
pub(crate) fn ago_seconds(at: i64, now: DateTime<Utc>) -> String {
    if at <= 0 { "N/A".into() } else { format!("{} ago", duration(now.timestamp() - at)) }
}

/// `4.86MB`: decimal units with three significant digits.
pub(crate) fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 3)
}

/// `23.54GiB`: binary units with four significant digits.
pub(crate) fn binary_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

fn scaled(bytes: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// C's `%.Ng`: N significant digits, trailing zeros dropped.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{value:.0}").trim_start_matches('-').len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The first `width` characters, with an ellipsis when cut.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `sha256:` dropped and cut to twelve characters.
pub(crate) fn short_id(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3600 * 24 * 3, "3 days"),
            (3600 * 24 * 30, "4 weeks"),
            (3600 * 24 * 365, "12 months"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn sizes_read_like_dockers() {
        for (bytes, text) in
            [(0.0, "0B"), (999.0, "999B"), (4_860_000.0, "4.86MB"), (142_000_000.0, "142MB"), (1000.0, "1kB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(binary_size(25_276_510_208.0), "23.54GiB");
        assert_eq!(binary_size(67_108_864.0), "64MiB");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
