//! A tree as YAML that our own parser, and every other, reads back as the same tree.

use crate::tree::{Node, Value};
use crate::yaml::plain;
use std::fmt::Write as _;

/// The whole document, keys sorted, two spaces a level.
pub(crate) fn yaml(root: &Node) -> String {
    let mut text = String::new();
    block(root, 0, &mut text);
    text
}

fn block(node: &Node, level: usize, text: &mut String) {
    match &node.value {
        Value::Map(map) if !map.is_empty() => {
            for (key, entry) in map {
                indent(level, text);
                text.push_str(&quoted(key));
                text.push(':');
                below(&entry.node, level, text);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for item in items {
                indent(level, text);
                text.push('-');
                if item.map().is_some_and(|map| !map.is_empty()) {
                    // The first key stands beside the dash.
                    let mut inner = String::new();
                    block(item, level + 1, &mut inner);
                    text.push(' ');
                    text.push_str(inner.trim_start_matches(' '));
                } else {
                    below(item, level, text);
                }
            }
        }
        _ => {
            indent(level, text);
            text.push_str(&flow(node));
            text.push('\n');
        }
    }
}

/// A value behind its key or dash: on the same line, or as a block below.
fn below(node: &Node, level: usize, text: &mut String) {
    match &node.value {
        Value::Map(map) if !map.is_empty() => {
            text.push('\n');
            block(node, level + 1, text);
        }
        Value::List(items) if !items.is_empty() => {
            text.push('\n');
            block(node, level + 1, text);
        }
        _ => {
            text.push(' ');
            text.push_str(&flow(node));
            text.push('\n');
        }
    }
}

fn flow(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Text(text) => quoted(text),
        Value::List(_) => "[]".into(),
        Value::Map(_) => "{}".into(),
    }
}

/// Plain where that reads back as the same text, else in double quotes.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | '@' | '=' | '+' | '$');
    let plain_word = text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.'))
        && text.chars().all(safe)
        && matches!(plain(text), Value::Text(_))
        // Older parsers take these for truth values.
        && !matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n");
    if plain_word {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                // Every such character is below 2^16.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn indent(level: usize, text: &mut String) {
    for _ in 0..level {
        text.push_str("  ");
    }
}
