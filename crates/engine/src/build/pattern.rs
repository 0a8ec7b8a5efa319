//! File name patterns as Go matches them: `*` and `?` stay within one name, `[a-z]`,
//! `\` escapes; in `.dockerignore`, `**` spans directories. Pure.

/// A compiled pattern for slash-separated relative paths.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Debug, Clone)]
enum Token {
    Literal(char),
    One,
    Star,
    /// `**` at the end: the rest, whatever it is.
    Rest,
    /// `**` elsewhere: nothing, or anything up to and with a slash.
    Directories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// `deep` gives `**` its meaning. `None` for a malformed pattern.
    pub(crate) fn compile(text: &str, deep: bool) -> Option<Self> {
        let characters: Vec<char> = text.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = characters.get(at) {
            at += 1;
            match c {
                '*' if deep && characters.get(at) == Some(&'*') => {
                    while characters.get(at) == Some(&'*') {
                        at += 1;
                    }
                    if characters.get(at) == Some(&'/') {
                        at += 1;
                    }
                    tokens.push(if at == characters.len() { Token::Rest } else { Token::Directories });
                }
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::One),
                '\\' => {
                    tokens.push(Token::Literal(*characters.get(at)?));
                    at += 1;
                }
                '[' => {
                    let (class, end) = class(&characters, at)?;
                    tokens.push(class);
                    at = end;
                }
                c => tokens.push(Token::Literal(c)),
            }
        }
        Some(Self(tokens))
    }

    /// Whether the whole path matches. Takes time in the product of both lengths.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let mut reachable = vec![false; path.len() + 1];
        reachable[0] = true;
        for token in &self.0 {
            let mut next = vec![false; path.len() + 1];
            for at in (0..=path.len()).filter(|at| reachable[*at]) {
                token.advance(&path, at, &mut next);
            }
            reachable = next;
        }
        reachable[path.len()]
    }
}

impl Token {
    /// Marks where matching may go on when this token starts at `at`.
    fn advance(&self, path: &[char], at: usize, next: &mut [bool]) {
        let here = path.get(at).copied();
        match self {
            Self::Literal(c) if here == Some(*c) => next[at + 1] = true,
            Self::One if here.is_some_and(|c| c != '/') => next[at + 1] = true,
            Self::Class { negated, ranges } if here.is_some_and(|c| c != '/') => {
                let inside = here.is_some_and(|c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)));
                if inside != *negated {
                    next[at + 1] = true;
                }
            }
            Self::Star => {
                let end = path[at..].iter().position(|c| *c == '/').map_or(path.len(), |length| at + length);
                next[at..=end].fill(true);
            }
            Self::Rest => next[at..].fill(true),
            Self::Directories => {
                next[at] = true;
                for slash in (at..path.len()).filter(|index| path[*index] == '/') {
                    next[slash + 1] = true;
                }
            }
            Self::Literal(_) | Self::One | Self::Class { .. } => {}
        }
    }
}

/// The class whose first character is at `at`, and where it ends.
fn class(characters: &[char], mut at: usize) -> Option<(Token, usize)> {
    let negated = characters.get(at) == Some(&'^');
    if negated {
        at += 1;
    }
    let mut ranges = Vec::new();
    loop {
        if characters.get(at)? == &']' && !ranges.is_empty() {
            return Some((Token::Class { negated, ranges }, at + 1));
        }
        let (low, after) = class_character(characters, at)?;
        at = after;
        let mut high = low;
        if characters.get(at) == Some(&'-') {
            (high, at) = class_character(characters, at + 1)?;
        }
        ranges.push((low, high));
    }
}

fn class_character(characters: &[char], at: usize) -> Option<(char, usize)> {
    match characters.get(at)? {
        '-' | ']' => None,
        '\\' => Some((*characters.get(at + 1)?, at + 2)),
        c => Some((*c, at + 1)),
    }
}

/// Whether the text has pattern characters at all.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::compile(pattern, true).unwrap();
        for path in yes {
            assert!(compiled.matches(path), "{pattern} should match {path}");
        }
        for path in no {
            assert!(!compiled.matches(path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn stars_stay_within_a_name_and_double_stars_do_not() {
        check("*.md", &["a.md", ".md"], &["a/b.md", "a.mdx"]);
        check("*/b", &["a/b"], &["b", "a/a/b"]);
        check("**/b", &["b", "a/b", "a/a/b"], &["ab"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "b"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab"]);
        check("**", &["a", "a/b"], &[]);
        check("a?c", &["abc"], &["ac", "a/c"]);
    }

    #[test]
    fn classes_and_escapes() {
        check("[a-c]x", &["ax", "cx"], &["dx", "x"]);
        check("[^a]", &["b"], &["a", "/"]);
        check("\\*", &["*"], &["a"]);
        for bad in ["[", "[a", "[]", "[a-]", "\\", "[-]"] {
            assert!(Pattern::compile(bad, true).is_none(), "{bad}");
        }
    }

    #[test]
    fn many_stars_stay_fast() {
        let pattern = Pattern::compile(&"*a".repeat(200), true).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(2000))));
    }

    proptest! {
        #[test]
        fn no_text_panics(pattern in "[a*?\\[\\]^/\\\\-]{0,20}|.{0,20}", path in ".{0,20}") {
            if let Some(compiled) = Pattern::compile(&pattern, true) {
                compiled.matches(&path);
            }
        }
    }
}
