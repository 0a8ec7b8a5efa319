//! `$V`, `${V}`, `${V-default}`, `${V:-default}`, `${V?error}`, `${V:?error}`,
//! `${V+alternative}`, `${V:+alternative}` and `$$`.

use crate::error::{Error, Result};
use crate::tree::{Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Braces inside each other.
const DEPTH_MAX: usize = 16;
/// Bytes of one text after substitution.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of all substituted texts of one deployment.
const TOTAL_BYTES_MAX: usize = 16 << 20;

/// What substitution found out.
#[derive(Default)]
pub(crate) struct Findings {
    /// Variables that are not set and have no default.
    pub(crate) unset: BTreeSet<String>,
    bytes: usize,
}

/// Substitutes in every text of a tree, keys excepted.
///
/// # Errors
/// A malformed reference or a required variable that is missing, with its place.
pub(crate) fn apply(node: &mut Node, variables: &BTreeMap<String, String>, findings: &mut Findings) -> Result<()> {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => {
            *text = substitute(text, variables, &mut findings.unset).map_err(|message| Error::at(&node.at, message))?;
            findings.bytes += text.len();
            if findings.bytes > TOTAL_BYTES_MAX {
                let message = format!("the substituted texts exceed {TOTAL_BYTES_MAX} bytes together");
                return Err(Error::at(&node.at, message));
            }
        }
        Value::List(items) => {
            for item in items {
                apply(item, variables, findings)?;
            }
        }
        Value::Map(map) => {
            for entry in map.values_mut() {
                apply(&mut entry.node, variables, findings)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
    Ok(())
}

/// One text.
///
/// # Errors
/// The reason, for people.
pub(crate) fn substitute(
    text: &str,
    variables: &BTreeMap<String, String>,
    unset: &mut BTreeSet<String>,
) -> std::result::Result<String, String> {
    let mut scope = Scope { whole: text, variables, unset };
    let (result, rest) = scope.run(text, false, 0)?;
    debug_assert!(rest.is_empty(), "outside braces all is read");
    Ok(result)
}

struct Scope<'a> {
    whole: &'a str,
    variables: &'a BTreeMap<String, String>,
    unset: &'a mut BTreeSet<String>,
}

impl Scope<'_> {
    /// Reads to the end, or to the closing brace; gives what comes after it.
    fn run<'t>(&mut self, text: &'t str, braced: bool, depth: usize) -> std::result::Result<(String, &'t str), String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} variables inside each other"));
        }
        let mut result = String::new();
        let mut rest = text;
        loop {
            let end = rest.find(|c| c == '$' || (braced && c == '}')).unwrap_or(rest.len());
            result.push_str(&rest[..end]);
            rest = &rest[end..];
            if result.len() > TEXT_BYTES_MAX {
                return Err(format!("the text exceeds {TEXT_BYTES_MAX} bytes after substitution"));
            }
            if rest.is_empty() && braced {
                return Err(self.malformed());
            }
            if rest.is_empty() || rest.starts_with('}') {
                return Ok((result, rest));
            }
            let (value, after) = self.reference(&rest[1..], depth)?;
            result.push_str(&value);
            rest = after;
        }
    }

    /// What stands behind a dollar sign.
    fn reference<'t>(&mut self, text: &'t str, depth: usize) -> std::result::Result<(String, &'t str), String> {
        if let Some(rest) = text.strip_prefix('$') {
            return Ok(("$".to_owned(), rest));
        }
        if let Some(inside) = text.strip_prefix('{') {
            return self.braces(inside, depth);
        }
        let (name, rest) = split_name(text);
        if name.is_empty() {
            return Err(self.malformed());
        }
        Ok((self.value(name), rest))
    }

    fn braces<'t>(&mut self, text: &'t str, depth: usize) -> std::result::Result<(String, &'t str), String> {
        let (name, rest) = split_name(text);
        if name.is_empty() {
            return Err(self.malformed());
        }
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((self.value(name), rest));
        }
        let (or_empty, rest) = rest.strip_prefix(':').map_or((false, rest), |rest| (true, rest));
        let mut letters = rest.chars();
        let (Some(operator @ ('-' | '?' | '+')), rest) = (letters.next(), letters.as_str()) else {
            return Err(self.malformed());
        };
        let present = self.variables.get(name).filter(|value| !(or_empty && value.is_empty())).cloned();
        // What is not used must not be complained about.
        let used = match operator {
            '+' => present.is_some(),
            _ => present.is_none(),
        };
        let mut ignored = BTreeSet::new();
        let mut inner =
            Scope { whole: self.whole, variables: self.variables, unset: if used { self.unset } else { &mut ignored } };
        let (word, rest) = inner.run(rest, true, depth + 1)?;
        let rest = rest.strip_prefix('}').unwrap_or(rest);
        match (operator, present) {
            ('+', Some(_)) => Ok((word, rest)),
            ('+', None) => Ok((String::new(), rest)),
            ('-', None) => Ok((word, rest)),
            ('?', None) if word.is_empty() => Err(format!("required variable {name} is missing a value")),
            ('?', None) => Err(format!("required variable {name} is missing a value: {word}")),
            (_, Some(value)) => Ok((value, rest)),
            (_, None) => Ok((String::new(), rest)),
        }
    }

    fn value(&mut self, name: &str) -> String {
        match self.variables.get(name) {
            Some(value) => value.clone(),
            None => {
                self.unset.insert(name.to_owned());
                String::new()
            }
        }
    }

    fn malformed(&self) -> String {
        let mut shown: String = self.whole.chars().take(80).collect();
        if shown.len() < self.whole.len() {
            shown.push('…');
        }
        format!("invalid interpolation format: \"{shown}\": you may need to escape any $ with another $")
    }
}

