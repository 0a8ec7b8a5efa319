//! Every short form becomes the long one, so that merging and converting know one shape.
//! Relative paths become paths below the file's folder.

use crate::error::{Error, Result};
use crate::schema::Purpose;
use crate::short::{hosts, mount, ports, published_range, table};
use crate::tree::{Entry, Map, Node, Value};
use std::cell::Cell;
use std::path::{Component, Path, PathBuf};

/// Ports that all services together may have.
const PORTS_MAX: usize = 100_000;

/// Where relative paths begin, and where `~` leads.
pub(crate) struct Base<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) home: Option<&'a str>,
    /// Ports written so far, ranges in full.
    pub(crate) ports: Cell<usize>,
    pub(crate) purpose: Purpose,
}

impl<'a> Base<'a> {
    pub(crate) fn new(folder: &'a Path, home: Option<&'a str>, purpose: Purpose) -> Self {
        Self { folder, home, ports: Cell::new(0), purpose }
    }
}

/// Rewrites a checked file in place.
///
/// # Errors
/// A malformed short form, a contradiction between `external` and other keys.
pub(crate) fn rewrite(root: &mut Node, base: &Base<'_>) -> Result<()> {
    each(root, "services", |_, node| service(node, base))?;
    each(root, "networks", |name, node| top_level(node, "network", name, base))?;
    each(root, "volumes", |name, node| top_level(node, "volume", name, base))?;
    each(root, "secrets", |name, node| top_level(node, "secret", name, base))?;
    each(root, "configs", |name, node| top_level(node, "config", name, base))
}

fn each(root: &mut Node, section: &str, mut change: impl FnMut(&str, &mut Node) -> Result<()>) -> Result<()> {
    let Some(entry) = root.map_mut().and_then(|map| map.get_mut(section)) else { return Ok(()) };
    for (name, entry) in entry.node.map_mut().into_iter().flatten() {
        if entry.node.is_null() {
            entry.node.value = Value::Map(Map::new());
        }
        change(name, &mut entry.node)?;
    }
    Ok(())
}

fn service(node: &mut Node, base: &Base<'_>) -> Result<()> {
    for key in ["environment", "labels", "sysctls", "annotations"] {
        replace(node, key, |value| Ok(pairs(value)))?;
    }
    for key in ["command", "entrypoint"] {
        replace(node, key, words)?;
    }
    for key in ["tmpfs", "dns", "dns_search", "label_file"] {
        replace(node, key, |value| Ok(list(value)))?;
    }
    replace(node, "extra_hosts", |value| Ok(Value::List(hosts(value))))?;
    replace(node, "depends_on", |value| Ok(dependencies(value)))?;
    replace(node, "networks", |value| Ok(named(value)))?;
    replace(node, "build", |value| build(value, base))?;
    replace(node, "label_file", |value| Ok(paths(value, base)))?;
    replace(node, "extends", |value| extends(value, base))?;
    replace(node, "env_file", |value| env_files(value, base))?;
    replace(node, "ports", |value| all_ports(value, base))?;
    replace(node, "volumes", |value| long_forms(value, |item| Ok(vec![mount(item)?])))?;
    for mount in items_mut(node, "volumes") {
        mount_paths(mount, base)?;
    }
    for key in ["secrets", "configs"] {
        replace(node, key, |value| {
            long_forms(value, |item| Ok(vec![table(&item.at, vec![("source", item.value.clone())])]))
        })?;
    }
    if let Some(health) = child_mut(node, "healthcheck") {
        replace(health, "test", |value| Ok(health_test(value)))?;
    }
    if let Some(limits) = child_mut(node, "ulimits") {
        for entry in limits.map_mut().into_iter().flatten().map(|(_, entry)| entry) {
            if entry.node.is_scalar() {
                let value = entry.node.value.clone();
                entry.node = table(&entry.node.at, vec![("soft", value.clone()), ("hard", value)]);
            }
        }
    }
    if let Some(deploy) = child_mut(node, "deploy") {
        replace(deploy, "labels", |value| Ok(pairs(value)))?;
    }
    Ok(())
}

