//! The keys a compose file may have, what kind of value each takes, and who honours it.
//! An unknown key is an error with its place and a guess at what was meant.

use crate::error::{Error, Result};
use crate::schema_keys::ROOT;
use crate::tree::{Node, Value};
use std::collections::BTreeSet;

/// Guesses below this likeness are no help.
const LIKENESS_MIN: f64 = 0.75;

/// Longer keys are no slip of the fingers, and comparing them takes long.
const GUESSED_BYTES_MAX: usize = 64;

/// The kind of value that a key takes.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Any,
    Scalar,
    /// A text or a list of texts.
    Words,
    List(&'static Shape),
    /// A list of `key=value` or a mapping of scalars.
    Pairs,
    /// A mapping with these keys.
    Table(&'static [Key]),
    /// A mapping whose keys the user chooses.
    Names(&'static Shape),
    /// The first whose kind fits.
    Either(&'static [Shape]),
}

/// Who honours a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Both,
    /// Only what runs on one machine without a swarm.
    Local,
    Nobody,
}

/// What the file is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Stack,
    Local,
}

impl Use {
    fn ignored_by(self, purpose: Purpose) -> bool {
        match self {
            Self::Both => false,
            Self::Local => purpose == Purpose::Stack,
            Self::Nobody => true,
        }
    }
}

pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) used: Use,
}

/// Checks a whole file and collects the keys that are ignored, as users write them
/// (`build`, `deploy.resources.reservations.devices`).
///
/// # Errors
/// The first unknown key or value of the wrong kind.
pub(crate) fn check(root: &Node, purpose: Purpose, ignored: &mut BTreeSet<String>) -> Result<()> {
    if root.map().is_none() {
        return Err(Error::at(&root.at, format!("top-level object must be a mapping, not {}", root.kind())));
    }
    walk(root, &ROOT, &mut Vec::new(), &mut Found { purpose, ignored })
}

/// Where ignored keys are noted.
struct Found<'a> {
    purpose: Purpose,
    ignored: &'a mut BTreeSet<String>,
}

fn walk(node: &Node, shape: &Shape, path: &mut Vec<String>, ignored: &mut Found<'_>) -> Result<()> {
    if node.is_null() {
        return Ok(());
    }
    match shape {
        Shape::Any => Ok(()),
        Shape::Scalar if node.is_scalar() => Ok(()),
        Shape::Words if node.is_scalar() => Ok(()),
        Shape::Words => each(node, &Shape::Scalar, path, ignored, shape),
        Shape::List(of) => each(node, of, path, ignored, shape),
        Shape::Pairs if node.map().is_some() => names(node, &Shape::Scalar, path, ignored),
        Shape::Pairs => each(node, &Shape::Scalar, path, ignored, shape),
        Shape::Table(keys) if node.map().is_some() => table(node, keys, path, ignored),
        Shape::Names(of) if node.map().is_some() => names(node, of, path, ignored),
        Shape::Either(shapes) => match shapes.iter().find(|shape| fits(node, shape)) {
            Some(shape) => walk(node, shape, path, ignored),
            None => Err(mismatch(node, shape, path)),
        },
        Shape::Scalar | Shape::Table(_) | Shape::Names(_) => Err(mismatch(node, shape, path)),
    }
}

fn each(node: &Node, of: &Shape, path: &mut Vec<String>, ignored: &mut Found<'_>, shape: &Shape) -> Result<()> {
    let Value::List(items) = &node.value else { return Err(mismatch(node, shape, path)) };
    items.iter().try_for_each(|item| walk(item, of, path, ignored))
}

fn names(node: &Node, of: &Shape, path: &mut Vec<String>, ignored: &mut Found<'_>) -> Result<()> {
    for (key, child) in node.entries() {
        path.push(key.clone());
        walk(child, of, path, ignored)?;
        path.pop();
    }
    Ok(())
}

fn table(node: &Node, keys: &[Key], path: &mut Vec<String>, found: &mut Found<'_>) -> Result<()> {
    for (key, entry) in node.map().into_iter().flatten().filter(|(key, _)| !key.starts_with("x-")) {
        let Some(known) = keys.iter().find(|known| known.name == key) else {
            return Err(Error::at(&entry.key_at, unknown(key, keys, path)));
        };
        path.push(key.clone());
        if known.used.ignored_by(found.purpose) && !entry.node.is_null() {
            found.ignored.insert(shown(path));
            // What is below an ignored key is not named on its own.
            let mut below = Found { purpose: found.purpose, ignored: &mut BTreeSet::new() };
            walk(&entry.node, &known.shape, path, &mut below)?;
        } else {
            walk(&entry.node, &known.shape, path, found)?;
        }
        path.pop();
    }
    Ok(())
}

