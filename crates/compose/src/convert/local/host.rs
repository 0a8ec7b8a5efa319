//! The body's `HostConfig`: limits, privileges, namespaces, ports.

use super::mounts::Mounts;
use crate::convert::service::{number, set, ulimits};
use crate::convert::{deploy, list, texts};
use crate::error::Result;
use crate::load::{Files, read_text};
use crate::tree::{Node, Value};
use crate::units;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a seccomp profile.
const PROFILE_BYTES_MAX: usize = 1 << 20;
/// `Count` that stands for all devices there are.
const ALL_DEVICES: i64 = -1;

/// `80/tcp` with the addresses and ports it is reached at.
pub(super) type Ports = BTreeMap<String, Vec<Json>>;

/// # Errors
/// Not a port, or a protocol that is not known.
pub(super) fn ports(node: &Node) -> Result<Ports> {
    let mut all = Ports::new();
    for port in node.get("ports").map_or(&[][..], Node::items) {
        let Some(target) = port.get("target") else { return Err(port.wrong("a port needs a target")) };
        let target = number(target, target.as_int()?)?;
        let protocol = match port.text_of("protocol").to_lowercase().as_str() {
            "" => "tcp".to_owned(),
            known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
            other => return Err(port.wrong(&format!("protocol \"{other}\" is not known"))),
        };
        let published = port.text_of("published");
        let published = if published == "0" { String::new() } else { published };
        let binding = json!({"HostIp": port.text_of("host_ip"), "HostPort": published});
        all.entry(format!("{target}/{protocol}")).or_default().push(binding);
    }
    Ok(all)
}

/// # Errors
/// Values that make no sense, a profile that cannot be read.
pub(super) fn config(
    node: &Node,
    network_mode: String,
    ports: Ports,
    mounts: Mounts,
    folder: &Path,
    files: &dyn Files,
) -> Result<Json> {
    let links: Vec<String> = list(node.get("links"));
    let mut host = json!({
        "Binds": mounts.binds,
        "Mounts": mounts.mounts,
        "Tmpfs": mounts.tmpfs,
        "NetworkMode": network_mode,
        "PortBindings": ports,
        "RestartPolicy": restart(node)?,
        "Privileged": node.flag("privileged")?,
        "ReadonlyRootfs": node.flag("read_only")?,
        "CapAdd": list(node.get("cap_add")),
        "CapDrop": list(node.get("cap_drop")),
        "GroupAdd": list(node.get("group_add")),
        "Dns": list(node.get("dns")),
        "DnsOptions": list(node.get("dns_opt")),
        "DnsSearch": list(node.get("dns_search")),
        "ExtraHosts": list(node.get("extra_hosts")),
        "SecurityOpt": security(node, folder, files)?,
        "Sysctls": texts(node.get("sysctls")),
        "Ulimits": ulimits(node)?,
        "PidMode": node.text_of("pid"),
        "IpcMode": node.text_of("ipc"),
        "UTSMode": node.text_of("uts"),
        "UsernsMode": node.text_of("userns_mode"),
        "CgroupnsMode": first(node, &["cgroup", "cgroupns_mode"]),
        "CgroupParent": node.text_of("cgroup_parent"),
        "Runtime": node.text_of("runtime"),
        "Isolation": node.text_of("isolation"),
        "VolumesFrom": list(node.get("volumes_from")),
        "Devices": devices(node),
        "DeviceCgroupRules": list(node.get("device_cgroup_rules")),
        "Annotations": texts(node.get("annotations")),
        "Links": links,
    });
    if let Some(logging) = node.get("logging") {
        host["LogConfig"] = json!({"Type": logging.text_of("driver"), "Config": texts(logging.get("options"))});
    }
    set(&mut host, "Init", node.get("init").map(Node::as_bool).transpose()?.map(Json::from));
    let requests = device_requests(node)?;
    set(&mut host, "DeviceRequests", (!requests.is_empty()).then(|| requests.into()));
    limits(node, &mut host)?;
    Ok(host)
}

