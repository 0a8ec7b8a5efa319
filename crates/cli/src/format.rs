//! Tables, JSON and templates: how lists are shown.

use crate::Outcome;
use crate::template::Format;
use anyhow::Context;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// Column widths are at least this, as in docker.
const COLUMN_WIDTH_MIN: usize = 10;
/// Spaces between columns.
const COLUMN_GAP: usize = 3;

/// A list that can be shown: each row is an object whose fields templates may name.
pub(crate) struct Listing<'a> {
    /// (field, header) of the default table, in order.
    pub(crate) columns: &'a [(&'a str, &'a str)],
    pub(crate) rows: Vec<Value>,
    /// Field printed by `--quiet`.
    pub(crate) id: &'a str,
}

impl Listing<'_> {
    /// Prints in the format asked for: empty or `table` is the default table.
    ///
    /// # Errors
    /// A malformed template.
    pub(crate) fn print(&self, format: &str, quiet: bool) -> Outcome {
        if quiet && format.is_empty() {
            for row in &self.rows {
                println!("{}", text(&row[self.id]));
            }
            return Ok(());
        }
        match format {
            "" | "table" => print!("{}", table(&self.headers(), &self.cells())),
            "json" | "{{json .}}" => {
                for row in &self.rows {
                    println!("{row}");
                }
            }
            _ => match format.strip_prefix("table ") {
                Some(template) => self.print_table(template)?,
                None => {
                    let template = Format::parse(format)?;
                    for row in &self.rows {
                        println!("{}", template.render(row)?);
                    }
                }
            },
        }
        Ok(())
    }

    fn headers(&self) -> Vec<String> {
        self.columns.iter().map(|(_, header)| (*header).to_owned()).collect()
    }

    fn cells(&self) -> Vec<Vec<String>> {
        self.rows.iter().map(|row| self.columns.iter().map(|(field, _)| text(&row[*field])).collect()).collect()
    }

    /// `table {{.ID}}\t{{.Names}}`: the same template over the headers gives the first line.
    fn print_table(&self, template: &str) -> Outcome {
        let template = Format::parse(template)?;
        let mut head = serde_json::Map::new();
        if let Some(Value::Object(first)) = self.rows.first() {
            for field in first.keys() {
                head.insert(field.clone(), Value::String(header_of(field)));
            }
        }
        for (field, header) in self.columns {
            head.insert((*field).to_owned(), Value::String((*header).to_owned()));
        }
        let split = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let headers = split(template.render(&Value::Object(head))?);
        let cells = self.rows.iter().map(|row| template.render(row).map(split)).collect::<Result<Vec<_>, _>>()?;
        print!("{}", table(&headers, &cells));
        Ok(())
    }
}

/// `CurrentState` becomes `CURRENT STATE`.
fn header_of(field: &str) -> String {
    let mut header = String::new();
    let mut previous_lower = false;
    for c in field.chars() {
        if c.is_uppercase() && previous_lower {
            header.push(' ');
        }
        previous_lower = c.is_lowercase();
        header.extend(c.to_uppercase());
    }
    header
}

/// Columns aligned as docker aligns them; the last is not padded.
pub(crate) fn table(headers: &[String], rows: &[Vec<String>]) -> String {
    let count = headers.len();
    let mut widths: Vec<usize> = headers.iter().map(|h| h.width()).collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate().take(count) {
            widths[column] = widths[column].max(cell.width());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(headers).chain(rows.iter().map(Vec::as_slice)) {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let width = (widths.get(column).copied().unwrap_or(0) + COLUMN_GAP).max(COLUMN_WIDTH_MIN);
                text.push_str(&" ".repeat(width.saturating_sub(cell.width())));
            }
        }
        text.push('\n');
    }
    text
}

/// A JSON value as a cell.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Prints objects as `inspect` does: an indented list, or a template per object.
///
/// # Errors
/// A malformed template or answer.
pub(crate) fn inspect(objects: &[bytes::Bytes], format: &str) -> Outcome {
    if !format.is_empty() && format != "json" {
        let template = Format::parse(format)?;
        for bytes in objects {
            let value: Value = serde_json::from_slice(bytes)?;
            println!("{}", template.render(&value)?);
        }
        return Ok(());
    }
    let mut list = Vec::new();
    list.push(b'[');
    for (number, bytes) in objects.iter().enumerate() {
        if number > 0 {
            list.push(b',');
        }
        list.extend_from_slice(bytes);
    }
    list.push(b']');
    println!("{}", indent(&list)?);
    Ok(())
}

/// Indents JSON by four spaces and keeps the order of its fields.
///
/// # Errors
/// Malformed JSON.
pub(crate) fn indent(json: &[u8]) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    serde_transcode::transcode(&mut deserializer, &mut serializer).context("the daemon's answer is not JSON")?;
    Ok(String::from_utf8(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_like_dockers() {
        let headers = ["ID", "STATUS", "NAME"].map(str::to_owned);
        let rows = [vec!["0123456789ab".to_owned(), "Ready".into(), "x".into()]];
        assert_eq!(table(&headers, &rows), "ID             STATUS    NAME\n0123456789ab   Ready     x\n");
    }

    #[test]
    fn json_keeps_its_order() {
        assert_eq!(indent(br#"[{"b":1,"a":[]}]"#).unwrap(), "[\n    {\n        \"b\": 1,\n        \"a\": []\n    }\n]");
    }

    #[test]
    fn headers_split_words() {
        assert_eq!(header_of("CurrentState"), "CURRENT STATE");
        assert_eq!(header_of("ID"), "ID");
    }
}
