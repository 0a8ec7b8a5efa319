//! Volumes of a project, and mounts of its containers.

use super::{LocalVolume, name_of};
use crate::convert::{list, service::set, texts};
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

/// Folder in which secrets appear.
const SECRETS: &str = "/run/secrets";

/// The volumes that services use.
///
/// # Errors
/// Values of the wrong kind.
pub(super) fn volumes(project: &Project) -> Result<Vec<LocalVolume>> {
    let mounts = project.section("services").flat_map(|(_, node)| node.get("volumes").map_or(&[][..], Node::items));
    let used: BTreeSet<String> = mounts.filter(|node| is_volume(node)).map(|node| node.text_of("source")).collect();
    let mut all = Vec::new();
    for key in used.into_iter().filter(|key| !key.is_empty()) {
        let Some(node) = project.object("volumes", &key) else { continue };
        let name = name_of(project, Some(node), &key);
        let driver = node.text_of("driver");
        let body = json!({
            "Name": name, "Driver": if driver.is_empty() { "local" } else { &driver },
            "DriverOpts": texts(node.get("driver_opts")), "Labels": texts(node.get("labels")),
        });
        all.push(LocalVolume { key, name, body: (!node.flag("external")?).then_some(body) });
    }
    Ok(all)
}

fn is_volume(node: &Node) -> bool {
    matches!(node.text_of("type").as_str(), "" | "volume")
}

/// What a container mounts, in the API's three forms.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// `source:target:options`
    pub(super) binds: Vec<String>,
    pub(super) mounts: Vec<Json>,
    pub(super) tmpfs: Map<String, Json>,
}

/// # Errors
/// A volume that is not defined, options of another kind of mount.
pub(super) fn convert(project: &Project, service: &Node) -> Result<Mounts> {
    let mut all = Mounts::default();
    for text in list(service.get("tmpfs")) {
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        all.tmpfs.insert(target.to_owned(), options.into());
    }
    for node in service.get("volumes").map_or(&[][..], Node::items) {
        one(project, node, &mut all)?;
    }
    for (section, folder) in [("secrets", SECRETS), ("configs", "")] {
        for node in service.get(section).map_or(&[][..], Node::items) {
            if let Some(mount) = file(project, section, folder, node)? {
                all.mounts.push(mount);
            }
        }
    }
    Ok(all)
}

fn one(project: &Project, node: &Node, all: &mut Mounts) -> Result<()> {
    let (kind, source, target) = (node.text_of("type"), node.text_of("source"), node.text_of("target"));
    if target.is_empty() {
        return Err(node.wrong("a mount needs a target"));
    }
    let read_only = node.flag("read_only")?;
    match kind.as_str() {
        "" | "volume" => volume(project, node, &source, &target, read_only, all),
        "bind" => {
            let options = node.get("bind");
            let option = |key: &str| options.map(|options| options.text_of(key)).unwrap_or_default();
            let create = options.and_then(|options| options.get("create_host_path")).map_or(Ok(true), Node::as_bool)?;
            let recursive = option("recursive");
            if create && recursive.is_empty() && !source.contains(':') && !target.contains(':') {
                let mode = if read_only { "ro" } else { "rw" };
                let propagation = option("propagation");
                let more = if propagation.is_empty() { String::new() } else { format!(",{propagation}") };
                all.binds.push(format!("{source}:{target}:{mode}{more}"));
                return Ok(());
            }
            let mut wire = json!({"Propagation": option("propagation"), "CreateMountpoint": create});
            match recursive.as_str() {
                "" | "enabled" => {}
                "disabled" => wire["NonRecursive"] = true.into(),
                "writable" => wire["ReadOnlyNonRecursive"] = true.into(),
                "readonly" => wire["ReadOnlyForceRecursive"] = true.into(),
                other => return Err(node.wrong(&format!("bind.recursive \"{other}\" is not known"))),
            }
            all.mounts.push(mount("bind", &source, &target, read_only, "BindOptions", wire));
            Ok(())
        }
        "tmpfs" => {
            let mut wire = json!({});
            if let Some(options) = node.get("tmpfs") {
                set(&mut wire, "SizeBytes", options.get("size").map(units::bytes).transpose()?.map(Json::from));
                set(&mut wire, "Mode", options.get("mode").map(units::file_mode).transpose()?.map(Json::from));
            }
            all.mounts.push(mount("tmpfs", "", &target, read_only, "TmpfsOptions", wire));
            Ok(())
        }
        "image" => {
            let path = node.get("image").map(|options| options.text_of("subpath")).unwrap_or_default();
            all.mounts.push(mount("image", &source, &target, read_only, "ImageOptions", json!({ "Subpath": path })));
            Ok(())
        }
        other => Err(node.wrong(&format!("a mount of type \"{other}\" is not supported here"))),
    }
}