fn split_name(text: &str) -> (&str, &str) {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if begins { text.split_at(end) } else { ("", text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (std::result::Result<String, String>, Vec<String>) {
        let variables = [("FULL", "f"), ("EMPTY", ""), ("_x1", "y")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut unset = BTreeSet::new();
        let result = substitute(text, &variables, &mut unset);
        (result, unset.into_iter().collect())
    }

    fn check(text: &str, expect: &str) {
        assert_eq!(run(text).0.as_deref(), Ok(expect), "{text}");
    }

    #[test]
    fn every_form() {
        for (text, expect) in [
            ("$FULL-${FULL}", "f-f"),
            ("${_x1}$$FULL", "y$FULL"),
            ("[${EMPTY-d}|${EMPTY:-d}|${NONE-d}|${NONE:-d}|${FULL-d}]", "[|d|d|d|f]"),
            ("[${EMPTY+a}|${EMPTY:+a}|${NONE+a}|${NONE:+a}|${FULL:+a}]", "[a||||a]"),
            ("${FULL?no}${FULL:?no}${EMPTY?no}", "ff"),
            ("${NONE:-${FULL}x${EMPTY:-z}}", "fxz"),
            ("${NONE:-a:b?c+d-e}", "a:b?c+d-e"),
            ("a}b", "a}b"),
            ("${NONE:-}", ""),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn required_and_malformed() {
        assert_eq!(run("${NONE?}").0, Err("required variable NONE is missing a value".into()));
        assert_eq!(run("${EMPTY:?say why}").0, Err("required variable EMPTY is missing a value: say why".into()));
        for bad in ["$", "${", "${}", "${1}", "$1", "${A", "${A!}", "${A:-b", "${ A }", "$-"] {
            assert!(run(bad).0.unwrap_err().contains("escape any $"), "{bad}");
        }
        assert!(run(&"${A:-".repeat(1000)).0.is_err());
    }

    #[test]
    fn unset_variables_are_noted_where_they_count() {
        assert_eq!(run("$A ${B} ${C-} ${FULL+$D} ${FULL-$E}").1, ["A", "B", "D"]);
    }
}
