//! Text to trees, within limits: depth, number of values and bytes are counted after
//! aliases are expanded, so that a small file cannot become a large one.

use crate::error::{Error, Place, Result};
use crate::tree::{Entry, Map, Merge, Node, Value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one compose file.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// Mappings and lists inside each other.
const DEPTH_MAX: usize = 64;
/// Values of one file, those behind aliases counted each time.
const VALUES_MAX: usize = 200_000;
/// Bytes of all texts of one file, those behind aliases counted each time.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// The documents of a file.
///
/// # Errors
/// Malformed or too large, with file, line and column.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Node>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: file.to_owned(), limit: FILE_BYTES_MAX });
    }
    let mut builder = Builder { file: file.into(), ..Builder::default() };
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) = event.map_err(|error| builder.syntax(&error, text))?;
        builder.take(event, span.start)?;
    }
    Ok(builder.documents)
}

/// What a finished value costs.
#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    bytes: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    file: Arc<str>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Node, Size)>,
    documents: Vec<Node>,
    values: usize,
    bytes: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: Place,
    anchor: usize,
    merge: Merge,
    size: Size,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { map: Map, key: Option<(String, Place)>, merged: Vec<Node> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, start: Marker) -> Result<()> {
        let at = self.place(&start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let bytes = text.len();
                let (value, merge) = scalar(&text, style, tag.as_deref(), &at)?;
                let size = Size { values: 1, bytes, depth: 0 };
                self.finish(Node { at, value, merge }, size, anchor, true)
            }
            Event::SequenceStart(anchor, tag) => self.open(at, anchor, tag.as_deref(), Content::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { map: Map::new(), key: None, merged: Vec::new() };
                self.open(at, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let Some((_, size)) = self.anchors.get(&anchor) else {
                    return Err(Error::at(&at, "this alias stands inside the value it repeats"));
                };
                let size = *size;
                // Counted before it is copied.
                self.count(size, &at)?;
                match self.anchors.get(&anchor).cloned() {
                    Some((node, size)) => self.finish(node, size, 0, false),
                    None => Ok(()),
                }
            }
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, at: Place, anchor: usize, tag: Option<&Tag>, content: Content) -> Result<()> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Error::at(&at, format!("more than {DEPTH_MAX} levels inside each other")));
        }
        let merge = match tag {
            None => Merge::Together,
            Some(tag) if tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq") => Merge::Together,
            Some(tag) => merge_tag(tag, &at)?,
        };
        self.open.push(Open { at, anchor, merge, size: Size { values: 1, bytes: 0, depth: 1 }, content });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { mut map, merged, .. } => {
                for node in merged {
                    if let Value::Map(defaults) = node.value {
                        for (key, entry) in defaults {
                            map.entry(key).or_insert(entry);
                        }
                    }
                }
                Value::Map(map)
            }
        };
        self.count(Size { values: 1, bytes: 0, depth: 0 }, &open.at)?;
        self.finish(Node { at: open.at, value, merge: open.merge }, open.size, open.anchor, false)
    }

    /// Hands a value to what is open around it.
    fn finish(&mut self, node: Node, size: Size, anchor: usize, count: bool) -> Result<()> {
        if count {
            self.count(size, &node.at)?;
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
            // The copy under the anchor is memory too.
            self.count(size, &node.at)?;
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.size.values += size.values;
        open.size.bytes += size.bytes;
        open.size.depth = open.size.depth.max(size.depth + 1);
        if open.size.depth + self.open.len() > DEPTH_MAX + 1 {
            return Err(Error::at(&node.at, format!("more than {DEPTH_MAX} levels inside each other")));
        }
        let open = self.open.last_mut().expect("it was there above");
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { map, key, merged } => match key.take() {
                None => *key = Some(key_of(&node)?),
                Some((name, _)) if name == "<<" => merged.extend(merge_sources(node)?),
                Some((name, key_at)) => insert(map, name, key_at, node)?,
            },
        }
        Ok(())
    }

    fn count(&mut self, size: Size, at: &Place) -> Result<()> {
        self.values += size.values;
        self.bytes += size.bytes;
        if self.values > VALUES_MAX {
            return Err(Error::at(at, format!("the file holds more than {VALUES_MAX} values (aliases count in full)")));
        }
        if self.bytes > TEXT_BYTES_MAX {
            return Err(Error::at(
                at,
                format!("the file's texts exceed {TEXT_BYTES_MAX} bytes (aliases count in full)"),
            ));
        }
        Ok(())
    }

    fn place(&self, marker: &Marker) -> Place {
        Place { file: self.file.clone(), line: marker.line(), column: marker.col() + 1 }
    }

    fn syntax(&self, error: &ScanError, text: &str) -> Error {
        let place = self.place(error.marker());
        // The scanner may notice a tab only one line later, or stop one line before it.
        let near = text.lines().enumerate().skip(place.line.saturating_sub(2)).take(3);
        let tab = near.into_iter().find_map(|(index, line)| {
            let indentation = &line[..line.len() - line.trim_start().len()];
            indentation.find('\t').map(|column| (index + 1, column + 1))
        });
        match tab {
            Some((line, column)) => {
                let place = Place { line, column, ..place };
                Error::at(&place, "found a tab in the indentation: YAML wants spaces")
            }
            None => Error::at(&place, error.info()),
        }
    }
}

