//! One file over another, by the compose specification's rules.

use crate::error::{Error, Result};
use crate::tree::{Map, Merge, Node, Value};
use std::collections::BTreeMap;

/// Lays `over` on `base`, both in canonical form.
///
/// # Errors
/// A value that meets one of another kind.
pub(crate) fn merge(base: Node, over: Node) -> Result<Node> {
    lay(base, over, &mut Vec::new())
}

/// Lays one service on another (`extends`).
///
/// # Errors
/// A value that meets one of another kind.
pub(crate) fn merge_service(base: Node, over: Node) -> Result<Node> {
    lay(base, over, &mut vec!["services".into(), "*".into()])
}

/// Takes away what `!reset` names where there was nothing to take away.
pub(crate) fn settle(node: &mut Node) {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, entry| entry.node.merge != Merge::Reset);
            map.values_mut().for_each(|entry| settle(&mut entry.node));
        }
        Value::List(items) => items.iter_mut().for_each(settle),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

fn lay(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node> {
    if over.merge != Merge::Together || over.is_null() && !takes_null(path) {
        // A null says nothing, but for a mapping key it may be all there is.
        return Ok(if over.is_null() && over.merge == Merge::Together { base } else { over });
    }
    let at = over.at.clone();
    let value = match (base.value, over.value) {
        (Value::Map(below), Value::Map(above)) if is_logging(path) && differ(&below, &above) => Value::Map(above),
        (Value::Map(below), Value::Map(above)) => Value::Map(maps(below, above, path)?),
        (Value::List(below), Value::List(above)) => Value::List(lists(below, above, path)?),
        (Value::Null, above) => above,
        (below, above) if kind(&below) != kind(&above) => {
            return Err(Error::at(&at, format!("cannot override {}: the kinds of the values differ", path.join("."))));
        }
        (_, above) => above,
    };
    Ok(Node { at, value, merge: Merge::Together })
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::List(_) => 1,
        Value::Map(_) => 2,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => 0,
    }
}

fn maps(mut below: Map, above: Map, path: &mut Vec<String>) -> Result<Map> {
    for (key, mut entry) in above {
        if entry.node.merge == Merge::Reset {
            below.remove(&key);
            continue;
        }
        match below.remove(&key) {
            Some(old) if !key.starts_with("x-") => {
                path.push(key.clone());
                entry.node = lay(old.node, entry.node, path)?;
                path.pop();
            }
            _ => {}
        }
        below.insert(key, entry);
    }
    Ok(below)
}

fn lists(below: Vec<Node>, above: Vec<Node>, path: &[String]) -> Result<Vec<Node>> {
    let within =
        if path.first().is_some_and(|first| first == "services") { path.get(2..).unwrap_or(&[]) } else { path };
    let within: Vec<&str> = within.iter().map(String::as_str).collect();
    let identity: fn(&Node) -> String = match within.as_slice() {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => return Ok(above),
        ["ports"] => port_identity,
        ["volumes"] => |node| node.text_of("target"),
        ["secrets" | "configs"] => file_identity,
        ["env_file"] => |node| node.text_of("path"),
        _ => |node| node.to_json().to_string(),
    };
    let mut places: BTreeMap<String, usize> = below.iter().enumerate().map(|(i, node)| (identity(node), i)).collect();
    let mut merged = below;
    for item in above {
        let name = identity(&item);
        match places.get(&name) {
            Some(place) => {
                let old = std::mem::replace(&mut merged[*place], Node::new(&item.at, Value::Null));
                merged[*place] = lay(old, item, &mut vec!["item".into()])?;
            }
            None => {
                places.insert(name, merged.len());
                merged.push(item);
            }
        }
    }
    Ok(merged)
}

fn port_identity(node: &Node) -> String {
    let part = |key: &str| node.text_of(key);
    format!("{}:{}:{}/{}", part("host_ip"), part("published"), part("target"), part("protocol"))
}

fn file_identity(node: &Node) -> String {
    let target = node.text_of("target");
    if target.is_empty() { node.text_of("source") } else { target }
}

