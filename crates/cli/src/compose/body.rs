//! The body of one container: the service's, with labels, ids in the place of names, and the
//! anonymous volumes of the container before. Pure.

use super::labels;
use super::seen::Seen;
use crate::format::text;
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use skep_compose::LocalService;
use std::collections::BTreeSet;

/// What a project's labels say of all its containers.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) project: String,
    pub(super) folder: String,
    pub(super) files: String,
    pub(super) variables: String,
}

/// The container a body is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    Number(u64),
    /// Of `run`, with its random word.
    OneOff(&'a str),
}

/// The service's body with the project's labels.
///
/// # Errors
/// A service whose spaces or volumes are shared has no container.
pub(super) fn build(
    service: &LocalService,
    origin: &Origin,
    purpose: Purpose<'_>,
    image_id: &str,
    seen: &[Seen],
) -> Result<Value> {
    let mut body = service.body.clone();
    let mut all = vec![
        (labels::PROJECT, origin.project.clone()),
        (labels::SERVICE, service.key.clone()),
        (labels::HASH, labels::hash(service)),
        (labels::WORKING_FOLDER, origin.folder.clone()),
        (labels::CONFIG_FILES, origin.files.clone()),
        (labels::DEPENDS_ON, labels::depends_on(service)),
        (labels::IMAGE, image_id.to_owned()),
        (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
    ];
    match purpose {
        Purpose::Number(number) => {
            all.extend([(labels::NUMBER, number.to_string()), (labels::ONE_OFF, "False".into())]);
        }
        Purpose::OneOff(slug) => all.extend([
            (labels::SLUG, slug.to_owned()),
            (labels::NUMBER, "1".into()),
            (labels::ONE_OFF, "True".into()),
        ]),
    }
    if !origin.variables.is_empty() {
        all.push((labels::VARIABLES, origin.variables.clone()));
    }
    labels::add(&mut body, &all);
    share(&mut body, seen)?;
    Ok(body)
}

/// Keys of services become ids and names of their containers.
fn share(body: &mut Value, seen: &[Seen]) -> Result<()> {
    let containers = |key: &str| {
        let all: Vec<&Seen> = seen.iter().filter(|one| one.service == key && !one.one_off).collect();
        if all.is_empty() {
            Err(anyhow!("service \"{key}\", whose containers are to be shared, has none"))
        } else {
            Ok(all)
        }
    };
    let host = &mut body["HostConfig"];
    for field in ["NetworkMode", "PidMode", "IpcMode"] {
        let mode = text(&host[field]);
        if let Some(key) = mode.strip_prefix("service:") {
            host[field] = format!("container:{}", containers(key)?[0].id).into();
        }
    }
    let mut from = Vec::new();
    for wish in words(&host["VolumesFrom"]) {
        let (source, mode) = match wish.strip_prefix("container:") {
            Some(rest) => {
                from.push(rest.to_owned());
                continue;
            }
            None => wish.split_once(':').map_or((wish.as_str(), ""), |(source, mode)| (source, mode)),
        };
        let mode = if mode.is_empty() { String::new() } else { format!(":{mode}") };
        from.extend(containers(source)?.iter().map(|one| format!("{}{mode}", one.id)));
    }
    host["VolumesFrom"] = from.into();
    let mut links = Vec::new();
    for wish in words(&host["Links"]) {
        let (key, alias) = wish.split_once(':').unwrap_or((&wish, &wish));
        links.extend(containers(key)?.iter().map(|one| format!("{}:{alias}", one.name)));
    }
    host["Links"] = links.into();
    Ok(())
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// Gives a body the anonymous volumes of the container it replaces, where it would get new ones.
pub(super) fn inherit(body: &mut Value, old: &Value) {
    let host = &body["HostConfig"];
    let of_bind = |bind: String| bind.split(':').nth(1).unwrap_or_default().to_owned();
    let mut taken: BTreeSet<String> = words(&host["Binds"]).into_iter().map(of_bind).collect();
    taken.extend(host["Tmpfs"].as_object().into_iter().flatten().map(|(target, _)| target.clone()));
    let named = |mount: &&Value| mount["Type"] != "volume" || mount.get("Source").is_some();
    let mounts = host["Mounts"].as_array().cloned().unwrap_or_default();
    taken.extend(mounts.iter().filter(named).map(|mount| text(&mount["Target"])));
    let mut kept: Vec<Value> = mounts;
    for mount in old["Mounts"].as_array().into_iter().flatten().filter(|mount| mount["Type"] == "volume") {
        let (name, target) = (text(&mount["Name"]), text(&mount["Destination"]));
        if taken.contains(&target) || !is_anonymous(&name) {
            continue;
        }
        match kept.iter_mut().find(|wish| wish["Target"] == target.as_str()) {
            Some(wish) => wish["Source"] = name.into(),
            None => {
                kept.push(json!({"Type": "volume", "Source": name, "Target": target, "ReadOnly": mount["RW"] == false}))
            }
        }
    }
    body["HostConfig"]["Mounts"] = kept.into();
}

/// The daemon names what nobody named by 64 hexadecimal digits.
pub(super) fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_spaces_name_containers() {
        let mut body = json!({"HostConfig": {"NetworkMode": "service:db", "PidMode": "host",
            "VolumesFrom": ["db:ro", "container:x:rw"], "Links": ["db:store", "db"]}});
        let db = Seen { id: "77".into(), name: "shop-db-1".into(), service: "db".into(), ..Seen::default() };
        share(&mut body, std::slice::from_ref(&db)).unwrap();
        assert_eq!(
            body["HostConfig"],
            json!({"NetworkMode": "container:77", "PidMode": "host", "VolumesFrom": ["77:ro", "x:rw"],
                "Links": ["shop-db-1:store", "shop-db-1:db"]})
        );
        let mut body = json!({"HostConfig": {"NetworkMode": "service:db"}});
        assert!(share(&mut body, &[]).is_err());
    }

    #[test]
    fn anonymous_volumes_follow_and_named_ones_do_not() {
        let anonymous = "0".repeat(64);
        let old = json!({"Mounts": [
            {"Type": "volume", "Name": anonymous, "Destination": "/data", "RW": true},
            {"Type": "volume", "Name": anonymous, "Destination": "/listed", "RW": true},
            {"Type": "volume", "Name": anonymous, "Destination": "/bound", "RW": true},
            {"Type": "volume", "Name": "named", "Destination": "/named", "RW": true},
        ]});
        let mut body = json!({"HostConfig": {"Binds": ["/a:/bound:rw"],
            "Mounts": [{"Type": "volume", "Target": "/listed"}, {"Type": "bind", "Source": "/x", "Target": "/y"}]}});
        inherit(&mut body, &old);
        assert_eq!(
            body["HostConfig"]["Mounts"],
            json!([
                {"Type": "volume", "Target": "/listed", "Source": anonymous},
                {"Type": "bind", "Source": "/x", "Target": "/y"},
                {"Type": "volume", "Source": anonymous, "Target": "/data", "ReadOnly": false},
            ])
        );
    }
}