fn volume(project: &Project, node: &Node, source: &str, target: &str, read_only: bool, all: &mut Mounts) -> Result<()> {
    let options = node.get("volume");
    let no_copy = options.map_or(Ok(false), |options| options.flag("nocopy"))?;
    if source.is_empty() {
        all.mounts.push(mount("volume", "", target, read_only, "VolumeOptions", json!({ "NoCopy": no_copy })));
        return Ok(());
    }
    let Some(defined) = project.object("volumes", source) else {
        return Err(node.wrong(&format!("service refers to undefined volume {source}: invalid compose project")));
    };
    let name = name_of(project, Some(defined), source);
    let path = options.map(|options| options.text_of("subpath")).unwrap_or_default();
    if !path.is_empty() {
        let wire = json!({"NoCopy": no_copy, "Subpath": path});
        all.mounts.push(mount("volume", &name, target, read_only, "VolumeOptions", wire));
        return Ok(());
    }
    let mode = if read_only { "ro" } else { "rw" };
    all.binds.push(format!("{name}:{target}:{mode}{}", if no_copy { ",nocopy" } else { "" }));
    Ok(())
}

fn mount(kind: &str, source: &str, target: &str, read_only: bool, field: &str, options: Json) -> Json {
    let mut wire = json!({"Type": kind, "Target": target, "ReadOnly": read_only});
    if !source.is_empty() {
        wire["Source"] = source.into();
    }
    if options.as_object().is_some_and(|options| !options.is_empty()) {
        wire[field] = options;
    }
    wire
}

/// A secret or config that is a file of this machine is mounted; others are put in later.
fn file(project: &Project, section: &str, folder: &str, node: &Node) -> Result<Option<Json>> {
    let (source, defined) = referenced(project, section, node)?;
    if defined.flag("external")? {
        let word = section.trim_end_matches('s');
        return Err(node.wrong(&format!("unsupported external {word} {source}: only a swarm keeps {section}")));
    }
    let path = defined.text_of("file");
    if path.is_empty() {
        return Ok(None);
    }
    let options = json!({"CreateMountpoint": false});
    Ok(Some(mount("bind", &path, &target(node, &source, folder), true, "BindOptions", options)))
}

/// What a reference names.
///
/// # Errors
/// It is not defined.
pub(super) fn referenced<'p>(project: &'p Project, section: &str, node: &Node) -> Result<(String, &'p Node)> {
    let source = node.text_of("source");
    match project.object(section, &source) {
        Some(defined) => Ok((source, defined)),
        None => Err(node.wrong(&format!("service refers to undefined {} {source}", section.trim_end_matches('s')))),
    }
}

/// Where the file appears: names without a folder are below `folder`.
pub(super) fn target(node: &Node, source: &str, folder: &str) -> String {
    let given = node.text_of("target");
    let name = if given.is_empty() { source } else { &given };
    if name.starts_with('/') { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Folder of a section's files.
pub(super) fn folder(section: &str) -> &'static str {
    if section == "secrets" { SECRETS } else { "" }
}
