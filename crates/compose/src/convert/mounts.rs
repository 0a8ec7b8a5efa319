//! Mounts of a service.

use super::service::set;
use super::{Namespace, list, texts};
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use serde_json::{Value as Json, json};

/// # Errors
/// A volume that is not defined, options of another kind of mount.
pub(super) fn convert(project: &Project, service: &Node, namespace: &Namespace<'_>) -> Result<Vec<Json>> {
    let mut mounts = Vec::new();
    for node in service.get("volumes").map_or(&[][..], Node::items) {
        mounts.push(one(project, node, namespace)?);
    }
    for text in list(service.get("tmpfs")) {
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut mount = json!({"Type": "tmpfs", "Target": target});
        let size = options.split(',').find_map(|option| option.strip_prefix("size="));
        if let Some(size) = size {
            let size = units::bytes(&Node::text(&service.at, size))?;
            mount["TmpfsOptions"] = json!({ "SizeBytes": size });
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

fn one(project: &Project, node: &Node, namespace: &Namespace<'_>) -> Result<Json> {
    let kind = match node.text_of("type").as_str() {
        "" => "volume".to_owned(),
        known @ ("volume" | "bind" | "tmpfs" | "npipe" | "cluster" | "image") => known.to_owned(),
        _ => return Err(node.wrong("volume type must be volume, bind, tmpfs, npipe, cluster or image")),
    };
    for options in ["volume", "bind", "tmpfs", "image"] {
        if node.get(options).is_some() && options != kind && !(options == "bind" && kind == "npipe") {
            return Err(node.wrong(&format!("{options} options are incompatible with type {kind}")));
        }
    }
    let mut mount = json!({
        "Type": kind, "Target": node.text_of("target"), "Source": node.text_of("source"),
        "ReadOnly": node.flag("read_only")?, "Consistency": node.text_of("consistency"),
    });
    match kind.as_str() {
        "volume" => volume(project, node, namespace, &mut mount)?,
        "tmpfs" if !node.text_of("source").is_empty() => {
            return Err(node.wrong("invalid tmpfs source, source must be empty"));
        }
        "tmpfs" => {
            if let Some(options) = node.get("tmpfs") {
                let mut wire = json!({});
                set(&mut wire, "SizeBytes", options.get("size").map(units::bytes).transpose()?.map(Json::from));
                set(&mut wire, "Mode", options.get("mode").map(units::file_mode).transpose()?.map(Json::from));
                mount["TmpfsOptions"] = wire;
            }
        }
        other if node.text_of("source").is_empty() => {
            return Err(node.wrong(&format!("invalid {other} source, source cannot be empty")));
        }
        "cluster" => mount["ClusterOptions"] = json!({}),
        "image" => {
            let subpath = node.get("image").map(|options| options.text_of("subpath")).unwrap_or_default();
            mount["ImageOptions"] = json!({ "Subpath": subpath });
        }
        _ => {
            if let Some(options) = node.get("bind") {
                mount["BindOptions"] = json!({"Propagation": options.text_of("propagation")});
            }
        }
    }
    Ok(mount)
}

fn volume(project: &Project, node: &Node, namespace: &Namespace<'_>, mount: &mut Json) -> Result<()> {
    let source = node.text_of("source");
    let options = node.get("volume");
    if source.is_empty() {
        return Ok(());
    }
    let Some(defined) = project.object("volumes", &source) else {
        return Err(node.wrong(&format!("undefined volume \"{source}\"")));
    };
    let name = defined.text_of("name");
    mount["Source"] = if name.is_empty() { namespace.scope(&source) } else { name }.into();
    let mut wire = json!({});
    if let Some(options) = options {
        wire["NoCopy"] = options.flag("nocopy")?.into();
        set(&mut wire, "Subpath", options.get("subpath").and_then(Node::as_text).map(Json::from));
    }
    if !defined.flag("external")? {
        let mut labels = texts(options.and_then(|options| options.get("labels")));
        labels.extend(namespace.labels(defined.get("labels")));
        wire["Labels"] = Json::Object(labels);
        if defined.get("driver").is_some() || defined.get("driver_opts").is_some() {
            let driver = json!({"Name": defined.text_of("driver"), "Options": texts(defined.get("driver_opts"))});
            wire["DriverConfig"] = driver;
        }
    }
    mount["VolumeOptions"] = wire;
    Ok(())
}
