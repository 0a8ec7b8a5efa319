//! Flags of `service create` as a ServiceSpec; the flags that `update` shares.

use super::create::health;
use crate::Client;
use crate::client::segment;
use crate::flags::service::{Common, Create};
use crate::format::text;
use crate::{Outcome, parse};
use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

/// The body of `POST /services/create`, without secrets and configs.
pub(crate) fn spec(flags: &Create) -> Result<Value> {
    let mut spec = json!({
        "Name": flags.name,
        "Labels": parse::labels(&flags.label),
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": flags.words[0],
                "Labels": parse::labels(&flags.container_label),
                "Env": parse::environment(&flags.env, &flags.env_file)?,
                "Hosts": flags.host.iter().map(|h| host(h)).collect::<Result<Vec<_>>>()?,
                "Groups": flags.group,
                "Mounts": flags.mount.iter().map(|m| parse::mount(m)).collect::<Result<Vec<_>>>()?,
                "DNSConfig": {"Nameservers": flags.dns, "Options": flags.dns_option, "Search": flags.dns_search},
                "CapabilityAdd": flags.cap_add,
                "CapabilityDrop": flags.cap_drop,
                "Sysctls": parse::labels(&flags.sysctl),
                "Ulimits": flags.ulimit.iter().map(|u| parse::ulimit(u)).collect::<Result<Vec<_>>>()?,
            },
            "Placement": {"Constraints": flags.constraint, "Preferences": preferences(&flags.placement_pref)?},
            "Networks": flags.network.iter().map(|n| network(n)).collect::<Result<Vec<_>>>()?,
            "ForceUpdate": 0,
        },
        "Mode": mode(flags)?,
        "EndpointSpec": {"Mode": "vip", "Ports": ports(&flags.publish)?},
    });
    if flags.words.len() > 1 {
        spec["TaskTemplate"]["ContainerSpec"]["Args"] = flags.words[1..].into();
    }
    let reserved = generic_resources(&flags.generic_resource)?;
    if !reserved.is_empty() {
        spec["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"] = reserved.into();
    }
    apply(&mut spec, &flags.common)?;
    if flags.mode.ends_with("-job") && !(spec["UpdateConfig"].is_null() && spec["RollbackConfig"].is_null()) {
        bail!("update and rollback configuration is not supported for jobs");
    }
    Ok(spec)
}

/// `gpu=2`, each kind once.
pub(crate) fn generic_resources(given: &[String]) -> Result<Vec<Value>> {
    let one = |text: &String| {
        let (kind, count) = text
            .split_once('=')
            .filter(|(kind, _)| !kind.is_empty())
            .ok_or_else(|| anyhow!("invalid generic-resource request `{text}`, expected kind=count"))?;
        let count: u64 = count.parse().map_err(|_| {
            anyhow!(
                "invalid generic-resource request `{text}`, Named Generic Resources is not supported for service create or update"
            )
        })?;
        Ok(json!({"DiscreteResourceSpec": {"Kind": kind, "Value": count}}))
    };
    given.iter().map(one).collect()
}

fn mode(flags: &Create) -> Result<Value> {
    let replicas = flags.replicas;
    if replicas.is_some() && matches!(flags.mode.as_str(), "global" | "global-job") {
        bail!("replicas can only be used with replicated or replicated-job mode");
    }
    if flags.common.replicas_max_per_node.is_some_and(|n| n > 0)
        && matches!(flags.mode.as_str(), "global" | "global-job")
    {
        bail!("replicas-max-per-node can only be used with replicated or replicated-job mode");
    }
    if flags.max_concurrent.is_some() && flags.mode != "replicated-job" {
        bail!("max-concurrent can only be used with replicated-job mode");
    }
    Ok(match flags.mode.as_str() {
        "replicated" => json!({"Replicated": {"Replicas": replicas.unwrap_or(1)}}),
        "global" => json!({"Global": {}}),
        "replicated-job" => {
            let total = replicas.unwrap_or(1);
            json!({"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": flags.max_concurrent.unwrap_or(total)}})
        }
        "global-job" => json!({"GlobalJob": {}}),
        other => bail!("Unknown mode: {other}, only replicated, global, replicated-job and global-job are supported"),
    })
}

fn host(text: &str) -> Result<String> {
    let (name, ip) = text.split_once(':').ok_or_else(|| anyhow!("bad format for add-host: \"{text}\""))?;
    Ok(format!("{ip} {name}"))
}

