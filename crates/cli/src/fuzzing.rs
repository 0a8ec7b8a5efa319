//! What fuzzers feed: templates of `--format`.

use crate::template::Format;

/// Parses a template and fills it in.
pub fn format(text: &str) {
    let value = serde_json::json!({"Name": "web", "List": [1, "a", null], "Map": {"a": {"b": -1}}, "Null": null});
    if let Ok(format) = Format::parse(text) {
        let _ = format.render(&value);
    }
}
