//! Whatever stands in a file, in a variable or on standard input: an answer within limits,
//! never a panic.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a test may measure time")]

use crate::common::Memory;
use proptest::prelude::*;
use skep_compose::{Input, LocalRequest, Request, load};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// More than any text of these tests may take, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn read(text: &str, dotenv: &str) -> Option<String> {
    let files = Memory::new(&[("/p/.env", dotenv), ("/p/f.yml", text)]);
    let request = |local| Request {
        inputs: vec![Input { path: "/p/f.yml".into(), text: None }],
        folder: "/p".into(),
        environment: BTreeMap::from([("A".to_owned(), "a".repeat(1000)), ("E".to_owned(), String::new())]),
        profiles: vec![],
        interpolate: true,
        local,
    };
    let begin = Instant::now();
    if let Ok(project) = load(&request(Some(LocalRequest::default())), &files) {
        drop(project.to_local(&files));
        drop(project.to_local_yaml());
    }
    assert!(begin.elapsed() < PATIENCE, "{:?} for {} bytes", begin.elapsed(), text.len());
    let begin = Instant::now();
    let project = load(&request(None), &files);
    let yaml = project.ok().map(|project| {
        drop(project.to_stack("s", &files));
        project.to_yaml()
    });
    assert!(begin.elapsed() < PATIENCE, "{:?} for {} bytes", begin.elapsed(), text.len());
    yaml
}

/// Pieces that mean something to a compose file, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "services:",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "web:",
        "db:",
        "image: x",
        "image: ${A:-b}",
        "ports:",
        "- ",
        "80:80",
        "'80-90:1-11'",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "&a ",
        "*a",
        "<<: ",
        "!reset ",
        "!override ",
        "extends: ",
        "web",
        "include: [f.yml]",
        "volumes:",
        "v:/v",
        "deploy:",
        "replicas: 1e9",
        "environment:",
        "A=${E?x}",
        "$",
        "${",
        "}",
        "\"",
        "'",
        "|",
        ">",
        "---",
        "depends_on: [db]",
        "secrets:",
        "networks:",
        "healthcheck:",
        "interval: 1h",
        "\t",
        "# c",
        "ünï",
        "cpus: -1",
        "mode: 0777",
        "name: ",
        "external: ",
        "true",
        "null",
        "99999999999999999999",
        "x-a: ",
        "profiles: [a]",
        "build: ",
        "network_mode: service:web",
        "links: [db]",
        "label_file: f.yml",
        "env_file: .env",
        "gpus: all",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text(text in "\\PC{0,400}", dotenv in "\\PC{0,80}") {
        read(&text, &dotenv);
    }

    #[test]
    fn arbitrary_bytes_and_lines(text in "[ \\t\\n:\\-\\[\\]{}&*!|>'\"%@`#,?a-c0-9$]{0,400}") {
        read(&text, &text);
    }

    #[test]
    fn text_made_of_meaningful_pieces(text in pieces()) {
        read(&text, "");
    }

    #[test]
    fn variables_in_any_text(word in "[${}:?+\\-A-E a-c]{0,80}") {
        let quoted = word.replace('\'', "''");
        read(&format!("services: {{w: {{image: '{quoted}'}}}}"), &format!("B={word}"));
    }

    /// What is written reads back: names, values and all.
    #[test]
    fn any_value_survives_being_written(value in "\\PC{0,40}", key in "[a-zA-Z0-9 :#'\"\\-\\.]{1,20}") {
        let json = serde_json::json!({"services": {"w": {"image": "x", "labels": {key: value.replace('$', "$$")}}}});
        let first = read(&json.to_string(), "").expect("JSON is YAML");
        let again = read(&first.replace('$', "$$"), "");
        prop_assert_eq!(again, Some(first));
    }
}

#[test]
fn texts_that_try_to_take_long() {
    let long = "a".repeat(2_000_000);
    for text in [
        "[".repeat(1_000_000),
        "{".repeat(1_000_000),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
        "a: ".repeat(500_000),
        "a:\n ".repeat(300_000),
        "&a ".repeat(500_000),
        format!("services: {{w: {{image: '{}'}}}}", "$A".repeat(1_000_000)),
        format!("services: {{w: {{image: '{}'}}}}", "${B:-".repeat(300_000)),
        format!("services: {{w: {{image: {long}, command: {long}}}}}"),
        format!("services: {{w: {{image: x, ports: [{}]}}}}", "'1-60000:1-60000',".repeat(1000)),
        format!(
            "services: {{w: {{image: x, ports: [{{target: 1, published: 1-65535}}{}]}}}}",
            ",{target: 1, published: 1-65535}".repeat(500)
        ),
        format!(
            "services:\n{}",
            (0..50_000).map(|n| format!("  s{n}: {{image: x, depends_on: [s{}]}}\n", n + 1)).collect::<String>()
        ),
        format!("{long}: 1"),
        format!("services: {{w: {{image: x, {long}: 1}}}}"),
        format!(
            "services: {{w: {{image: x, cap_add: [{0}]}}}}\n---\nservices: {{w: {{image: x, cap_add: [{0}]}}}}\n",
            (0..60_000).map(|n| format!("c{n},")).collect::<String>()
        ),
        "x: |\n".to_owned() + &" line\n".repeat(400_000),
    ] {
        read(&text, "");
    }
}