/// Networks, volumes, secrets and configs: labels as a mapping, `external: {name: x}` as two keys.
fn top_level(node: &mut Node, kind: &str, name: &str, base: &Base<'_>) -> Result<()> {
    replace(node, "labels", |value| Ok(pairs(value)))?;
    if let Some(file) = node.get("file").and_then(Node::as_text) {
        let path = below(base, &file);
        set(node, "file", Value::Text(path));
    }
    let Some(external) = node.get("external").cloned() else { return Ok(()) };
    if external.map().is_some() {
        if node.get("name").is_some() && external.get("name").is_some() {
            let conflict =
                format!("{kind} {name}: {kind}.external.name and {kind}.name conflict; only use {kind}.name");
            return Err(Error::at(&external.at, conflict));
        }
        if let Some(other) = external.get("name") {
            set(node, "name", other.value.clone());
        }
        set(node, "external", Value::Bool(true));
    } else {
        let flag = external.as_bool()?;
        set(node, "external", Value::Bool(flag));
    }
    if node.flag("external")? {
        let clash = ["driver", "driver_opts", "labels"].into_iter().find(|key| node.get(key).is_some());
        if let Some(key) = clash.filter(|_| kind == "volume") {
            let message = format!("conflicting parameters \"external\" and \"{key}\" specified for volume \"{name}\"");
            return Err(Error::at(&external.at, message));
        }
        if node.get("name").is_none() {
            set(node, "name", Value::Text(name.to_owned()));
        }
    }
    Ok(())
}

/// Rewrites one key, if it is there.
fn replace(node: &mut Node, key: &str, change: impl FnOnce(&Node) -> Result<Value>) -> Result<()> {
    let Some(entry) = node.map_mut().and_then(|map| map.get_mut(key)) else { return Ok(()) };
    if !entry.node.is_null() {
        entry.node.value = change(&entry.node)?;
    }
    Ok(())
}

fn set(node: &mut Node, key: &str, value: Value) {
    let at = node.at.clone();
    if let Some(map) = node.map_mut() {
        map.insert(key.to_owned(), Entry { key_at: at.clone(), node: Node::new(&at, value) });
    }
}

fn child_mut<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    node.map_mut().and_then(|map| map.get_mut(key)).map(|entry| &mut entry.node)
}

fn items_mut<'n>(node: &'n mut Node, key: &str) -> &'n mut [Node] {
    match child_mut(node, key).map(|child| &mut child.value) {
        Some(Value::List(items)) => items,
        _ => &mut [],
    }
}

/// `[A=b, C]` and `{A: b, C: null}` as a mapping of texts; a name alone has null.
fn pairs(node: &Node) -> Value {
    let entry = |at: &crate::error::Place, value| Entry { key_at: at.clone(), node: Node::new(at, value) };
    let text = |node: &Node| node.as_text().map_or(Value::Null, Value::Text);
    if node.map().is_some() {
        return Value::Map(node.entries().map(|(key, value)| (key.clone(), entry(&value.at, text(value)))).collect());
    }
    let split = |item: &Node| {
        let line = item.as_text().unwrap_or_default();
        match line.split_once('=') {
            Some((key, value)) => (key.to_owned(), entry(&item.at, Value::Text(value.to_owned()))),
            None => (line, entry(&item.at, Value::Null)),
        }
    };
    Value::Map(node.items().iter().map(split).collect())
}

/// A shell-like line or a list of words.
fn words(node: &Node) -> Result<Value> {
    let texts = match &node.value {
        Value::List(items) => {
            items.iter().map(|item| Node::text(&item.at, item.as_text().unwrap_or_default())).collect()
        }
        _ => {
            let line = node.as_text().unwrap_or_default();
            let words = shlex::split(&line).ok_or_else(|| node.wrong("a quote is opened and never closed"))?;
            words.into_iter().map(|word| Node::text(&node.at, word)).collect()
        }
    };
    Ok(Value::List(texts))
}

fn list(node: &Node) -> Value {
    match &node.value {
        Value::List(items) => Value::List(items.clone()),
        _ => Value::List(vec![Node::text(&node.at, node.as_text().unwrap_or_default())]),
    }
}

/// A list of names as a mapping of names to nothing.
fn named(node: &Node) -> Value {
    match &node.value {
        Value::List(items) => {
            let entry = |item: &Node| Entry { key_at: item.at.clone(), node: Node::new(&item.at, Value::Null) };
            Value::Map(items.iter().map(|item| (item.as_text().unwrap_or_default(), entry(item))).collect())
        }
        other => other.clone(),
    }
}

fn dependencies(node: &Node) -> Value {
    let Value::Map(mut map) = named(node) else { return Value::Null };
    for entry in map.values_mut() {
        let at = entry.node.at.clone();
        if entry.node.get("condition").is_none() {
            if entry.node.is_null() {
                entry.node.value = Value::Map(Map::new());
            }
            let condition = Node::text(&at, "service_started");
            let condition = Entry { key_at: at, node: condition };
            if let Some(map) = entry.node.map_mut() {
                map.insert("condition".into(), condition);
            }
        }
    }
    Value::Map(map)
}

