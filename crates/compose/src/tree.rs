//! A YAML document as a tree in which every value knows where it was written.

use crate::error::{Error, Place, Result};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Keys sorted, so that the same file always gives the same objects.
pub(crate) type Map = BTreeMap<String, Entry>;

/// One key of a mapping with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key_at: Place,
    pub(crate) node: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
    pub(crate) merge: Merge,
}

/// How a value acts on the one it meets in an earlier file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Merge {
    #[default]
    Together,
    /// `!override`: takes its place.
    Replace,
    /// `!reset`: takes it away.
    Reset,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// Where it was written does not matter for what it says.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl Node {
    pub(crate) fn new(at: &Place, value: Value) -> Self {
        Self { at: at.clone(), value, merge: Merge::Together }
    }

    pub(crate) fn text(at: &Place, text: impl Into<String>) -> Self {
        Self::new(at, Value::Text(text.into()))
    }

    /// The value of a key, unless it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.map().and_then(|map| map.get(key)).map(|entry| &entry.node).filter(|node| !node.is_null())
    }

    pub(crate) fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items of a list; nothing for everything else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The keys and values of a mapping; nothing for everything else.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.map().into_iter().flatten().map(|(key, entry)| (key, &entry.node))
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub(crate) fn is_scalar(&self) -> bool {
        !matches!(self.value, Value::List(_) | Value::Map(_))
    }

    /// A scalar as text; `None` for null, lists and mappings.
    pub(crate) fn as_text(&self) -> Option<String> {
        match &self.value {
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Int(number) => Some(number.to_string()),
            Value::Float(number) => Some(float_text(*number)),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Text of a key, empty when it is missing.
    pub(crate) fn text_of(&self, key: &str) -> String {
        self.get(key).and_then(Node::as_text).unwrap_or_default()
    }

    /// # Errors
    /// Not a whole number.
    pub(crate) fn as_int(&self) -> Result<i64> {
        match &self.value {
            Value::Int(number) => Ok(*number),
            Value::Text(text) => match crate::yaml::plain(text.trim()) {
                Value::Int(number) => Ok(number),
                _ => Err(self.wrong(&format!("\"{text}\" is not a whole number"))),
            },
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Ok(*number as i64),
            _ => Err(self.wrong("a whole number is expected here")),
        }
    }

    /// # Errors
    /// Not a whole number from 0 up.
    pub(crate) fn as_count(&self) -> Result<u64> {
        u64::try_from(self.as_int()?).map_err(|_| self.wrong("a number below zero makes no sense here"))
    }

    /// # Errors
    /// Not a number.
    pub(crate) fn as_float(&self) -> Result<f64> {
        let number = match &self.value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|n: &f64| n.is_finite()).ok_or_else(|| self.wrong("a number is expected here"))
    }

    /// # Errors
    /// Neither true nor false in any of YAML's words.
    pub(crate) fn as_bool(&self) -> Result<bool> {
        let word = self.as_text().unwrap_or_default().to_ascii_lowercase();
        match word.as_str() {
            "true" | "yes" | "on" | "y" | "1" => Ok(true),
            "false" | "no" | "off" | "n" | "0" => Ok(false),
            _ => Err(self.wrong("true or false is expected here")),
        }
    }

    /// A key's flag; false when it is missing.
    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        self.get(key).map_or(Ok(false), Node::as_bool)
    }

    pub(crate) fn wrong(&self, message: &str) -> Error {
        Error::at(&self.at, message)
    }

    /// A word for error messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Int(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(map) => Json::Object(map.iter().map(|(k, e)| (k.clone(), e.node.to_json())).collect()),
        }
    }
}

/// As Go prints it, since that is what the same file gives elsewhere.
fn float_text(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{number:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = power.strip_prefix('-').map_or(("+", power), |power| ("-", power));
        return format!("{digits}e{sign}{power:0>2}");
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_as_go_prints_them() {
        for (number, text) in [(1.5, "1.5"), (1e21, "1e+21"), (0.00001, "1e-05"), (3.0, "3"), (0.0, "0")] {
            assert_eq!(float_text(number), text);
        }
    }
}