pub(crate) fn preferences(given: &[String]) -> Result<Vec<Value>> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some(("spread", label)) => Ok(json!({"Spread": {"SpreadDescriptor": label}})),
            _ => bail!(
                "placement preference must be of the format \"<strategy>=<arg>\" and only \"spread\" is known: {text}"
            ),
        })
        .collect()
}

/// `name`, or `name=x,alias=y,driver-opt=k=v`.
pub(crate) fn network(text: &str) -> Result<Value> {
    if !text.contains('=') {
        return Ok(json!({"Target": text}));
    }
    let mut network = json!({"Aliases": [], "DriverOpts": {}});
    for (key, value) in parse::fields(text)? {
        match key.as_str() {
            "name" => network["Target"] = value.into(),
            "alias" => {
                if let Value::Array(list) = &mut network["Aliases"] {
                    list.push(value.into());
                }
            }
            "driver-opt" => {
                let (key, value) = value.split_once('=').unwrap_or((&value, ""));
                network["DriverOpts"][key] = value.into();
            }
            _ => bail!("invalid field key {key}"),
        }
    }
    Ok(network)
}

pub(crate) fn ports(given: &[String]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for text in given {
        all.extend(parse::service_publish(text)?);
    }
    Ok(all)
}

/// Applies the flags that `create` and `update` share.
pub(crate) fn apply(spec: &mut Value, flags: &Common) -> Result<()> {
    if let Some(mode) = &flags.endpoint_mode {
        spec["EndpointSpec"]["Mode"] = mode.clone().into();
    }
    container(&mut spec["TaskTemplate"]["ContainerSpec"], flags)?;
    let task = &mut spec["TaskTemplate"];
    let cpus = |text: &Option<String>| text.as_deref().map(parse::nano_cpus).transpose();
    let bytes = |text: &Option<String>| text.as_deref().map(parse::bytes).transpose();
    let span = |text: &Option<String>| text.as_deref().map(parse::duration_ns).transpose();
    for (section, field, value) in [
        ("Limits", "NanoCPUs", cpus(&flags.limit_cpu)?),
        ("Limits", "MemoryBytes", bytes(&flags.limit_memory)?),
        ("Limits", "Pids", flags.limit_pids),
        ("Reservations", "NanoCPUs", cpus(&flags.reserve_cpu)?),
        ("Reservations", "MemoryBytes", bytes(&flags.reserve_memory)?),
    ] {
        if let Some(value) = value {
            task["Resources"][section][field] = value.into();
        }
    }
    if let Some(condition) = &flags.restart_condition {
        task["RestartPolicy"]["Condition"] = condition.clone().into();
    }
    for (field, value) in [("Delay", span(&flags.restart_delay)?), ("Window", span(&flags.restart_window)?)] {
        if let Some(value) = value {
            task["RestartPolicy"][field] = value.into();
        }
    }
    if let Some(attempts) = flags.restart_max_attempts {
        task["RestartPolicy"]["MaxAttempts"] = attempts.into();
    }
    if let Some(limit) = flags.replicas_max_per_node {
        task["Placement"]["MaxReplicas"] = limit.into();
    }
    if let Some(driver) = &flags.log_driver {
        task["LogDriver"] = json!({"Name": driver, "Options": parse::labels(&flags.log_opt)});
    } else if !flags.log_opt.is_empty() {
        task["LogDriver"] = json!({"Name": "json-file", "Options": parse::labels(&flags.log_opt)});
    }
    change_config(
        spec,
        "UpdateConfig",
        &[
            ("Parallelism", flags.update_parallelism.map(Value::from)),
            ("Delay", span(&flags.update_delay)?.map(Value::from)),
            ("FailureAction", flags.update_failure_action.clone().map(Value::from)),
            ("Monitor", span(&flags.update_monitor)?.map(Value::from)),
            ("MaxFailureRatio", flags.update_max_failure_ratio.map(Value::from)),
            ("Order", flags.update_order.clone().map(Value::from)),
        ],
    );
    change_config(
        spec,
        "RollbackConfig",
        &[
            ("Parallelism", flags.rollback_parallelism.map(Value::from)),
            ("Delay", span(&flags.rollback_delay)?.map(Value::from)),
            ("FailureAction", flags.rollback_failure_action.clone().map(Value::from)),
            ("Monitor", span(&flags.rollback_monitor)?.map(Value::from)),
            ("MaxFailureRatio", flags.rollback_max_failure_ratio.map(Value::from)),
            ("Order", flags.rollback_order.clone().map(Value::from)),
        ],
    );
    Ok(())
}

