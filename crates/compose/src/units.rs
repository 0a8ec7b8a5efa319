//! Durations, sizes and CPUs as users write them.

use crate::error::Result;
use crate::tree::{Node, Value};

/// `1h30m`, `100ms`, `2d`: nanoseconds.
///
/// # Errors
/// Not a duration.
pub(crate) fn duration_ns(node: &Node) -> Result<i64> {
    let text = node.as_text().unwrap_or_default();
    parse_duration(&text).ok_or_else(|| node.wrong(&format!("\"{text}\" is not a duration such as 10s or 1m30s")))
}

fn parse_duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit_end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                "d" => 86_400e9,
                "w" => 604_800e9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (total < i64::MAX as f64).then_some(total as i64)
}

/// `64m`, `1.5g`, `512`: bytes, in binary units.
///
/// # Errors
/// Not a size.
pub(crate) fn bytes(node: &Node) -> Result<i64> {
    let text = node.as_text().unwrap_or_default();
    parse_bytes(&text).ok_or_else(|| node.wrong(&format!("\"{text}\" is not a size such as 64m or 1.5g")))
}

fn parse_bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let size = digits.trim_end().parse::<f64>().ok()? * 1024_f64.powi(power);
    (0.0..i64::MAX as f64).contains(&size).then_some(size as i64)
}

/// `0.5` CPUs in billionths.
///
/// # Errors
/// Not a number, or below zero.
pub(crate) fn nano_cpus(node: &Node) -> Result<i64> {
    let cpus = node.as_float()?;
    if !(0.0..1e9).contains(&cpus) {
        return Err(node.wrong("the number of CPUs cannot be below zero"));
    }
    Ok((cpus * 1e9).round() as i64)
}

/// A file mode: octal when quoted (`"0440"`), a number otherwise (YAML reads `0440` as octal).
///
/// # Errors
/// Not a mode.
pub(crate) fn file_mode(node: &Node) -> Result<u32> {
    let mode = match &node.value {
        Value::Text(text) => i64::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        Value::Int(number) => Some(*number),
        _ => None,
    };
    mode.filter(|mode| (0..=0o7777).contains(mode))
        .and_then(|mode| u32::try_from(mode).ok())
        .ok_or_else(|| node.wrong("a file mode such as 0440 is expected here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, value) in [
            ("5s", 5_000_000_000),
            ("1m30.5s", 90_500_000_000),
            ("100ms", 100_000_000),
            ("1d", 86_400_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(value), "{text}");
        }
        for bad in ["", "5", "s", "5x", "1e9s", "-5s", "9999999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        for (text, value) in
            [("64m", 64 << 20), ("1.5g", 3 << 29), ("512", 512), ("2 MiB", 2 << 20), ("10b", 10), ("1KB", 1024)]
        {
            assert_eq!(parse_bytes(text), Some(value), "{text}");
        }
        for bad in ["", "m", "5x", "-1m", "1mm", "nan", "inf", "1e30p"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
