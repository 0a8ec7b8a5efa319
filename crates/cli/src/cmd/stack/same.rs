//! Whether what is stored is what would be sent. Pure.
//!
//! The daemon leaves out what is empty and fills in what it was not told, so both sides are
//! brought into one form first. When in doubt two specs differ: an update that changes
//! nothing costs nothing, one that is not sent would be lost.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields in which zero or false says something that their absence does not.
const ZERO_COUNTS: [&str; 8] =
    ["Replicas", "StopGracePeriod", "Delay", "MaxAttempts", "Parallelism", "Init", "TotalCompletions", "MaxConcurrent"];

/// Both describe the same service.
pub(super) fn specs(stored: &Value, wanted: &Value) -> bool {
    service(stored) == service(wanted)
}

/// Replaces the names of networks by their ids, as the daemon does.
pub(super) fn with_network_ids(spec: &Value, ids: &BTreeMap<String, String>) -> Value {
    let mut spec = spec.clone();
    for network in spec["TaskTemplate"]["Networks"].as_array_mut().into_iter().flatten() {
        if let Some(id) = network["Target"].as_str().and_then(|name| ids.get(name)) {
            network["Target"] = id.clone().into();
        }
    }
    spec
}

/// Without what is empty.
pub(super) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let keep = |(name, value): (&String, &Value)| {
                let value = normal(value);
                let nothing = match &value {
                    Value::Null => true,
                    Value::Bool(flag) => !flag && !ZERO_COUNTS.contains(&name.as_str()),
                    Value::Number(number) => number.as_f64() == Some(0.0) && !ZERO_COUNTS.contains(&name.as_str()),
                    Value::String(text) => text.is_empty() && !is_user_text(name),
                    Value::Array(list) => list.is_empty(),
                    Value::Object(fields) => fields.is_empty() && !matches!(name.as_str(), "Global" | "GlobalJob"),
                };
                (!nothing).then(|| (name.clone(), value))
            };
            Value::Object(fields.iter().filter_map(keep).collect())
        }
        Value::Array(list) => list.iter().map(normal).collect(),
        // A share of failures is stored in single precision.
        Value::Number(number) if number.is_f64() => json!(number.as_f64().unwrap_or_default() as f32),
        other => other.clone(),
    }
}

/// Keys that users choose (labels, options, kernel settings) may have an empty value: they
/// are no field of the API, whose names begin with a capital.
fn is_user_text(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_uppercase())
}

fn service(spec: &Value) -> Value {
    let mut spec = normal(spec);
    let task = object(&mut spec, "TaskTemplate");
    fill(task, "Runtime", json!("container"));
    fill(task, "ForceUpdate", json!(0));
    let restart = object_in(task, "RestartPolicy");
    fill(restart, "Condition", json!("any"));
    fill(restart, "Delay", json!(5_000_000_000_i64));
    fill(restart, "MaxAttempts", json!(0));
    let container = object_in(task, "ContainerSpec");
    fill(container, "Isolation", json!("default"));
    container.remove("Privileges");
    for name in ["UpdateConfig", "RollbackConfig"] {
        if spec.get(name).is_some() {
            let config = object(&mut spec, name);
            fill(config, "Parallelism", json!(0));
            fill(config, "Delay", json!(0));
            fill(config, "FailureAction", json!("pause"));
            fill(config, "Monitor", json!(5_000_000_000_i64));
            fill(config, "Order", json!("stop-first"));
        }
    }
    let mode = object(&mut spec, "Mode");
    if mode.is_empty() || mode.contains_key("Replicated") {
        fill(object_in(mode, "Replicated"), "Replicas", json!(1));
    }
    let endpoint = object(&mut spec, "EndpointSpec");
    fill(endpoint, "Mode", json!("vip"));
    for port in endpoint.get_mut("Ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port {
            fill(port, "Protocol", json!("tcp"));
            fill(port, "PublishMode", json!("ingress"));
        }
    }
    normal(&spec)
}

fn object<'v>(value: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    object_in(value.as_object_mut().expect("made one above"), name)
}

fn object_in<'m>(map: &'m mut Map<String, Value>, name: &str) -> &'m mut Map<String, Value> {
    let entry = map.entry(name).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("made one above")
}

fn fill(map: &mut Map<String, Value>, name: &str, value: Value) {
    map.entry(name).or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: Value, wanted: Value, expect: bool) {
        assert_eq!(specs(&stored, &wanted), expect, "{stored} and {wanted}");
    }

    #[test]
    fn what_the_daemon_fills_in_is_no_difference() {
        check(
            json!({"Name": "s", "Labels": {}, "TaskTemplate": {"ContainerSpec": {"Image": "x", "Isolation": "default"}, "ForceUpdate": 0,
                "Runtime": "container", "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000_i64, "MaxAttempts": 0}},
                "Mode": {"Replicated": {"Replicas": 1}}, "EndpointSpec": {"Mode": "vip"},
                "UpdateConfig": {"Parallelism": 1, "Monitor": 5_000_000_000_i64, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first"}}),
            json!({"Name": "s", "TaskTemplate": {"ContainerSpec": {"Image": "x", "Env": [], "TTY": false, "Dir": ""}, "Resources": {}},
                "Mode": {"Replicated": {"Replicas": null}}, "EndpointSpec": {"Mode": "", "Ports": []},
                "UpdateConfig": {"Parallelism": 1, "FailureAction": "", "MaxFailureRatio": 0.0, "Order": ""}}),
            true,
        );
        check(
            json!({"UpdateConfig": {"MaxFailureRatio": 0.3_f32}}),
            json!({"UpdateConfig": {"MaxFailureRatio": 0.3}}),
            true,
        );
    }

    #[test]
    fn what_means_something_is_a_difference() {
        let replicas = |count: u64| json!({"Mode": {"Replicated": {"Replicas": count}}});
        check(replicas(0), replicas(1), false);
        check(replicas(0), json!({}), false);
        check(replicas(1), json!({"Mode": {"Global": {}}}), false);
        check(json!({"Labels": {"a": ""}}), json!({}), false);
        let init = |flag: Value| json!({"TaskTemplate": {"ContainerSpec": {"Init": flag}}});
        check(init(json!(false)), init(Value::Null), false);
        check(init(json!(false)), init(json!(false)), true);
        check(json!({"UpdateConfig": {"Parallelism": 0}}), json!({"UpdateConfig": {"Parallelism": 1}}), false);
        check(json!({"UpdateConfig": {"Parallelism": 1}}), json!({}), false);
    }

    #[test]
    fn networks_are_compared_by_id() {
        let ids = BTreeMap::from([("n".to_owned(), "i1".to_owned())]);
        let spec = json!({"TaskTemplate": {"Networks": [{"Target": "n"}, {"Target": "i2"}]}});
        let found = with_network_ids(&spec, &ids);
        assert_eq!(found["TaskTemplate"]["Networks"], json!([{"Target": "i1"}, {"Target": "i2"}]));
    }
}
