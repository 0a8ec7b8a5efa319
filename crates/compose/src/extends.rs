//! `extends`: a service laid over another one, of the same file or of another.

use crate::error::{Error, Place, Result};
use crate::load::Loader;
use crate::merge::merge_service;
use crate::tree::{Entry, Map, Node, Value};
use std::path::{Path, PathBuf};

/// Services that extend each other in a row.
const DEPTH_MAX: usize = 64;
/// Values that all copies together may have.
const COPIED_VALUES_MAX: usize = 200_000;

/// Gives the canonical form of another file.
pub(crate) type Open<'o, 'l> = &'o mut dyn FnMut(&mut Loader<'l>, &Path) -> Result<Node>;

/// Replaces every `extends` of a file by what it stands for.
///
/// # Errors
/// A service or file that is not there, or a circle.
pub(crate) fn resolve<'l>(root: &mut Node, loader: &mut Loader<'l>, file: &Path, open: Open<'_, 'l>) -> Result<()> {
    let Some(services) = root.get("services").and_then(Node::map) else { return Ok(()) };
    if !services.values().any(|entry| entry.node.get("extends").is_some()) {
        return Ok(());
    }
    let services = services.clone();
    let mut resolved = Map::new();
    for (name, entry) in &services {
        let node = one(&services, name, &entry.key_at, file, loader, open, &mut Vec::new())?;
        resolved.insert(name.clone(), Entry { key_at: entry.key_at.clone(), node });
    }
    if let Some(entry) = root.map_mut().and_then(|map| map.get_mut("services")) {
        entry.node.value = Value::Map(resolved);
    }
    Ok(())
}

fn one<'l>(
    services: &Map,
    name: &str,
    asked_at: &Place,
    file: &Path,
    loader: &mut Loader<'l>,
    open: Open<'_, 'l>,
    chain: &mut Vec<(PathBuf, String)>,
) -> Result<Node> {
    let here = (file.to_owned(), name.to_owned());
    let repeated = chain.contains(&here);
    chain.push(here);
    if repeated {
        let shown = chain.iter().map(|(file, name)| format!("{} ({})", name, file.display())).collect();
        return Err(Error::Loop { what: "extends", chain: shown });
    }
    if chain.len() > DEPTH_MAX {
        return Err(Error::at(asked_at, format!("more than {DEPTH_MAX} services extend each other")));
    }
    let Some(entry) = services.get(name) else {
        let message = format!("cannot extend service \"{name}\": {} does not define it", file.display());
        return Err(Error::at(asked_at, message));
    };
    let mut node = entry.node.clone();
    let Some(extends) = node.map_mut().and_then(|map| map.remove("extends")) else {
        chain.pop();
        return Ok(node);
    };
    let (target, other) = (extends.node.text_of("service"), extends.node.text_of("file"));
    let base = if other.is_empty() {
        one(services, &target, &extends.key_at, file, loader, open, chain)?
    } else {
        let path = PathBuf::from(other);
        let document = open(loader, &path)?;
        let empty = Map::new();
        let services = document.get("services").and_then(Node::map).unwrap_or(&empty);
        one(services, &target, &extends.key_at, &path, loader, open, chain)?
    };
    chain.pop();
    loader.copied += count(&base);
    if loader.copied > COPIED_VALUES_MAX {
        let message = format!("extends copies more than {COPIED_VALUES_MAX} values");
        return Err(Error::at(&extends.key_at, message));
    }
    merge_service(base, node)
}

fn count(node: &Node) -> usize {
    1 + node.items().iter().map(count).sum::<usize>() + node.entries().map(|(_, child)| count(child)).sum::<usize>()
}
