//! The `changes` of import and commit: Dockerfile instructions that only touch the config.

use skep_model::container::ContainerConfig;
use skep_model::{Error, Result};

/// Applies instructions, one or more lines each, in order.
///
/// # Errors
/// An instruction that is unknown, malformed or does not belong here.
pub(crate) fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        apply_one(config, &word.to_ascii_uppercase(), rest.trim())?;
    }
    Ok(())
}

fn apply_one(config: &mut ContainerConfig, word: &str, rest: &str) -> Result<()> {
    if rest.is_empty() && !matches!(word, "CMD" | "ENTRYPOINT") {
        return Err(Error::invalid(format!("{word} requires at least one argument")));
    }
    match word {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest));
        }
        "ENV" => {
            for (key, value) in pairs(word, rest)? {
                let prefix = format!("{key}=");
                config.env.retain(|line| !line.starts_with(&prefix));
                config.env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(word, rest)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config.exposed_ports.insert(crate::json::config::parse_port(port)?);
            }
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => {
            config.working_dir = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", config.working_dir.trim_end_matches('/'))
            };
        }
        "VOLUME" => config.volumes.extend(json_list(rest).unwrap_or_else(|| words(rest))),
        "STOPSIGNAL" => config.stop_signal = rest.to_owned(),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        other => return Err(Error::invalid(format!("{other} is not a valid change command"))),
    }
    Ok(())
}

/// The JSON form as it is, the other one through a shell.
fn command(rest: &str) -> Vec<String> {
    match json_list(rest) {
        Some(list) => list,
        None if rest.is_empty() => vec![],
        None => vec!["/bin/sh".into(), "-c".into(), rest.into()],
    }
}

fn json_list(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok()).flatten()
}

/// `key=value ...`, or the old `key value`.
fn pairs(word: &str, rest: &str) -> Result<Vec<(String, String)>> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{word} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |text: String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Error::invalid(format!("Syntax error - can't find = in {text:?}. Must be of the form: name=value"))
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    words(rest).into_iter().map(pair).collect()
}

/// Splits at blanks outside quotes; a backslash takes the next character as it is.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => (quote, begun) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, None) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        all.push(word);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig { env: vec!["A=0".into()], ..ContainerConfig::default() };
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn instructions_change_the_config() {
        let config = changed(&[
            r#"CMD ["sh"]"#,
            "entrypoint echo hi",
            r#"ENV A=1 B="two words""#,
            "ENV C three four",
            "LABEL x=y",
            "EXPOSE 80 53/udp",
            "WORKDIR /a\nWORKDIR b",
            "VOLUME /v /w",
            "USER 1:2",
            "STOPSIGNAL SIGINT",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap(), ["sh"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["A=1", "B=two words", "C=three four"]);
        assert_eq!((config.labels["x"].as_str(), config.exposed_ports.len()), ("y", 2));
        assert_eq!((config.working_dir.as_str(), config.volumes.len()), ("/a/b", 2));
    }

    #[test]
    fn others_are_refused() {
        for bad in ["RUN ls", "COPY a b", "ENV", "ENV A", "EXPOSE x", "LABEL =v x=y"] {
            assert!(changed(&[bad]).is_err(), "{bad}");
        }
    }
}
