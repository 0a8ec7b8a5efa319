//! `service update`: list edits on a spec that was read before. Pure but for look-ups by name.

use super::service_spec::{apply, file_reference, generic_resources, network, ports, preferences, split_words};
use crate::client::segment;
use crate::flags::service::Update;
use crate::format::text;
use crate::{Client, Outcome, parse};
use anyhow::anyhow;
use serde_json::{Value, json};

/// Applies all flags to `spec`.
///
/// # Errors
/// A malformed value, or a name that is not there.
pub(crate) async fn edit(client: &Client, spec: &mut Value, flags: &Update) -> Outcome {
    apply(spec, &flags.common)?;
    if let Some(replicas) = flags.replicas {
        set_count(spec, replicas)
            .ok_or_else(|| anyhow!("replicas can only be used with replicated or replicated-job mode"))?;
    }
    if let Some(limit) = flags.max_concurrent {
        if spec["Mode"]["ReplicatedJob"].is_null() {
            return Err(anyhow!("max-concurrent can only be used with replicated-job mode").into());
        }
        spec["Mode"]["ReplicatedJob"]["MaxConcurrent"] = limit.into();
    }
    maps(spec, flags);
    let task = &mut spec["TaskTemplate"];
    if flags.force {
        task["ForceUpdate"] = (task["ForceUpdate"].as_u64().unwrap_or(0) + 1).into();
    }
    if let Some(image) = &flags.image {
        task["ContainerSpec"]["Image"] = image.clone().into();
    }
    if let Some(args) = &flags.args {
        task["ContainerSpec"]["Args"] = split_words(args).into();
    }
    let key_of = |entry: &Value| text(entry).split('=').next().unwrap_or_default().to_owned();
    let environment = parse::environment(&flags.env_add, &[])?;
    change_list(
        &mut task["ContainerSpec"]["Env"],
        environment.into_iter().map(Value::from).collect(),
        &flags.env_rm,
        key_of,
    );
    change_list(
        &mut task["Placement"]["Constraints"],
        flags.constraint_add.iter().cloned().map(Value::from).collect(),
        &flags.constraint_rm,
        text,
    );
    let preference = |entry: &Value| format!("spread={}", text(&entry["Spread"]["SpreadDescriptor"]));
    change_list(
        &mut task["Placement"]["Preferences"],
        preferences(&flags.placement_pref_add)?,
        &flags.placement_pref_rm,
        preference,
    );
    change_list(
        &mut task["Resources"]["Reservations"]["GenericResources"],
        generic_resources(&flags.generic_resource_add)?,
        &flags.generic_resource_rm,
        |entry| text(&entry["DiscreteResourceSpec"]["Kind"]),
    );
    let mounts = flags.mount_add.iter().map(|m| parse::mount(m)).collect::<anyhow::Result<_>>()?;
    change_list(&mut task["ContainerSpec"]["Mounts"], mounts, &flags.mount_rm, |m| text(&m["Target"]));
    for (kind, list, name, add, remove) in [
        ("secret", "Secrets", "SecretName", &flags.secret_add, &flags.secret_rm),
        ("config", "Configs", "ConfigName", &flags.config_add, &flags.config_rm),
    ] {
        let mut added = Vec::new();
        for given in add {
            added.push(file_reference(client, given, kind).await?);
        }
        change_list(&mut task["ContainerSpec"][list], added, remove, |entry| text(&entry[name]));
    }
    networks(client, &mut task["Networks"], flags).await?;
    let key = |port: &Value| format!("{}/{}", port["TargetPort"], text(&port["Protocol"]));
    let removed: Vec<String> =
        flags.publish_rm.iter().map(|p| if p.contains('/') { p.clone() } else { format!("{p}/tcp") }).collect();
    change_list(&mut spec["EndpointSpec"]["Ports"], ports(&flags.publish_add)?, &removed, key);
    Ok(())
}

/// Sets the number of replicas, or of completions of a job; `None` in other modes.
pub(crate) fn set_count(spec: &mut Value, count: u64) -> Option<()> {
    for (mode, field) in [("Replicated", "Replicas"), ("ReplicatedJob", "TotalCompletions")] {
        if !spec["Mode"][mode].is_null() {
            spec["Mode"][mode][field] = count.into();
            return Some(());
        }
    }
    None
}

fn maps(spec: &mut Value, flags: &Update) {
    change_map(&mut spec["Labels"], &flags.label_add, &flags.label_rm);
    change_map(
        &mut spec["TaskTemplate"]["ContainerSpec"]["Labels"],
        &flags.container_label_add,
        &flags.container_label_rm,
    );
}

fn change_map(map: &mut Value, add: &[String], remove: &[String]) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    if !map.is_object() {
        *map = json!({});
    }
    if let Value::Object(map) = map {
        for key in remove {
            map.remove(key);
        }
        for text in add {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            map.insert(key.to_owned(), value.into());
        }
    }
}

/// Drops entries whose key is removed or replaced, then appends.
fn change_list(list: &mut Value, add: Vec<Value>, remove: &[String], key: impl Fn(&Value) -> String) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    let mut entries = list.as_array().cloned().unwrap_or_default();
    entries.retain(|entry| {
        let this = key(entry);
        !remove.contains(&this) && !add.iter().any(|new| key(new) == this)
    });
    entries.extend(add);
    *list = entries.into();
}

async fn networks(client: &Client, list: &mut Value, flags: &Update) -> Outcome {
    let mut removed = Vec::new();
    for name in &flags.network_rm {
        // Stored targets are ids.
        removed.push(text(&client.get(&format!("/networks/{}", segment(name))).await?["Id"]));
        removed.push(name.clone());
    }
    let added = flags.network_add.iter().map(|n| network(n)).collect::<anyhow::Result<_>>()?;
    change_list(list, added, &removed, |entry| text(&entry["Target"]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_replace_by_key() {
        let mut list = json!(["A=1", "B=2"]);
        let key = |entry: &Value| text(entry).split('=').next().unwrap_or_default().to_owned();
        change_list(&mut list, vec!["A=3".into()], &["B".to_owned()], key);
        assert_eq!(list, json!(["A=3"]));
    }

    #[test]
    fn maps_add_and_remove() {
        let mut map = Value::Null;
        change_map(&mut map, &["a=b".to_owned()], &[]);
        change_map(&mut map, &["c=d".to_owned()], &["a".to_owned()]);
        assert_eq!(map, json!({"c": "d"}));
    }
}
