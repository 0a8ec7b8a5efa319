//! `deploy` and the older keys that say the same: mode, resources, restarts, updates, placement.

use super::list;
use super::service::set;
use crate::error::Result;
use crate::tree::Node;
use crate::units;
use serde_json::{Value as Json, json};

/// # Errors
/// An unknown mode, or replicas where there are none.
pub(super) fn mode(service: &Node) -> Result<Json> {
    let plan = service.get("deploy");
    let replicas = plan.and_then(|plan| plan.get("replicas")).or_else(|| service.get("scale"));
    let count = replicas.map(Node::as_count).transpose()?;
    let mode = plan.map(|plan| plan.text_of("mode")).unwrap_or_default();
    match (mode.as_str(), replicas) {
        ("global" | "global-job", Some(replicas)) => {
            Err(replicas.wrong("replicas can only be used with replicated or replicated-job mode"))
        }
        ("global", None) => Ok(json!({"Global": {}})),
        ("global-job", None) => Ok(json!({"GlobalJob": {}})),
        ("replicated-job", _) => Ok(json!({"ReplicatedJob": {"MaxConcurrent": count, "TotalCompletions": count}})),
        ("replicated" | "", _) => Ok(json!({"Replicated": {"Replicas": count}})),
        (other, _) => Err(plan.unwrap_or(service).wrong(&format!("Unknown mode: {other}"))),
    }
}

/// # Errors
/// Malformed sizes and counts.
pub(super) fn resources(service: &Node) -> Result<Json> {
    let group = |name: &str| service.get("deploy").and_then(|plan| plan.get("resources")).and_then(|all| all.get(name));
    let (limits, reservations) = (group("limits"), group("reservations"));
    // The older key counts where `deploy` is silent.
    let pick = |group: Option<&Node>, key: &str, older: &str| {
        group.and_then(|group| group.get(key)).or_else(|| service.get(older).filter(|_| !older.is_empty())).cloned()
    };
    let mut limit = json!({});
    set(
        &mut limit,
        "NanoCPUs",
        pick(limits, "cpus", "cpus").as_ref().map(units::nano_cpus).transpose()?.map(Json::from),
    );
    set(
        &mut limit,
        "MemoryBytes",
        pick(limits, "memory", "mem_limit").as_ref().map(units::bytes).transpose()?.map(Json::from),
    );
    set(&mut limit, "Pids", pick(limits, "pids", "pids_limit").as_ref().map(Node::as_int).transpose()?.map(Json::from));
    let mut reservation = json!({});
    set(
        &mut reservation,
        "NanoCPUs",
        pick(reservations, "cpus", "").as_ref().map(units::nano_cpus).transpose()?.map(Json::from),
    );
    set(
        &mut reservation,
        "MemoryBytes",
        pick(reservations, "memory", "mem_reservation").as_ref().map(units::bytes).transpose()?.map(Json::from),
    );
    let mut generic = Vec::new();
    for item in reservations.and_then(|group| group.get("generic_resources")).map_or(&[][..], Node::items) {
        if let Some(spec) = item.get("discrete_resource_spec") {
            let value = spec.get("value").map_or(Ok(0), Node::as_int)?;
            generic.push(json!({"DiscreteResourceSpec": {"Kind": spec.text_of("kind"), "Value": value}}));
        }
    }
    set(&mut reservation, "GenericResources", (!generic.is_empty()).then(|| generic.into()));
    let mut all = json!({});
    let given =
        |group: Option<&Node>, value: &Json| group.is_some() || value.as_object().is_some_and(|o| !o.is_empty());
    set(&mut all, "Limits", given(limits, &limit).then_some(limit));
    set(&mut all, "Reservations", given(reservations, &reservation).then_some(reservation));
    Ok(all)
}

/// `deploy.restart_policy`, else what `restart` says.
///
/// # Errors
/// Unknown words, malformed durations.
pub(super) fn restart_policy(service: &Node) -> Result<Option<Json>> {
    if let Some(policy) = service.get("deploy").and_then(|plan| plan.get("restart_policy")) {
        let condition = policy.text_of("condition");
        if !matches!(condition.as_str(), "" | "none" | "on-failure" | "any") {
            return Err(
                policy.wrong(&format!("restart condition \"{condition}\" is not known: none, on-failure or any"))
            );
        }
        let mut wire = json!({ "Condition": condition });
        set(&mut wire, "Delay", policy.get("delay").map(units::duration_ns).transpose()?.map(Json::from));
        set(&mut wire, "MaxAttempts", policy.get("max_attempts").map(Node::as_count).transpose()?.map(Json::from));
        set(&mut wire, "Window", policy.get("window").map(units::duration_ns).transpose()?.map(Json::from));
        return Ok(Some(wire));
    }
    let Some(node) = service.get("restart") else { return Ok(None) };
    // YAML reads an unquoted `no` as a truth value in some tools; both mean the same.
    let word = node.as_text().filter(|word| word != "false").unwrap_or_else(|| "no".into());
    let (name, attempts) = word.split_once(':').unwrap_or((&word, ""));
    let attempts = match attempts {
        "" => None,
        count => Some(count.parse::<u64>().map_err(|_| node.wrong("maximum retry count must be an integer"))?),
    };
    let condition = match name {
        "no" | "" => return Ok(None),
        "always" | "unless-stopped" => "any",
        "on-failure" => "on-failure",
        other => return Err(node.wrong(&format!("unknown restart policy: {other}"))),
    };
    let mut wire = json!({ "Condition": condition });
    set(&mut wire, "MaxAttempts", attempts.filter(|count| *count > 0).map(Json::from));
    Ok(Some(wire))
}

/// # Errors
/// Malformed counts, durations and ratios.
pub(super) fn update_config(node: &Node) -> Result<Json> {
    let mut wire = json!({
        "Parallelism": node.get("parallelism").map_or(Ok(1), Node::as_count)?,
        "FailureAction": node.text_of("failure_action"),
        "Order": node.text_of("order"),
        "MaxFailureRatio": node.get("max_failure_ratio").map_or(Ok(0.0), Node::as_float)?,
    });
    set(&mut wire, "Delay", node.get("delay").map(units::duration_ns).transpose()?.map(Json::from));
    set(&mut wire, "Monitor", node.get("monitor").map(units::duration_ns).transpose()?.map(Json::from));
    Ok(wire)
}

/// # Errors
/// A malformed count.
pub(super) fn placement(service: &Node) -> Result<Json> {
    let Some(node) = service.get("deploy").and_then(|plan| plan.get("placement")) else { return Ok(json!({})) };
    let preferences: Vec<Json> = node
        .get("preferences")
        .map_or(&[][..], Node::items)
        .iter()
        .map(|preference| json!({"Spread": {"SpreadDescriptor": preference.text_of("spread")}}))
        .collect();
    Ok(json!({
        "Constraints": list(node.get("constraints")),
        "Preferences": preferences,
        "MaxReplicas": node.get("max_replicas_per_node").map_or(Ok(0), Node::as_count)?,
    }))
}