fn change_config(spec: &mut Value, name: &str, fields: &[(&str, Option<Value>)]) {
    if fields.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    if spec[name].is_null() {
        spec[name] = json!({"Parallelism": 1, "FailureAction": "pause", "Monitor": 5_000_000_000_i64, "MaxFailureRatio": 0, "Order": "stop-first"});
    }
    for (field, value) in fields {
        if let Some(value) = value {
            spec[name][*field] = value.clone();
        }
    }
}

fn container(container: &mut Value, flags: &Common) -> Result<()> {
    if let Some(entrypoint) = &flags.entrypoint {
        container["Command"] = split_words(entrypoint).into();
    }
    for (field, value) in [
        ("Hostname", &flags.hostname),
        ("User", &flags.user),
        ("Dir", &flags.workdir),
        ("StopSignal", &flags.stop_signal),
    ] {
        if let Some(value) = value {
            container[field] = value.clone().into();
        }
    }
    for (field, value) in [("Init", flags.init), ("TTY", flags.tty), ("ReadOnly", flags.read_only)] {
        if let Some(value) = value {
            container[field] = value.into();
        }
    }
    if let Some(score) = flags.oom_score_adj {
        container["OomScoreAdj"] = score.into();
    }
    if let Some(period) = &flags.stop_grace_period {
        container["StopGracePeriod"] = parse::duration_ns(period)?.into();
    }
    if let Some(health) = health(&flags.health)? {
        container["Healthcheck"] = health;
    }
    Ok(())
}

/// Words as a shell would split them, with quotes but without expansion.
pub(crate) fn split_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (None, '"' | '\'') => (quote, inside) = (Some(c), true),
            (None, _) if c.is_whitespace() => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            _ => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

/// `name`, or `source=x,target=y,uid=..,gid=..,mode=..`, with the object's id looked up.
pub(crate) async fn file_reference(client: &Client, given: &str, kind: &str) -> Outcome<Value> {
    let (mut source, mut target, mut uid, mut gid, mut mode) =
        (given.to_owned(), String::new(), "0".to_owned(), "0".to_owned(), 0o444);
    if given.contains('=') {
        for (key, value) in parse::fields(given)? {
            match key.as_str() {
                "source" | "src" => source = value,
                "target" => target = value,
                "uid" => uid = value,
                "gid" => gid = value,
                "mode" => {
                    mode = u32::from_str_radix(&value, 8).map_err(|_| anyhow!("invalid mode specified: {value}"))?
                }
                _ => return Err(anyhow!("invalid field in {kind} request: {key}").into()),
            }
        }
    }
    if target.is_empty() {
        target = if kind == "config" { format!("/{source}") } else { source.clone() };
    }
    let object = client.get(&format!("/{kind}s/{}", segment(&source))).await?;
    let (id_field, name_field) = if kind == "config" { ("ConfigID", "ConfigName") } else { ("SecretID", "SecretName") };
    Ok(json!({
        id_field: text(&object["ID"]), name_field: text(&object["Spec"]["Name"]),
        "File": {"Name": target, "UID": uid, "GID": gid, "Mode": mode},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_like_a_shell() {
        assert_eq!(split_words("sh -c 'echo  hi' \"\""), ["sh", "-c", "echo  hi", ""]);
        assert!(split_words("  ").is_empty());
    }

    #[test]
    fn update_flags_fill_the_other_defaults_in() {
        let mut spec = json!({});
        apply(&mut spec, &Common { update_delay: Some("10s".into()), ..Common::default() }).unwrap();
        assert_eq!(spec["UpdateConfig"]["Delay"], 10_000_000_000_i64);
        assert_eq!(spec["UpdateConfig"]["Parallelism"], 1);
        assert!(spec["RollbackConfig"].is_null());
    }

    #[test]
    fn networks_with_aliases() {
        assert_eq!(network("app").unwrap(), json!({"Target": "app"}));
        assert_eq!(network("name=app,alias=db").unwrap()["Aliases"], json!(["db"]));
    }
}
