//! What a user calls an object: its id, its name, or the beginning of its id.

use skep_model::{Error, Result};

/// Finds the one object that `text` means. `what` is the word in the error (`service`).
pub(crate) fn resolve<'a, T>(
    what: &str,
    text: &str,
    objects: impl Iterator<Item = &'a T>,
    id: impl Fn(&T) -> &str,
    is_named: impl Fn(&T, &str) -> bool,
) -> Result<&'a T> {
    let mut named = Vec::new();
    let mut begun = Vec::new();
    for object in objects.filter(|_| !text.is_empty()) {
        if id(object) == text {
            return Ok(object);
        }
        if is_named(object, text) {
            named.push(object);
        } else if id(object).starts_with(text) {
            begun.push(object);
        }
    }
    let matches = if named.is_empty() { begun } else { named };
    match matches[..] {
        [] => Err(Error::not_found(format!("{what} {text} not found"))),
        [one] => Ok(one),
        [_, _, ..] => Err(Error::invalid(format!("{what} {text} is ambiguous ({} matches found)", matches.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (id, name)
    const OBJECTS: [(&str, &str); 4] = [("abc1", "web"), ("abd2", "db"), ("web", "other"), ("xyz", "db")];

    fn check(text: &str, expect: Result<&str, &str>) {
        let found = resolve("service", text, OBJECTS.iter(), |object| object.0, |object, name| object.1 == name);
        let found = found.map(|object| object.0).map_err(|error| error.message);
        assert_eq!(found, expect.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn id_goes_before_name_and_name_before_prefix() {
        check("abc1", Ok("abc1"));
        check("web", Ok("web"));
        check("other", Ok("web"));
        check("abc", Ok("abc1"));
        check("x", Ok("xyz"));
    }

    #[test]
    fn errors_are_the_references() {
        check("nosuch", Err("service nosuch not found"));
        check("", Err("service  not found"));
        check("ab", Err("service ab is ambiguous (2 matches found)"));
        check("db", Err("service db is ambiguous (2 matches found)"));
    }
}
