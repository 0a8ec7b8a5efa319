use super::*;
use serde_json::{Value as Json, json};

fn check(text: &str, expect: Json) {
    let documents = parse("f.yml", text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(documents.first().map_or(Json::Null, Node::to_json), expect, "{text}");
}

fn refused(text: &str) -> String {
    parse("f.yml", text).expect_err("this is malformed").to_string()
}

#[test]
fn scalars_mean_what_compose_files_mean() {
    check("a: 0440\nb: 0x10\nc: 1_000\nd: -7", json!({"a": 288, "b": 16, "c": 1000, "d": -7}));
    check("a: yes\nb: true\nc: ~\nd: \"true\"\ne:", json!({"a": "yes", "b": true, "c": null, "d": "true", "e": null}));
    check(
        "a: 1.5\nb: 22:22\nc: 1.2.3\nd: 08\ne: 1e3",
        json!({"a": 1.5, "b": "22:22", "c": "1.2.3", "d": 8.0, "e": 1000.0}),
    );
    check("a: !!str 5\nb: .5\nc:\n  -\n", json!({"a": "5", "b": 0.5, "c": [null]}));
}

#[test]
fn anchors_and_merge_keys_expand() {
    check(
        "x-base: &base {a: 1, b: 2}\nx-more: &more {b: 9, c: 3}\nd:\n  <<: [*base, *more]\n  a: 5\n",
        json!({"x-base": {"a": 1, "b": 2}, "x-more": {"b": 9, "c": 3}, "d": {"a": 5, "b": 2, "c": 3}}),
    );
}

#[test]
fn errors_say_where() {
    let tab = "found a tab in the indentation: YAML wants spaces";
    assert_eq!(refused("a:\n  b: 1\n\tc: 2\n"), format!("f.yml:3:1: {tab}"));
    assert_eq!(refused("a:\n\t- b\n"), format!("f.yml:2:1: {tab}"));
    assert_eq!(refused("a: 1\nb: 2\na: 3\n"), "f.yml:3:1: key \"a\" was given before, in line 1");
    assert!(refused("a: [1, 2\n").starts_with("f.yml:"));
    assert!(refused("a: &x [*x]\n").contains("f.yml:1:8"), "{}", refused("a: &x [*x]\n"));
    assert!(refused("a: !vault x\n").contains("tag"));
    assert!(refused("<<: 5\n").contains("takes a mapping"));
    assert!(refused("? [a]\n: b\n").contains("a key must be a text"));
}

#[test]
fn what_explodes_is_refused_before_it_is_built() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let of = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [of.as_str(); 10].join(", ")));
    }
    assert!(refused(&bomb).contains("aliases count in full"));

    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 40].join(", "));
    assert!(refused(&text).contains("bytes"));
    assert!(refused(&"[".repeat(10_000)).contains("f.yml:1:"));
    assert!(refused(&"- ".repeat(100_000)).contains("levels"));
    assert!(refused(&" ".repeat(FILE_BYTES_MAX + 1)).contains("larger than"));
}