fn key_of(node: &Node) -> Result<(String, Place)> {
    match node.as_text() {
        Some(text) => Ok((text, node.at.clone())),
        None => Err(Error::at(&node.at, format!("a key must be a text, not {}", node.kind()))),
    }
}

fn insert(map: &mut Map, name: String, key_at: Place, node: Node) -> Result<()> {
    if let Some(first) = map.get(&name) {
        let line = first.key_at.line;
        return Err(Error::at(&key_at, format!("key \"{name}\" was given before, in line {line}")));
    }
    map.insert(name, Entry { key_at, node });
    Ok(())
}

/// The mappings that `<<` names; the first one wins.
fn merge_sources(node: Node) -> Result<Vec<Node>> {
    let at = node.at.clone();
    let sources = match node.value {
        Value::List(items) => items,
        _ => vec![node],
    };
    match sources.iter().find(|source| source.map().is_none()) {
        Some(_) => Err(Error::at(&at, "\"<<\" takes a mapping or a list of mappings")),
        None => Ok(sources),
    }
}

fn merge_tag(tag: &Tag, at: &Place) -> Result<Merge> {
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("!", "reset") => Ok(Merge::Reset),
        ("!", "override") => Ok(Merge::Replace),
        _ => Err(Error::at(at, format!("tag {tag} has no meaning here"))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: &Place) -> Result<(Value, Merge)> {
    let plain_style = style == ScalarStyle::Plain;
    match tag {
        None if plain_style => Ok((plain(text), Merge::Together)),
        None => Ok((Value::Text(text.to_owned()), Merge::Together)),
        Some(tag) if tag.is_yaml_core_schema() => {
            let value = match tag.suffix.as_str() {
                "str" => Value::Text(text.to_owned()),
                "null" => Value::Null,
                _ => plain(text),
            };
            Ok((value, Merge::Together))
        }
        Some(tag) => {
            let merge = merge_tag(tag, at)?;
            let value = if plain_style { plain(text) } else { Value::Text(text.to_owned()) };
            Ok((value, merge))
        }
    }
}

/// What an unquoted scalar means. Octal with a leading zero is a number, as modes are
/// written (`0440`); `yes` and `no` are texts.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return Value::Text(text.to_owned());
    }
    if let Some(number) = integer(text) {
        return Value::Int(number);
    }
    let numeric = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
    match text.parse::<f64>() {
        Ok(number) if numeric && number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(&digits.replace('_', ""), radix).ok().map(|number| sign * number)
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
