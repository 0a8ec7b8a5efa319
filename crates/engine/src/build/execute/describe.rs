//! The words of the history, as Docker writes them. Pure.

use crate::build::args::BuildArgs;
use std::collections::BTreeMap;

/// `/bin/sh -c #(nop) WORKDIR /x`; settings have one blank more, which is in `comment`.
pub(super) fn no_operation(shell: &[String], comment: &str) -> String {
    format!("{} #(nop) {comment}", shell.join(" "))
}

/// A RUN with the build arguments that decide about its result.
pub(super) fn run(command: &[String], args: &BuildArgs, visible: &BTreeMap<String, String>) -> String {
    let recorded: Vec<String> = visible
        .iter()
        .filter(|(name, _)| args.is_recorded(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let command = command.join(" ");
    if recorded.is_empty() { command } else { format!("|{} {} {command}", recorded.len(), recorded.join(" ")) }
}

/// A list as Go's `%q` prints it.
pub(super) fn quoted_list(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// A string as Go's `%q` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_look_like_gos() {
        let words = ["httpd".to_owned(), "-f \"x\"".to_owned(), "\u{1}".to_owned()];
        assert_eq!(quoted_list(&words), r#"["httpd" "-f \"x\"" "\x01"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn arguments_stand_before_the_command() {
        let mut args = BuildArgs::new(&[("b".to_owned(), Some("2".to_owned()))].into(), "");
        args.declare("b", None);
        let command = ["/bin/sh".to_owned(), "-c".to_owned(), "make".to_owned()];
        assert_eq!(run(&command, &args, &args.visible(&[])), "|1 b=2 /bin/sh -c make");
    }
}