/// The path as users write it: below a service its own name says nothing.
fn shown(path: &[String]) -> String {
    let from = if path.first().is_some_and(|first| first == "services") { 2 } else { 0 };
    path.get(from..).unwrap_or_default().join(".")
}

fn unknown(key: &str, keys: &[Key], path: &[String]) -> String {
    let within = if path.is_empty() { "(root)".to_owned() } else { path.join(".") };
    let likeness = |name: &str| strsim::jaro_winkler(&key.to_ascii_lowercase(), name);
    let guessable: &[Key] = if key.len() <= GUESSED_BYTES_MAX { keys } else { &[] };
    let best = guessable.iter().map(|known| (likeness(known.name), known.name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best.filter(|(likeness, _)| *likeness >= LIKENESS_MIN) {
        Some((_, name)) => format!("{within} Additional property {key} is not allowed; did you mean \"{name}\"?"),
        None => format!("{within} Additional property {key} is not allowed"),
    }
}

fn fits(node: &Node, shape: &Shape) -> bool {
    match shape {
        Shape::Any => true,
        Shape::Scalar => node.is_scalar(),
        Shape::Words => node.is_scalar() || matches!(node.value, Value::List(_)),
        Shape::List(_) => matches!(node.value, Value::List(_)),
        Shape::Pairs => !node.is_scalar(),
        Shape::Table(_) | Shape::Names(_) => node.map().is_some(),
        Shape::Either(shapes) => shapes.iter().any(|shape| fits(node, shape)),
    }
}

fn mismatch(node: &Node, shape: &Shape, path: &[String]) -> Error {
    let place = if path.is_empty() { "the file".to_owned() } else { path.join(".") };
    Error::at(&node.at, format!("{place} must be {}, not {}", expected(shape), node.kind()))
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Any => "anything".into(),
        Shape::Scalar => "a text or a number".into(),
        Shape::Words => "a text or a list".into(),
        Shape::List(_) => "a list".into(),
        Shape::Pairs => "a mapping or a list of key=value".into(),
        Shape::Table(_) | Shape::Names(_) => "a mapping".into(),
        Shape::Either(shapes) => shapes.iter().map(expected).collect::<Vec<_>>().join(" or "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> std::result::Result<Vec<String>, String> {
        let document = crate::yaml::parse("f.yml", text).unwrap().remove(0);
        let mut ignored = BTreeSet::new();
        check(&document, Purpose::Stack, &mut ignored).map_err(|error| error.to_string())?;
        Ok(ignored.into_iter().collect())
    }

    #[test]
    fn unknown_keys_are_errors_with_a_guess() {
        assert_eq!(
            run("services:\n  web:\n    imgae: x\n").unwrap_err(),
            "f.yml:3:5: services.web Additional property imgae is not allowed; did you mean \"image\"?"
        );
        assert_eq!(run("zzz: 1\n").unwrap_err(), "f.yml:1:1: (root) Additional property zzz is not allowed");
        assert!(run("services:\n  web:\n    deploy:\n      replcas: 1\n").unwrap_err().contains("\"replicas\""));
        assert_eq!(run("services:\n  web:\n    x-mine: {a: 1}\nx-y: 1\nversion: \"9\"\nname: n\n").unwrap(), [""; 0]);
    }

    #[test]
    fn values_of_the_wrong_kind_are_errors() {
        assert_eq!(run("services: [a]\n").unwrap_err(), "f.yml:1:11: services must be a mapping, not a list");
        assert!(run("services: {a: {ports: 80}}").unwrap_err().contains("services.a.ports must be a list"));
        assert!(run("services: {a: {environment: x}}").unwrap_err().contains("must be a mapping or a list"));
        assert!(run("- a\n").unwrap_err().contains("top-level object must be a mapping"));
    }

    #[test]
    fn ignored_keys_are_named_once() {
        let text = "services:\n  a: {build: ., privileged: true}\n  b: {build: {context: .}, deploy: {resources: {reservations: {devices: [{count: 1}]}}}}\nnetworks: {n: {enable_ipv4: true}}\n";
        assert_eq!(
            run(text).unwrap(),
            ["build", "deploy.resources.reservations.devices", "networks.n.enable_ipv4", "privileged"]
        );
        let document =
            crate::yaml::parse("f.yml", "services: {a: {build: {ssh: [x]}, tty: true, models: [m]}}").unwrap();
        let mut ignored = BTreeSet::new();
        check(&document[0], Purpose::Local, &mut ignored).unwrap();
        assert_eq!(ignored.into_iter().collect::<Vec<_>>(), ["build.ssh", "models"]);
    }
}
