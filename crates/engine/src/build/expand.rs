//! Variable expansion and quote removal in Dockerfile words, as Docker's own small shell
//! does it. Pure.

/// Deepest nesting of `${a:-${b:-...}}`.
const DEPTH_MAX: usize = 64;
/// Characters an expanded word may have: `ENV a=$a$a` doubles with every line.
const EXPANDED_LENGTH_MAX: usize = 1 << 20;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    #[error("unexpected end of statement while looking for matching {0}")]
    Unterminated(&'static str),
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${x?text}` with x unset.
    #[error("{0}: {1}")]
    Required(String, String),
    #[error("variables are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("the expanded text has more than {EXPANDED_LENGTH_MAX} characters")]
    TooLong,
}

/// A variable's value; `None` is unset.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands variables and removes quotes and escapes.
pub(crate) fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, ExpandError> {
    let mut expander = Expander::new(text, escape, lookup);
    expander.until(None)?;
    Ok(expander.out.text)
}

/// Like [`word`]; unquoted blanks, also those that come from variables, separate words.
pub(crate) fn words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, ExpandError> {
    let mut expander = Expander::new(text, escape, lookup);
    expander.until(None)?;
    expander.out.end_word();
    Ok(expander.out.words)
}

/// Expands variables only; quotes and other escapes stay. For here-documents.
pub(crate) fn text(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, ExpandError> {
    let mut expander = Expander::new(text, escape, lookup);
    while let Some(c) = expander.peek(0) {
        match c {
            '$' => expander.dollar(true)?,
            c if c == escape && matches!(expander.peek(1), Some(next) if next == '$' || next == escape) => {
                expander.position += 1;
                expander.literal()?;
            }
            _ => expander.literal()?,
        }
    }
    Ok(expander.out.text)
}

/// Output so far, as one text and as words.
#[derive(Default)]
struct Out {
    text: String,
    words: Vec<String>,
    word: Option<String>,
}

impl Out {
    fn push(&mut self, text: &str, quoted: bool) -> Result<(), ExpandError> {
        if self.text.len() + text.len() > EXPANDED_LENGTH_MAX {
            return Err(ExpandError::TooLong);
        }
        self.text.push_str(text);
        if quoted {
            self.word.get_or_insert_default().push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.word.get_or_insert_default().push(c);
            }
        }
        Ok(())
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }
}

struct Expander<'a> {
    characters: Vec<char>,
    position: usize,
    depth: usize,
    escape: char,
    lookup: Lookup<'a>,
    out: Out,
}

impl<'a> Expander<'a> {
    fn new(text: &str, escape: char, lookup: Lookup<'a>) -> Self {
        Self { characters: text.chars().collect(), position: 0, depth: 0, escape, lookup, out: Out::default() }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.position + ahead).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.position += 1;
        Some(c)
    }

    /// Takes one character as it is.
    fn literal(&mut self) -> Result<(), ExpandError> {
        match self.next() {
            Some(c) => self.out.push(c.encode_utf8(&mut [0; 4]), true),
            None => Ok(()),
        }
    }

    /// Expands up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<(), ExpandError> {
        while let Some(c) = self.peek(0) {
            match c {
                c if Some(c) == stop => {
                    self.position += 1;
                    return Ok(());
                }
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '$' => self.dollar(false)?,
                c if c == self.escape => {
                    self.position += 1;
                    self.literal()?;
                }
                c => {
                    self.position += 1;
                    self.out.push(c.encode_utf8(&mut [0; 4]), false)?;
                }
            }
        }
        if stop.is_some() { Err(ExpandError::MissingBrace) } else { Ok(()) }
    }

    fn single_quoted(&mut self) -> Result<(), ExpandError> {
        self.position += 1;
        self.out.push("", true)?;
        loop {
            match self.peek(0) {
                Some('\'') => break,
                Some(_) => self.literal()?,
                None => return Err(ExpandError::Unterminated("single-quote")),
            }
        }
        self.position += 1;
        Ok(())
    }

    fn double_quoted(&mut self) -> Result<(), ExpandError> {
        self.position += 1;
        self.out.push("", true)?;
        loop {
            match self.peek(0) {
                Some('"') => break,
                Some('$') => self.dollar(true)?,
                Some(c) if c == self.escape => {
                    // Only what means something in double quotes can be escaped.
                    if self.peek(1).is_some_and(|next| matches!(next, '"' | '$') || next == self.escape) {
                        self.position += 1;
                    }
                    self.literal()?;
                }
                Some(_) => self.literal()?,
                None => return Err(ExpandError::Unterminated("double-quote")),
            }
        }
        self.position += 1;
        Ok(())
    }

    fn dollar(&mut self, quoted: bool) -> Result<(), ExpandError> {
        self.position += 1;
        if self.peek(0) == Some('{') {
            self.position += 1;
            let value = self.braces()?;
            return self.out.push(&value, quoted);
        }
        let name = self.name();
        if name.is_empty() {
            return self.out.push("$", true);
        }
        let value = (self.lookup)(&name).unwrap_or_default();
        self.out.push(&value, quoted)
    }

    /// A variable's name, a number, or one of the special characters.
    fn name(&mut self) -> String {
        let Some(first) = self.peek(0) else { return String::new() };
        if "@*#?-!".contains(first) {
            self.position += 1;
            return first.to_string();
        }
        let belongs: fn(char) -> bool = match first {
            c if c.is_ascii_digit() => |c| c.is_ascii_digit(),
            c if c.is_alphabetic() || c == '_' => |c| c.is_alphanumeric() || c == '_',
            _ => return String::new(),
        };
        let mut name = String::new();
        while let Some(c) = self.peek(0).filter(|c| belongs(*c)) {
            self.position += 1;
            name.push(c);
        }
        name
    }

    /// What `${...}` stands for; the opening is consumed.
    fn braces(&mut self) -> Result<String, ExpandError> {
        match self.peek(0) {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let value = (self.lookup)(&name);
        let Some(operator) = self.next() else { return Err(ExpandError::MissingBrace) };
        match operator {
            '}' => Ok(value.unwrap_or_default()),
            ':' => match self.next() {
                Some(modifier @ ('-' | '+' | '?')) => {
                    self.alternative(&name, value.filter(|v| !v.is_empty()), modifier)
                }
                Some(other) => Err(ExpandError::Modifier(format!(":{other}"))),
                None => Err(ExpandError::MissingBrace),
            },
            '-' | '+' | '?' => self.alternative(&name, value, operator),
            '#' | '%' => {
                let longest = self.peek(0) == Some(operator);
                if longest {
                    self.position += 1;
                }
                let pattern = self.pattern(None)?;
                Ok(trim(&value.unwrap_or_default(), &pattern, operator == '#', longest))
            }
            '/' => {
                let all = self.peek(0) == Some('/');
                if all {
                    self.position += 1;
                }
                let pattern = self.pattern(Some('/'))?;
                let replacement = self.nested()?;
                Ok(replace(&value.unwrap_or_default(), &pattern, &replacement, all))
            }
            other => Err(ExpandError::Modifier(other.to_string())),
        }
    }

    fn alternative(&mut self, name: &str, value: Option<String>, modifier: char) -> Result<String, ExpandError> {
        let word = self.nested()?;
        match (modifier, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('?', None) => {
                let message = if word.is_empty() { "is not allowed to be unset".to_owned() } else { word };
                Err(ExpandError::Required(name.to_owned(), message))
            }
            (_, None) => Ok(word),
        }
    }

    /// Expands up to the closing brace, apart from the output so far.
    fn nested(&mut self) -> Result<String, ExpandError> {
        if self.depth == DEPTH_MAX {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let outer = std::mem::take(&mut self.out);
        let result = self.until(Some('}'));
        self.depth -= 1;
        let inner = std::mem::replace(&mut self.out, outer);
        result.map(|()| inner.text)
    }

    /// A shell pattern up to the closing brace, or up to `stop`.
    fn pattern(&mut self, stop: Option<char>) -> Result<Vec<Token>, ExpandError> {
        let mut tokens = Vec::new();
        loop {
            match self.next().ok_or(ExpandError::MissingBrace)? {
                c if Some(c) == stop => return Ok(tokens),
                '}' if stop.is_none() => return Ok(tokens),
                '}' => return Err(ExpandError::BadSubstitution),
                '*' => tokens.push(Token::Any),
                '?' => tokens.push(Token::One),
                c if c == self.escape => {
                    tokens.push(Token::Literal(self.next().ok_or(ExpandError::MissingBrace)?));
                }
                '$' => {
                    self.position -= 1;
                    let outer = std::mem::take(&mut self.out);
                    let result = self.dollar(true);
                    let inner = std::mem::replace(&mut self.out, outer);
                    result?;
                    tokens.extend(inner.text.chars().map(Token::Literal));
                }
                c => tokens.push(Token::Literal(c)),
            }
        }
    }
}

enum Token {
    Literal(char),
    One,
    Any,
}

/// Ends (character counts, ascending) at which a prefix of `text` matches the whole pattern.
fn prefix_matches(text: &[char], pattern: &[Token]) -> Vec<usize> {
    let mut reachable = vec![false; text.len() + 1];
    reachable[0] = true;
    for token in pattern {
        let mut next = vec![false; text.len() + 1];
        for (at, _) in reachable.iter().enumerate().filter(|(_, yes)| **yes) {
            match token {
                Token::Any => {
                    next[at..].fill(true);
                    break;
                }
                Token::One if at < text.len() => next[at + 1] = true,
                Token::Literal(c) if text.get(at) == Some(c) => next[at + 1] = true,
                Token::One | Token::Literal(_) => {}
            }
        }
        reachable = next;
    }
    reachable.iter().enumerate().filter(|(_, yes)| **yes).map(|(end, _)| end).collect()
}

fn trim(value: &str, pattern: &[Token], at_start: bool, longest: bool) -> String {
    let characters: Vec<char> = value.chars().collect();
    let kept = if at_start {
        let ends = prefix_matches(&characters, pattern);
        let end = if longest { ends.last() } else { ends.first() };
        &characters[end.copied().unwrap_or(0)..]
    } else {
        let mut starts = (0..=characters.len())
            .filter(|&start| prefix_matches(&characters[start..], pattern).last() == Some(&(characters.len() - start)));
        let start = if longest { starts.next() } else { starts.next_back() };
        &characters[..start.unwrap_or(characters.len())]
    };
    kept.iter().collect()
}

fn replace(value: &str, pattern: &[Token], replacement: &str, all: bool) -> String {
    let characters: Vec<char> = value.chars().collect();
    let mut result = String::new();
    let mut at = 0;
    while at < characters.len() {
        match prefix_matches(&characters[at..], pattern).last() {
            Some(&length) if length > 0 => {
                result.push_str(replacement);
                at += length;
                if !all {
                    break;
                }
            }
            _ => {
                result.push(characters[at]);
                at += 1;
            }
        }
    }
    result.extend(&characters[at..]);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "x" => Some("value".into()),
            "path" => Some("/usr/local/lib.tar.gz".into()),
            "two" => Some("a b".into()),
            "empty" => Some(String::new()),
            _ => None,
        }
    }

    fn check(input: &str, expect: &str) {
        assert_eq!(word(input, '\\', &lookup), Ok(expect.to_owned()), "{input}");
    }

    fn check_words(input: &str, expect: &[&str]) {
        assert_eq!(words(input, '\\', &lookup).unwrap(), expect, "{input}");
    }

    #[test]
    fn variables() {
        check("$x", "value");
        check("a${x}b", "avalueb");
        check("$x/$nope/$x", "value//value");
        check("$xy", "");
        check("a$", "a$");
        check("$.", "$.");
        check("$1 $#", " ");
    }

    #[test]
    fn defaults_and_alternatives() {
        check("${nope:-d}", "d");
        check("${empty:-d}", "d");
        check("${empty-d}", "");
        check("${x:-d}", "value");
        check("${x:+set}", "set");
        check("${nope:+set}", "");
        check("${empty+set}", "set");
        check("${nope:-${x}}", "value");
        check("${nope:-a b}", "a b");
        assert_eq!(word("${nope:?gone}", '\\', &lookup).unwrap_err().to_string(), "nope: gone");
        check("${x:?gone}", "value");
    }

    #[test]
    fn prefixes_suffixes_and_replacement() {
        check("${path#*/}", "usr/local/lib.tar.gz");
        check("${path##*/}", "lib.tar.gz");
        check("${path%.*}", "/usr/local/lib.tar");
        check("${path%%.*}", "/usr/local/lib");
        check("${x#v?}", "lue");
        check("${x%zzz}", "value");
        check("${path/l/L}", "/usr/Local/lib.tar.gz");
        check("${path//l/L}", "/usr/LocaL/Lib.tar.gz");
    }

    #[test]
    fn quotes_and_escapes() {
        check("'$x'", "$x");
        check("\"$x\"", "value");
        check("\\$x", "$x");
        check("\"a\\b\\\"\\$x\"", "a\\b\"$x");
        check("a\\ b", "a b");
        check("'a b' c", "a b c");
        check("ends\\", "ends");
        assert_eq!(word("`$x", '`', &lookup), Ok("$x".into()));
    }

    #[test]
    fn words_split_at_unquoted_blanks_also_from_variables() {
        check_words("$two c", &["a", "b", "c"]);
        check_words("\"$two\" c", &["a b", "c"]);
        check_words("''", &[""]);
        check_words("$nope", &[]);
    }

    #[test]
    fn heredoc_text_keeps_its_quotes() {
        assert_eq!(text("'$x' \"a\" \\$x \\n", '\\', &lookup), Ok("'value' \"a\" $x \\n".into()));
    }

    #[test]
    fn broken_words_are_errors() {
        for (input, expect) in [
            ("'a", "unexpected end of statement while looking for matching single-quote"),
            ("\"a", "unexpected end of statement while looking for matching double-quote"),
            ("${x", "syntax error: missing '}'"),
            ("${x:-a", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${x:=a}", "unsupported modifier (:=) in substitution"),
        ] {
            assert_eq!(word(input, '\\', &lookup).unwrap_err().to_string(), expect, "{input}");
        }
        assert_eq!(word(&"${a:-".repeat(1000), '\\', &lookup), Err(ExpandError::TooDeep));
        let huge = |_: &str| Some("x".repeat(EXPANDED_LENGTH_MAX));
        assert_eq!(word("$a$a", '\\', &huge), Err(ExpandError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_panics(input in "[a-z$ {}:#%/?*'\"\\\\+-]{0,40}|.{0,40}") {
            let _ = word(&input, '\\', &lookup);
            let _ = words(&input, '`', &lookup);
            let _ = text(&input, '\\', &lookup);
        }
    }
}
