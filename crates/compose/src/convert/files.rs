//! Secrets and configs: their content, and how services see them.

use super::{FileObject, Namespace};
use crate::error::Result;
use crate::load::{Files, read_bytes};
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Larger files are refused here, before they are sent; the swarm has its own, lower limit.
const CONTENT_BYTES_MAX: usize = 4 << 20;
/// Permissions where none are given.
const MODE_DEFAULT: u32 = 0o444;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    Config,
}

impl Kind {
    const fn section(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

/// What is to be created; external ones are not.
///
/// # Errors
/// Content that is missing or cannot be read.
pub(super) fn convert(
    project: &Project,
    kind: Kind,
    namespace: &Namespace<'_>,
    files: &dyn Files,
) -> Result<Vec<FileObject>> {
    let mut all = Vec::new();
    for (key, node) in project.section(kind.section()) {
        if node.flag("external")? {
            continue;
        }
        let name = name_of(node, key, namespace);
        let mut body = json!({"Name": name, "Labels": namespace.labels(node.get("labels"))});
        let driver = node.text_of("driver");
        if driver.is_empty() {
            body["Data"] = STANDARD.encode(content(project, kind, key, node, files)?).into();
        } else if node.get("file").is_some() {
            let word = kind.word();
            let message = format!("{word} {key}: {word}.driver and {word}.file conflict; only use {word}.driver");
            return Err(node.wrong(&message));
        } else {
            body["Driver"] = json!({"Name": driver, "Options": super::texts(node.get("driver_opts"))});
        }
        if let Some(template) = node.get("template_driver").and_then(Node::as_text) {
            body["Templating"] = json!({ "Name": template });
        }
        all.push(FileObject { name, body });
    }
    Ok(all)
}

fn content(project: &Project, kind: Kind, key: &str, node: &Node, files: &dyn Files) -> Result<Vec<u8>> {
    let sources: Vec<&str> = ["file", "environment", "content"].into_iter().filter(|k| node.get(k).is_some()).collect();
    let what = format!("{} {key}", kind.word());
    match sources.as_slice() {
        ["file"] => read_bytes(files, Path::new(&node.text_of("file")), CONTENT_BYTES_MAX),
        ["content"] => Ok(node.text_of("content").into_bytes()),
        ["environment"] => {
            let variable = node.text_of("environment");
            let missing = || node.wrong(&format!("{what}: environment variable {variable} is not set"));
            project.variable(&variable).map(|value| value.as_bytes().to_vec()).ok_or_else(missing)
        }
        [] => Err(node.wrong(&format!("{what}: file, environment or external is needed"))),
        _ => Err(node.wrong(&format!("{what}: {} conflict; only use one", sources.join(" and ")))),
    }
}

/// Content that is no file: a variable's value, or what the compose file itself says.
///
/// # Errors
/// There is none, or more than one.
pub(super) fn own_content(project: &Project, section: &str, key: &str, node: &Node) -> Result<Vec<u8>> {
    let kind = if section == Kind::Secret.section() { Kind::Secret } else { Kind::Config };
    let nothing = crate::load::NoFiles;
    content(project, kind, key, node, &nothing)
}

/// References of a service, sorted by name, with the ids left to whoever knows the swarm.
///
/// # Errors
/// One that is not defined, or two in one place.
pub(super) fn references(
    project: &Project,
    kind: Kind,
    service: &Node,
    namespace: &Namespace<'_>,
) -> Result<Vec<Json>> {
    let mut all: Vec<(String, Json)> = Vec::new();
    let mut targets = BTreeSet::new();
    for node in service.get(kind.section()).map_or(&[][..], Node::items) {
        let source = node.text_of("source");
        let Some(defined) = project.object(kind.section(), &source) else {
            return Err(node.wrong(&format!("undefined {} \"{source}\"", kind.word())));
        };
        let or = |key: &str, default: &str| {
            Some(node.text_of(key)).filter(|t| !t.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let target = or("target", &source);
        if !targets.insert(target.clone()) {
            return Err(node.wrong(&format!("duplicate {} target for {source} not allowed", kind.word())));
        }
        let mode = node.get("mode").map_or(Ok(MODE_DEFAULT), units::file_mode)?;
        let file = json!({"Name": target, "UID": or("uid", "0"), "GID": or("gid", "0"), "Mode": mode});
        let name = name_of(defined, &source, namespace);
        let wire = match kind {
            Kind::Secret => json!({"File": file, "SecretID": "", "SecretName": name}),
            Kind::Config => json!({"File": file, "ConfigID": "", "ConfigName": name}),
        };
        all.push((name, wire));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all.into_iter().map(|(_, wire)| wire).collect())
}

fn name_of(node: &Node, key: &str, namespace: &Namespace<'_>) -> String {
    let name = node.text_of("name");
    if name.is_empty() { namespace.scope(key) } else { name }
}
