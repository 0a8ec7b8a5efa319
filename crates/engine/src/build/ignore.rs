//! `.dockerignore`: which files of the context do not exist for the build. Pure.

use super::pattern::Pattern;

/// Bytes a `.dockerignore` may have.
pub(crate) const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// The rules of one file, in order; the last that matches decides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    /// `!pattern`: what matches is wanted after all.
    exception: bool,
}

/// The rules of a file as clean patterns in order; `!` stands before an exception.
///
/// # Errors
/// Names the malformed pattern.
pub(crate) fn patterns(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut patterns = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.trim();
        let (mark, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if pattern.is_empty() {
            if !mark.is_empty() {
                return Err("illegal exclusion pattern: \"!\"".into());
            }
            continue;
        }
        let cleaned = clean(pattern);
        if Pattern::compile(&cleaned, true).is_none() {
            return Err(format!("error parsing .dockerignore: syntax error in pattern: {pattern}"));
        }
        patterns.push(format!("{mark}{cleaned}"));
    }
    Ok(patterns)
}

impl Ignore {
    /// The error names the malformed pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rules = patterns(text)?.into_iter().filter_map(|text| {
            let exception = text.starts_with('!');
            let pattern = Pattern::compile(text.trim_start_matches('!'), true)?;
            Some(Rule { pattern, exception })
        });
        Ok(Self { rules: rules.collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the relative path, or a directory above it, is excluded.
    pub(crate) fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for rule in &self.rules {
            // A rule can only matter when it would turn the answer.
            if rule.exception == excluded && with_parents(path).any(|prefix| rule.pattern.matches(prefix)) {
                excluded = !rule.exception;
            }
        }
        excluded
    }
}

/// The path's parents from the top, and the path.
fn with_parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).chain(std::iter::once(path))
}

/// Lexical cleaning as Go's: no `.`, no doubled slashes, `..` resolved, no leading slash.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(rules: &str, excluded: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(rules).unwrap();
        for path in excluded {
            assert!(ignore.excludes(path), "{rules:?} should exclude {path}");
        }
        for path in kept {
            assert!(!ignore.excludes(path), "{rules:?} should keep {path}");
        }
    }

    #[test]
    fn plain_patterns_exclude_a_path_and_all_below() {
        check(
            "node_modules\n/build/",
            &["node_modules", "node_modules/a/b", "build/x"],
            &["src/node_modules", "builds"],
        );
        check("./a/../b", &["b"], &["a"]);
    }

    #[test]
    fn the_last_match_decides() {
        check("*.md\n!README.md", &["a.md"], &["README.md", "sub/a.md"]);
        check("*.md\n!README*.md\nREADME-secret.md", &["README-secret.md"], &["README.md"]);
        check("*\n!src\n!src/**", &["a", "b/c"], &["src", "src/x/y"]);
    }

    #[test]
    fn double_stars_span_directories() {
        check("**/*.log\n!keep/**/x.log", &["a.log", "a/b/c.log", "keep/y.log"], &["keep/x.log", "keep/a/x.log"]);
        check("a/**", &["a/b"], &["b"]);
    }

    #[test]
    fn comments_blank_lines_and_the_byte_order_mark_do_not_count() {
        check("\u{feff}# no\n\n  a  \r\n", &["a"], &["# no"]);
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse("[").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(rules in "([!#]?[a-c*?/\\[\\].]{0,8}\n){0,5}|.{0,40}", path in "[a-c/.]{0,12}|.{0,12}") {
            if let Ok(ignore) = Ignore::parse(&rules) {
                ignore.excludes(&path);
            }
        }
    }
}
