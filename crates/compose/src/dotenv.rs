//! Files of variables: `.env` beside the compose file, and a service's `env_file`.

use crate::interpolate::substitute;
use std::collections::{BTreeMap, BTreeSet};

/// Variables of a `.env` file: quotes, comments, `export`, and references to variables
/// given before or outside.
///
/// # Errors
/// The line's number and what is wrong with it.
pub fn variables(
    text: &str,
    outside: &BTreeMap<String, String>,
) -> std::result::Result<BTreeMap<String, String>, (usize, String)> {
    let mut known = outside.clone();
    let mut found = BTreeMap::new();
    for (number, line) in lines(text) {
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, raw)) = line.split_once('=') else {
            // A name alone takes its value from outside.
            continue;
        };
        let name = name.trim();
        if !is_name(name) {
            return Err((number, format!("unexpected character in variable name \"{name}\"")));
        }
        let value = value(raw.trim(), &known).map_err(|message| (number, message))?;
        known.entry(name.to_owned()).or_insert_with(|| value.clone());
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn value(raw: &str, known: &BTreeMap<String, String>) -> std::result::Result<String, String> {
    let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let bare = raw.split(" #").next().unwrap_or_default().trim_end();
        return substitute(bare, known, &mut BTreeSet::new());
    };
    let mut text = String::new();
    let mut letters = raw[1..].chars();
    loop {
        match letters.next() {
            None => return Err("a quote is opened and never closed".into()),
            Some(c) if c == quote => break,
            Some('\\') if quote == '"' => match letters.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some('$') => text.push_str("$$"),
                Some(c) => text.push(c),
                None => return Err("a quote is opened and never closed".into()),
            },
            Some(c) => text.push(c),
        }
    }
    if quote == '"' { substitute(&text, known, &mut BTreeSet::new()) } else { Ok(text) }
}

/// Lines of a service's `env_file`, taken literally as `docker stack` takes them: a name
/// alone has no value of its own.
///
/// # Errors
/// The line's number and what is wrong with it.
pub(crate) fn literal(text: &str) -> std::result::Result<BTreeMap<String, Option<String>>, (usize, String)> {
    let mut found = BTreeMap::new();
    for (number, line) in lines(text) {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err((number, format!("no variable name on line '{line}'")));
        }
        if name.contains(char::is_whitespace) {
            return Err((number, format!("variable '{name}' contains whitespaces")));
        }
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// Lines that say something, without their indentation, counted from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.trim_start_matches('\u{feff}');
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_lines() {
        let text = "# c\nA=1\nexport B = two # no\nC=\"x $A\\n\"\nD='$A'\nE=${OUT}#\n\nF=\n";
        let outside = BTreeMap::from([("OUT".to_owned(), "o".to_owned())]);
        let found = variables(text, &outside).unwrap();
        let expect = [("A", "1"), ("B", "two"), ("C", "x 1\n"), ("D", "$A"), ("E", "o#"), ("F", "")];
        assert_eq!(found, expect.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(variables("A=\"x", &outside).unwrap_err().0, 1);
        assert_eq!(variables("\nA B=x", &outside).unwrap_err().0, 2);
    }

    #[test]
    fn literal_lines_keep_quotes() {
        let found = literal("A=\"1\"\nB\n #c\nC= x\n").unwrap();
        assert_eq!(found["A"].as_deref(), Some("\"1\""));
        assert_eq!((found["B"].as_deref(), found["C"].as_deref()), (None, Some(" x")));
        assert!(literal("A B=1").is_err() && literal("=1").is_err());
    }
}