fn extends(node: &Node, base: &Base<'_>) -> Result<Value> {
    if node.is_scalar() {
        return Ok(table(&node.at, vec![("service", node.value.clone())]).value);
    }
    if node.get("service").is_none() {
        return Err(node.wrong("extends needs the name of a service"));
    }
    let mut long = node.clone();
    if let Some(file) = node.get("file").and_then(Node::as_text) {
        set(&mut long, "file", Value::Text(below(base, &file)));
    }
    Ok(long.value)
}

/// A folder alone, or the mapping with its pairs in one shape.
fn build(node: &Node, base: &Base<'_>) -> Result<Value> {
    let mut long = if node.is_scalar() { table(&node.at, vec![("context", node.value.clone())]) } else { node.clone() };
    for key in ["args", "labels", "additional_contexts"] {
        replace(&mut long, key, |value| Ok(pairs(value)))?;
    }
    replace(&mut long, "extra_hosts", |value| Ok(Value::List(hosts(value))))?;
    // One that is not given must not hide the one of an earlier file.
    if let Some(context) = long.get("context").and_then(Node::as_text).filter(|context| !is_remote(context)) {
        set(&mut long, "context", Value::Text(below(base, &context)));
    }
    Ok(long.value)
}

/// A context that is fetched instead of read from a folder.
pub(crate) fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "github.com/", "git@"].iter().any(|start| context.starts_with(start))
}

fn paths(node: &Node, base: &Base<'_>) -> Value {
    let one = |item: &Node| Node::text(&item.at, below(base, &item.as_text().unwrap_or_default()));
    Value::List(node.items().iter().map(one).collect())
}

fn env_files(node: &Node, base: &Base<'_>) -> Result<Value> {
    let one = std::slice::from_ref(node);
    let items = if node.is_scalar() { one } else { node.items() };
    let mut files = Vec::new();
    for item in items {
        let (path, required, format) = if item.is_scalar() {
            (item.as_text().unwrap_or_default(), true, String::new())
        } else {
            let required = item.get("required").map_or(Ok(true), Node::as_bool)?;
            (item.text_of("path"), required, item.text_of("format"))
        };
        if path.is_empty() {
            return Err(item.wrong("env_file needs a path"));
        }
        if !matches!(format.as_str(), "" | "raw") {
            return Err(item.wrong(&format!("env_file format \"{format}\" is not known")));
        }
        let mut fields = vec![("path", Value::Text(below(base, &path))), ("required", Value::Bool(required))];
        if !format.is_empty() {
            fields.push(("format", Value::Text(format)));
        }
        files.push(table(&item.at, fields));
    }
    Ok(Value::List(files))
}

/// Single ports, from ranges in either form.
fn all_ports(node: &Node, base: &Base<'_>) -> Result<Value> {
    let mut items = Vec::new();
    for item in node.items() {
        let added = match base.purpose {
            _ if item.is_scalar() => ports(item, base.purpose)?,
            Purpose::Stack => published_range(item)?,
            Purpose::Local => vec![item.clone()],
        };
        base.ports.set(base.ports.get() + added.len());
        if base.ports.get() > PORTS_MAX {
            return Err(item.wrong(&format!("more than {PORTS_MAX} ports (ranges count in full)")));
        }
        items.extend(added);
    }
    Ok(Value::List(items))
}

fn long_forms(node: &Node, long: impl Fn(&Node) -> Result<Vec<Node>>) -> Result<Value> {
    let mut items = Vec::new();
    for item in node.items() {
        if item.is_scalar() {
            items.extend(long(item)?);
        } else {
            items.push(item.clone());
        }
    }
    Ok(Value::List(items))
}

fn mount_paths(mount: &mut Node, base: &Base<'_>) -> Result<()> {
    if mount.text_of("type") == "bind" {
        let source = mount.text_of("source");
        if source.is_empty() {
            return Err(mount.wrong("invalid mount config for type \"bind\": field Source must not be empty"));
        }
        set(mount, "source", Value::Text(below(base, &source)));
    }
    match child_mut(mount, "volume") {
        Some(volume) => replace(volume, "labels", |value| Ok(pairs(value))),
        None => Ok(()),
    }
}

fn health_test(node: &Node) -> Value {
    match &node.value {
        Value::List(items) => Value::List(items.clone()),
        _ => {
            let line = node.as_text().unwrap_or_default();
            Value::List(vec![Node::text(&node.at, "CMD-SHELL"), Node::text(&node.at, line)])
        }
    }
}

/// A path as seen from the file's folder, without `.` and `..` where that is possible.
pub(crate) fn below(base: &Base<'_>, path: &str) -> String {
    let expanded = match (path.strip_prefix('~'), base.home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => path.to_owned(),
    };
    let mut clean = PathBuf::new();
    for part in base.folder.join(expanded).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean.to_string_lossy().into_owned()
}
