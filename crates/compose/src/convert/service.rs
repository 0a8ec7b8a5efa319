//! One service as the API's ServiceSpec.

use super::{IMAGE_LABEL, Namespace, Service, deploy, files, list, mounts, networks, texts};
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use serde_json::{Map, Value as Json, json};

/// # Errors
/// A value that makes no sense or names what is not defined.
pub(super) fn convert(project: &Project, key: &str, namespace: &Namespace<'_>) -> Result<Service> {
    let Some(node) = project.object("services", key) else {
        return Err(crate::error::Error::Whole(format!("undefined service \"{key}\"")));
    };
    let image = node.text_of("image");
    let plan = node.get("deploy");

    let mut labels = namespace.labels(plan.and_then(|plan| plan.get("labels")));
    labels.insert(IMAGE_LABEL.into(), image.clone().into());

    let health = node.get("healthcheck").map(health_check).transpose()?;
    let has_health_check = checks(health.as_ref());
    let mut task = json!({
        "ContainerSpec": container(project, node, namespace, health)?,
        "Resources": deploy::resources(node)?,
        "Placement": deploy::placement(node)?,
        "Networks": networks::attachments(project, key, node, namespace)?,
    });
    set(&mut task, "RestartPolicy", deploy::restart_policy(node)?);
    set(
        &mut task,
        "LogDriver",
        node.get("logging")
            .map(|logging| json!({"Name": logging.text_of("driver"), "Options": texts(logging.get("options"))})),
    );

    let mut spec = json!({
        "Name": namespace.scope(key),
        "Labels": labels,
        "TaskTemplate": task,
        "Mode": deploy::mode(node)?,
        "EndpointSpec": {
            "Mode": plan.map(|plan| plan.text_of("endpoint_mode").to_lowercase()).unwrap_or_default(),
            "Ports": ports(node)?,
        },
    });
    for (name, field) in [("update_config", "UpdateConfig"), ("rollback_config", "RollbackConfig")] {
        let config = plan.and_then(|plan| plan.get(name));
        set(&mut spec, field, config.map(deploy::update_config).transpose()?);
    }
    Ok(Service {
        key: key.to_owned(),
        name: namespace.scope(key),
        image,
        spec,
        depends_on: project.dependencies(key)?,
        has_health_check,
    })
}

fn container(project: &Project, node: &Node, namespace: &Namespace<'_>, health: Option<Json>) -> Result<Json> {
    let mut spec = json!({
        "Image": node.text_of("image"),
        "Labels": namespace.labels(node.get("labels")),
        "Command": list(node.get("entrypoint")),
        "Args": list(node.get("command")),
        "Hostname": node.text_of("hostname"),
        "Env": environment(node),
        "Dir": node.text_of("working_dir"),
        "User": node.text_of("user"),
        "Groups": list(node.get("group_add")),
        "StopSignal": node.text_of("stop_signal"),
        "TTY": node.flag("tty")?,
        "OpenStdin": node.flag("stdin_open")?,
        "ReadOnly": node.flag("read_only")?,
        "Mounts": mounts::convert(project, node, namespace)?,
        "Hosts": hosts(node),
        "Secrets": files::references(project, files::Kind::Secret, node, namespace)?,
        "Configs": files::references(project, files::Kind::Config, node, namespace)?,
        "Isolation": node.text_of("isolation"),
        "Sysctls": texts(node.get("sysctls")),
        "Ulimits": ulimits(node)?,
    });
    let (add, drop) = capabilities(list(node.get("cap_add")), list(node.get("cap_drop")));
    set(&mut spec, "CapabilityAdd", Some(add.into()));
    set(&mut spec, "CapabilityDrop", Some(drop.into()));
    set(&mut spec, "Init", node.get("init").map(Node::as_bool).transpose()?.map(Json::from));
    set(&mut spec, "OomScoreAdj", node.get("oom_score_adj").map(Node::as_int).transpose()?.map(Json::from));
    set(
        &mut spec,
        "StopGracePeriod",
        node.get("stop_grace_period").map(units::duration_ns).transpose()?.map(Json::from),
    );
    set(&mut spec, "Healthcheck", health);
    let dns = [("Nameservers", "dns"), ("Search", "dns_search"), ("Options", "dns_opt")];
    let dns: Map<String, Json> = dns
        .into_iter()
        .map(|(field, key)| (field.to_owned(), list(node.get(key))))
        .filter(|(_, list)| !list.is_empty())
        .map(|(field, list)| (field, list.into()))
        .collect();
    set(&mut spec, "DNSConfig", (!dns.is_empty()).then_some(Json::Object(dns)));
    Ok(spec)
}