fn first(node: &Node, keys: &[&str]) -> String {
    keys.iter().map(|key| node.text_of(key)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn limits(node: &Node, host: &mut Json) -> Result<()> {
    let group = |name: &str| node.get("deploy").and_then(|plan| plan.get("resources")).and_then(|all| all.get(name));
    let (limits, reservations) = (group("limits"), group("reservations"));
    // The plan's word counts before the older key's.
    let pick = |group: Option<&Node>, key: &str, older: &str| {
        group.and_then(|group| group.get(key)).or_else(|| node.get(older)).cloned()
    };
    let bytes = |value: Option<Node>| value.as_ref().map(units::bytes).transpose();
    let int = |key: &str| node.get(key).map(Node::as_int).transpose();
    set(host, "Memory", bytes(pick(limits, "memory", "mem_limit"))?.map(Json::from));
    set(host, "MemoryReservation", bytes(pick(reservations, "memory", "mem_reservation"))?.map(Json::from));
    let cpus = pick(limits, "cpus", "cpus").as_ref().map(units::nano_cpus).transpose()?;
    set(host, "NanoCpus", cpus.map(Json::from));
    let pids = pick(limits, "pids", "pids_limit").as_ref().map(Node::as_int).transpose()?;
    set(host, "PidsLimit", pids.map(Json::from));
    let swap = match node.get("memswap_limit") {
        Some(given) if given.as_text().as_deref() == Some("-1") => Some(-1),
        given => given.map(units::bytes).transpose()?,
    };
    set(host, "MemorySwap", swap.map(Json::from));
    set(host, "ShmSize", node.get("shm_size").map(units::bytes).transpose()?.map(Json::from));
    for (key, field) in
        [("cpu_shares", "CpuShares"), ("mem_swappiness", "MemorySwappiness"), ("oom_score_adj", "OomScoreAdj")]
    {
        set(host, field, int(key)?.map(Json::from));
    }
    for (key, field) in [("cpu_period", "CpuPeriod"), ("cpu_quota", "CpuQuota")] {
        set(host, field, node.get(key).map(microseconds).transpose()?.map(Json::from));
    }
    set(host, "CpusetCpus", node.get("cpuset").and_then(Node::as_text).map(Json::from));
    set(host, "OomKillDisable", node.get("oom_kill_disable").map(Node::as_bool).transpose()?.map(Json::from));
    Ok(())
}

/// A plain number is microseconds; everything else a duration.
fn microseconds(node: &Node) -> Result<i64> {
    node.as_int().or_else(|_| units::duration_ns(node).map(|ns| ns / 1000))
}

/// `deploy.restart_policy` where it is given, else `restart`.
fn restart(node: &Node) -> Result<Json> {
    let plan = node.get("deploy").and_then(|plan| plan.get("restart_policy"));
    if plan.is_some() && node.get("restart").is_none() {
        let wish = deploy::restart_policy(node)?.unwrap_or_default();
        let count = wish["MaxAttempts"].as_u64().unwrap_or(0);
        return Ok(match wish["Condition"].as_str().unwrap_or_default() {
            "none" => json!({"Name": "no"}),
            "on-failure" => json!({"Name": "on-failure", "MaximumRetryCount": count}),
            _ => json!({"Name": "always"}),
        });
    }
    let Some(given) = node.get("restart") else { return Ok(json!({"Name": "no"})) };
    // YAML reads an unquoted `no` as a truth value in some tools; both mean the same.
    let word = given.as_text().filter(|word| word != "false").unwrap_or_else(|| "no".into());
    let (name, attempts) = word.split_once(':').unwrap_or((&word, ""));
    let count = match attempts {
        "" => 0,
        count => count.parse::<u64>().map_err(|_| given.wrong("maximum retry count must be an integer"))?,
    };
    match name {
        "no" | "always" | "unless-stopped" | "on-failure" => Ok(json!({"Name": name, "MaximumRetryCount": count})),
        other => Err(given.wrong(&format!("unknown restart policy: {other}"))),
    }
}

/// A seccomp profile is sent by value, since the daemon may not see our files.
fn security(node: &Node, folder: &Path, files: &dyn Files) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for option in list(node.get("security_opt")) {
        all.push(match option.split_once(['=', ':']) {
            Some(("seccomp", path)) if path != "unconfined" && path != "builtin" => {
                format!("seccomp={}", read_text(files, &folder.join(path), PROFILE_BYTES_MAX)?)
            }
            // The daemon knows the newer form only.
            Some((name, value)) => format!("{name}={value}"),
            None => option,
        });
    }
    Ok(all)
}

/// `/dev/a[:/dev/b[:rwm]]`, or the same as a mapping.
fn devices(node: &Node) -> Vec<Json> {
    let wire = |host: &str, inside: &str, permissions: &str| {
        let inside = if inside.is_empty() { host } else { inside };
        let permissions = if permissions.is_empty() { "rwm" } else { permissions };
        json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions})
    };
    let one = |item: &Node| {
        if item.map().is_some() {
            return wire(&item.text_of("source"), &item.text_of("target"), &item.text_of("permissions"));
        }
        let text = item.as_text().unwrap_or_default();
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [host, inside, permissions] => wire(host, inside, permissions),
            [host, inside] if inside.starts_with('/') => wire(host, inside, ""),
            [host, permissions] => wire(host, "", permissions),
            _ => wire(&text, "", ""),
        }
    };
    node.get("devices").map_or(&[][..], Node::items).iter().map(one).collect()
}

/// `gpus` and `deploy.resources.reservations.devices`.
fn device_requests(node: &Node) -> Result<Vec<Json>> {
    let reserved = node
        .get("deploy")
        .and_then(|plan| plan.get("resources"))
        .and_then(|all| all.get("reservations"))
        .and_then(|group| group.get("devices"));
    let mut all = Vec::new();
    for item in reserved.map_or(&[][..], Node::items) {
        all.push(device_request(item, &[])?);
    }
    match node.get("gpus") {
        Some(gpus) if gpus.as_text().as_deref() == Some("all") => {
            all.push(json!({"Count": ALL_DEVICES, "Capabilities": [["gpu"]]}));
        }
        Some(gpus) => {
            for item in gpus.items() {
                all.push(device_request(item, &["gpu"])?);
            }
        }
        None => {}
    }
    Ok(all)
}

fn device_request(item: &Node, capabilities: &[&str]) -> Result<Json> {
    let mut wanted = list(item.get("capabilities"));
    wanted.extend(capabilities.iter().map(|word| (*word).to_owned()));
    let ids = list(item.get("device_ids"));
    let count = match item.get("count") {
        Some(Node { value: Value::Text(word), .. }) if word == "all" => ALL_DEVICES,
        Some(count) => count.as_int()?,
        None if ids.is_empty() => ALL_DEVICES,
        None => 0,
    };
    let options: Map<String, Json> = texts(item.get("options"));
    Ok(json!({
        "Driver": item.text_of("driver"), "Count": count, "DeviceIDs": ids, "Capabilities": [wanted], "Options": options,
    }))
}
