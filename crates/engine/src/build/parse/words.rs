//! Splitting `name=value` lists the way Docker does. Quotes and escapes stay: the
//! expansion takes them off.

/// The pairs of `ENV` or `LABEL`, also in the old form `ENV name the rest`.
pub(crate) fn pairs(keyword: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = split(rest, escape);
    let Some(first) = words.first() else { return Err(format!("{keyword} requires at least one argument")) };
    if !first.contains('=') {
        let Some((name, value)) = rest.trim().split_once(char::is_whitespace) else {
            return Err(format!("{keyword} must have two arguments"));
        };
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    words.iter().map(|word| pair(keyword, word)).collect()
}

fn pair(keyword: &str, word: &str) -> Result<(String, String), String> {
    match word.split_once('=') {
        Some(("", _)) => Err(format!("{keyword} names can not be blank")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
    }
}

/// The names of `ARG`, each with its default if it has one.
pub(crate) fn optional_pairs(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = split(rest, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".into());
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".into()),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        })
        .collect()
}

/// Fields between commas; a field in double quotes may contain commas, and a doubled quote is one.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut characters = text.chars().peekable();
    let mut is_quoted = false;
    while let Some(c) = characters.next() {
        let field = fields.last_mut().expect("starts with one field and only grows");
        match c {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            '"' => return Err(format!("a bare quote in {text:?}")),
            ',' if !is_quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if is_quoted { Err(format!("a quote is not closed in {text:?}")) } else { Ok(fields) }
}

/// Words between white space; a quoted or escaped blank does not separate.
fn split(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_default();
        if c == escape && quote != Some('\'') {
            // An escape at the very end is dropped.
            if let Some(next) = characters.next() {
                current.push(c);
                current.push(next);
            }
            continue;
        }
        match quote {
            Some(open) if open == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
        current.push(c);
    }
    words.extend(word.filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rest: &str, expect: &[(&str, &str)]) {
        let expect: Vec<_> = expect.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(pairs("ENV", rest, '\\'), Ok(expect), "{rest}");
    }

    #[test]
    fn values_keep_quotes_and_escapes() {
        check("a=b c=\"d e\" f='g h' i=j\\ k", &[("a", "b"), ("c", "\"d e\""), ("f", "'g h'"), ("i", "j\\ k")]);
        check("a=\"x\\\" y\" b=", &[("a", "\"x\\\" y\""), ("b", "")]);
        check("a=b=c", &[("a", "b=c")]);
    }

    #[test]
    fn the_old_form_takes_the_rest_of_the_line() {
        check("a b  c=d", &[("a", "b  c=d")]);
    }

    #[test]
    fn errors_are_dockers() {
        let error = |rest| pairs("ENV", rest, '\\').unwrap_err();
        assert_eq!(error("a"), "ENV must have two arguments");
        assert_eq!(error("=b"), "ENV names can not be blank");
        assert_eq!(error("a=b c"), "Syntax error - can't find = in \"c\". Must be of the form: name=value");
    }

    #[test]
    fn arg_takes_names_with_and_without_defaults() {
        let expect = vec![("a".to_owned(), None), ("b".to_owned(), Some("'c d'".to_owned()))];
        assert_eq!(optional_pairs("a b='c d'", '\\'), Ok(expect));
        assert!(optional_pairs("", '\\').is_err());
    }
}