/// Options of one log driver mean nothing to another.
fn is_logging(path: &[String]) -> bool {
    path.len() == 3 && path[2] == "logging"
}

fn differ(below: &Map, above: &Map) -> bool {
    match (below.get("driver"), above.get("driver")) {
        (Some(below), Some(above)) => below != above,
        _ => false,
    }
}

/// `environment: {A:}` takes the value from outside, whatever stood there before.
fn takes_null(path: &[String]) -> bool {
    path.len() == 4 && path[2] == "environment"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::{Base, rewrite};
    use serde_json::{Value as Json, json};

    fn merged(base: &str, over: &str) -> std::result::Result<Json, String> {
        let load = |text: &str| {
            let mut node = crate::yaml::parse("f.yml", text).unwrap().remove(0);
            rewrite(&mut node, &Base::new(std::path::Path::new("/p"), None, crate::schema::Purpose::Stack)).unwrap();
            node
        };
        let mut node = merge(load(base), load(over)).map_err(|error| error.to_string())?;
        settle(&mut node);
        Ok(node.to_json()["services"]["a"].clone())
    }

    fn check(base: &str, over: &str, expect: Json) {
        let wrap = |text: &str| format!("services:\n  a: {text}\n");
        assert_eq!(merged(&wrap(base), &wrap(over)).unwrap(), expect, "{base} under {over}");
    }

    #[test]
    fn scalars_and_commands_are_replaced_lists_grow() {
        check("{image: x, command: a b}", "{image: y, command: [c]}", json!({"image": "y", "command": ["c"]}));
        check("{cap_add: [A, B]}", "{cap_add: [B, C]}", json!({"cap_add": ["A", "B", "C"]}));
        check("{image: x}", "{image: }", json!({"image": "x"}));
        check("{entrypoint: [a]}", "{entrypoint: []}", json!({"entrypoint": []}));
    }

    #[test]
    fn lists_with_an_identity_merge_by_it() {
        check(
            "{volumes: ['a:/x', 'b:/y']}",
            "{volumes: ['c:/x:ro']}",
            json!({"volumes": [
                {"type": "volume", "source": "c", "target": "/x", "read_only": true},
                {"type": "volume", "source": "b", "target": "/y"}]}),
        );
        check(
            "{environment: [A=1, B=2]}",
            "{environment: {B: 3, C: }}",
            json!({"environment": {"A": "1", "B": "3", "C": null}}),
        );
        check("{environment: [A=1]}", "{environment: [A]}", json!({"environment": {"A": null}}));
        check(
            "{secrets: [s]}",
            "{secrets: [{source: s, mode: 0400}]}",
            json!({"secrets": [{"source": "s", "mode": 256}]}),
        );
        let ports = merged("services: {a: {ports: ['80:80']}}", "services: {a: {ports: ['80:80', '81:81']}}").unwrap();
        assert_eq!(ports["ports"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn logging_of_another_driver_replaces() {
        check("{logging: {driver: a, options: {x: 1}}}", "{logging: {driver: b}}", json!({"logging": {"driver": "b"}}));
        check(
            "{logging: {driver: a, options: {x: 1}}}",
            "{logging: {options: {y: 2}}}",
            json!({"logging": {"driver": "a", "options": {"x": 1, "y": 2}}}),
        );
    }

    #[test]
    fn tags_take_away_or_replace() {
        check("{cap_add: [A], image: x}", "{cap_add: !reset [], image: !reset null}", json!({}));
        check("{cap_add: [A]}", "{cap_add: !override [B]}", json!({"cap_add": ["B"]}));
        check("{image: x}", "{user: !reset null}", json!({"image": "x"}));
    }

    #[test]
    fn kinds_must_agree() {
        let said = merged("x-a: 1\nservices: {a: {deploy: {mode: x}}}", "services: {a: {deploy: [b]}}").unwrap_err();
        assert!(said.contains("f.yml:1:") && said.contains("services.a.deploy"), "{said}");
    }
}
