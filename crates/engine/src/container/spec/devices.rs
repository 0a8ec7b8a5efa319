//! Devices: which are made in the container, and which its processes may use.

use serde_json::{Value, json};
use skep_model::container::HostConfig;
use skep_model::{Error, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// (kind, major, minor, access) every container may use.
const ALLOWED: [(&str, Option<i64>, Option<i64>, &str); 11] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(1), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// `linux.devices` and the rules of the devices controller.
///
/// # Errors
/// A device or rule that does not exist or parse.
pub(crate) fn oci(host: &HostConfig) -> Result<(Vec<Value>, Vec<Value>)> {
    if host.privileged {
        return Ok((host_devices(), vec![json!({"allow": true, "access": "rwm"})]));
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(ALLOWED.iter().map(|(kind, major, minor, access)| rule(kind, *major, *minor, access)));
    let mut nodes = Vec::new();
    for mapping in &host.devices {
        let inside =
            if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        if !access.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        let node = node(Path::new(&mapping.path_on_host), inside).ok_or_else(|| {
            Error::invalid(format!(
                "error gathering device information while adding custom device \"{}\": no such file or directory",
                mapping.path_on_host
            ))
        })?;
        let kind = node["type"].as_str().unwrap_or("c").to_owned();
        rules.push(rule(&kind, node["major"].as_i64(), node["minor"].as_i64(), access));
        nodes.push(node);
    }
    for text in &host.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok((nodes, rules))
}

fn rule(kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> Value {
    let mut rule = json!({"allow": true, "type": kind, "access": access});
    for (name, number) in [("major", major), ("minor", minor)] {
        if let Some(number) = number {
            rule[name] = number.into();
        }
    }
    rule
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Result<Value> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut parts = text.split_ascii_whitespace();
    let (kind, numbers, access) = (parts.next(), parts.next(), parts.next());
    let (Some(kind @ ("a" | "b" | "c")), Some(numbers), Some(access)) = (kind, numbers, access) else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| bad()),
    };
    if parts.next().is_some() || !access.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
        return Err(bad());
    }
    Ok(rule(kind, number(major)?, number(minor)?, access))
}

/// A device node as OCI wants it; `None` if it is none.
fn node(path: &Path, inside: &str) -> Option<Value> {
    let metadata = std::fs::metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    let device = metadata.rdev();
    Some(json!({
        "type": kind,
        "path": inside,
        "major": rustix::fs::major(device),
        "minor": rustix::fs::minor(device),
        "fileMode": metadata.permissions().mode() & 0o777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    }))
}

/// Everything in `/dev` that a container does not get its own of.
fn host_devices() -> Vec<Value> {
    let own = ["pts", "shm", "fd", "mqueue", "console", "stdin", "stdout", "stderr", "core", "ptmx"];
    let walk = walkdir::WalkDir::new("/dev").max_depth(3).into_iter().filter_entry(move |entry| {
        !(entry.depth() == 1 && entry.file_name().to_str().is_some_and(|name| own.contains(&name)))
    });
    walk.flatten()
        .filter(|entry| !entry.path_is_symlink())
        .filter_map(|entry| node(entry.path(), entry.path().to_str()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_parse_or_are_refused() {
        assert_eq!(
            parse_rule("c 1:3 rw").unwrap(),
            json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"})
        );
        assert_eq!(parse_rule("b *:* m").unwrap(), json!({"allow": true, "type": "b", "access": "m"}));
        for bad in ["", "c 1 rwm", "x 1:2 r", "c 1:2 q", "c 1:2 r r", "c a:b r"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