pub(super) fn set(object: &mut Json, field: &str, value: Option<Json>) {
    if let Some(value) = value {
        object[field] = value;
    }
}

/// Sorted, so that the order in the file does not restart anything.
pub(super) fn environment(node: &Node) -> Vec<String> {
    let line = |(name, value): (&String, &Node)| match value.as_text() {
        Some(text) => format!("{name}={text}"),
        None => name.clone(),
    };
    let mut lines: Vec<String> = node.get("environment").into_iter().flat_map(Node::entries).map(line).collect();
    lines.sort();
    lines
}

/// `name:address` as the API has it: `address name`.
fn hosts(node: &Node) -> Vec<String> {
    let swap = |line: String| line.split_once(':').map(|(name, address)| format!("{address} {name}"));
    list(node.get("extra_hosts")).into_iter().filter_map(swap).collect()
}

/// Whether there is a test to run.
pub(super) fn checks(health: Option<&Json>) -> bool {
    let test = health.and_then(|health| health["Test"].as_array());
    test.is_some_and(|test| test.first().is_some_and(|first| first != "NONE"))
}

pub(super) fn health_check(node: &Node) -> Result<Json> {
    let test = list(node.get("test"));
    if node.flag("disable")? {
        if !test.is_empty() {
            return Err(node.wrong("test and disable can't be set at the same time"));
        }
        return Ok(json!({"Test": ["NONE"]}));
    }
    let mut check = json!({ "Test": test });
    for (key, field) in [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start_period", "StartPeriod"),
        ("start_interval", "StartInterval"),
    ] {
        set(&mut check, field, node.get(key).map(units::duration_ns).transpose()?.map(Json::from));
    }
    set(&mut check, "Retries", node.get("retries").map(Node::as_count).transpose()?.map(Json::from));
    Ok(check)
}

pub(super) fn ulimits(node: &Node) -> Result<Vec<Json>> {
    let one = |(name, limit): (&String, &Node)| {
        let value = |key: &str| limit.get(key).map_or(Ok(0), Node::as_int);
        Ok(json!({"Name": name, "Soft": value("soft")?, "Hard": value("hard")?}))
    };
    node.get("ulimits").into_iter().flat_map(Node::entries).map(one).collect()
}

/// Upper case with `CAP_`; what is both added and dropped is added; `ALL` covers the rest.
fn capabilities(add: Vec<String>, drop: Vec<String>) -> (Vec<String>, Vec<String>) {
    let normal = |list: Vec<String>| {
        let one = |name: String| {
            let upper = name.trim().to_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
        };
        let mut list: Vec<String> = list.into_iter().map(one).collect();
        list.sort();
        list.dedup();
        if list.iter().any(|name| name == "ALL") { vec!["ALL".to_owned()] } else { list }
    };
    let (add, mut drop) = (normal(add), normal(drop));
    if add != ["ALL"] {
        drop.retain(|name| !add.contains(name));
    }
    (add, drop)
}

/// By published port, as the reference sorts them.
fn ports(node: &Node) -> Result<Vec<Json>> {
    let mut ports = Vec::new();
    for port in node.get("ports").map_or(&[][..], Node::items) {
        let Some(target) = port.get("target") else {
            return Err(port.wrong("a port needs a target"));
        };
        let target = number(target, target.as_int()?)?;
        let published = published(port)?;
        let protocol = match port.text_of("protocol").to_lowercase().as_str() {
            "" => "tcp".to_owned(),
            known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
            other => return Err(port.wrong(&format!("protocol \"{other}\" is not known"))),
        };
        let mode = port.text_of("mode");
        if !matches!(mode.as_str(), "" | "ingress" | "host") {
            return Err(port.wrong(&format!("port mode \"{mode}\" is not known: use ingress or host")));
        }
        let mut one = json!({"Protocol": protocol, "TargetPort": target, "PublishMode": mode});
        set(&mut one, "PublishedPort", (published > 0).then(|| published.into()));
        set(&mut one, "Name", port.get("name").and_then(Node::as_text).map(Json::from));
        ports.push(one);
    }
    ports.sort_by_key(|port| {
        (port["PublishedPort"].as_u64(), port["TargetPort"].as_u64(), port["Protocol"].as_str().map(str::to_owned))
    });
    Ok(ports)
}

/// 0 where the swarm chooses.
fn published(port: &Node) -> Result<u16> {
    match port.get("published") {
        None => Ok(0),
        Some(node) if node.as_text().is_some_and(|text| text.is_empty()) => Ok(0),
        Some(node) => number(node, node.as_int()?),
    }
}

pub(super) fn number(node: &Node, port: i64) -> Result<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| node.wrong(&format!("{port} is not a port")))
}
