//! From text to logical lines, exactly as Docker joins them: parser directives at the
//! top, comments and blank lines gone, continuations joined, here-documents attached.

use super::ParseError;

/// Bytes a Dockerfile may have; a larger one is a mistake or an attack.
pub(crate) const DOCKERFILE_BYTES_MAX: u64 = 1 << 20;

/// One instruction as text, before its syntax is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it starts, counted from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// The body of a `<<NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) name: String,
    pub(crate) content: String,
    /// Variables are expanded unless the name was quoted.
    pub(crate) expand: bool,
    /// `<<-`: leading tabs were taken off.
    pub(crate) strip_tabs: bool,
}

/// The logical lines and the escape character.
pub(crate) fn split(text: &str) -> Result<(Vec<Line>, char), ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = text.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
    let mut escape = '\\';
    let mut escape_seen = false;
    while let Some(&(number, line)) = source.peek() {
        let Some((key, value)) = directive(line) else { break };
        if key.eq_ignore_ascii_case("escape") {
            if escape_seen {
                return Err(ParseError::at(number, "only one escape parser directive can be used"));
            }
            escape_seen = true;
            escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => return Err(ParseError::at(number, format!("invalid ESCAPE '{value}'. Must be ` or \\"))),
            };
        }
        source.next();
    }

    let mut lines = Vec::new();
    while let Some((number, first)) = source.next() {
        let first = first.trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut joined, mut open) = strip_continuation(first, escape);
        while open {
            let Some((_, next)) = source.next() else { break };
            let trimmed = next.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (part, more) = strip_continuation(next, escape);
            joined.push_str(&part);
            open = more;
        }
        let text = joined.trim().to_owned();
        if text.is_empty() {
            continue;
        }
        let mut heredocs = openings(&text);
        for heredoc in &mut heredocs {
            read_body(heredoc, &mut source).ok_or_else(|| {
                ParseError::at(number, format!("unterminated heredoc: no line is {:?}", heredoc.name))
            })?;
        }
        lines.push(Line { number, text, heredocs });
    }
    Ok((lines, escape))
}

/// `# key=value`
fn directive(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    (word && !value.is_empty()).then_some((key, value))
}

/// The line without its trailing escape, and whether there was one. A doubled escape is text.
fn strip_continuation(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

fn read_body<'a>(heredoc: &mut Heredoc, source: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<()> {
    for (_, line) in source {
        let line = if heredoc.strip_tabs { line.trim_start_matches('\t') } else { line };
        if line == heredoc.name {
            return Some(());
        }
        heredoc.content.push_str(line);
        heredoc.content.push('\n');
    }
    None
}

/// The `<<NAME` words of a RUN, COPY or ADD (also below ONBUILD), with empty bodies.
fn openings(text: &str) -> Vec<Heredoc> {
    let mut words = text.split_whitespace();
    let mut keyword = words.next().unwrap_or_default();
    if keyword.eq_ignore_ascii_case("ONBUILD") {
        keyword = words.next().unwrap_or_default();
    }
    if !["RUN", "COPY", "ADD"].iter().any(|known| keyword.eq_ignore_ascii_case(known)) {
        return Vec::new();
    }
    shell_words(text).iter().filter_map(|word| opening(word)).collect()
}

fn opening(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    if name.is_empty() || name.contains(['<', '/']) {
        return None;
    }
    let expand = name.len() == rest.len();
    Some(Heredoc { name, content: String::new(), expand, strip_tabs })
}

/// Words split at unquoted white space, quotes kept.
fn shell_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(q) if q == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().expect("starts with one word and only grows").push(c);
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: &[(usize, &str)]) {
        let (lines, _) = split(input).unwrap();
        let got: Vec<_> = lines.iter().map(|l| (l.number, l.text.as_str())).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn comments_and_blank_lines_vanish_and_numbers_stay() {
        check("# c\n\nFROM a\r\n  # d\n  RUN b\n", &[(3, "FROM a"), (5, "RUN b")]);
    }

    #[test]
    fn continuations_join_over_comments_and_blank_lines() {
        check(
            "FROM a\nRUN x && \\\n# why\n\n   y \\  \n  z\nCMD q",
            &[(1, "FROM a"), (2, "RUN x &&    y   z"), (7, "CMD q")],
        );
        check("RUN a\\\\\nCMD b", &[(1, "RUN a\\\\"), (2, "CMD b")]);
        check("RUN a \\", &[(1, "RUN a")]);
    }

    #[test]
    fn the_escape_directive_changes_the_continuation() {
        check("# escape=`\nRUN dir c:\\ `\n  x", &[(2, "RUN dir c:\\   x")]);
        assert!(split("# escape=x\nFROM a").is_err());
        // After any other line it is a comment.
        check("# hello\n# escape=`\nRUN a \\\n b", &[(3, "RUN a  b")]);
    }

    #[test]
    fn heredocs_belong_to_their_line() {
        let (lines, _) =
            split("FROM a\nRUN cat <<EOF > /x\nhello $y\n# kept\nEOF\nCOPY <<-'B' /b\n\tt\n\tB\nCMD x").unwrap();
        assert_eq!(lines[1].text, "RUN cat <<EOF > /x");
        assert_eq!(lines[1].heredocs[0].content, "hello $y\n# kept\n");
        assert!(lines[1].heredocs[0].expand);
        assert_eq!(lines[2].heredocs[0].content, "t\n");
        assert!(!lines[2].heredocs[0].expand);
        assert_eq!(lines[3].number, 9);
        assert!(split("FROM a\nRUN <<EOF\nx").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn only_run_copy_and_add_open_heredocs() {
        check("ENV a=<<EOF\nRUN echo $((1<<2))", &[(1, "ENV a=<<EOF"), (2, "RUN echo $((1<<2))")]);
    }
}
