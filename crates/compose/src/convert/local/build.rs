//! `build`: what an image is made of.

use crate::canonical::is_remote;
use crate::error::Result;
use crate::project::Project;
use crate::tree::Node;
use crate::units;
use std::path::Path;

/// One image to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// A folder, or an address that the daemon fetches.
    pub context: String,
    pub is_remote: bool,
    /// Path of the Dockerfile; empty for the context's own.
    pub dockerfile: String,
    /// The Dockerfile itself, where the compose file holds it.
    pub inline: Option<String>,
    /// `KEY=value`; a key alone takes its value from outside.
    pub arguments: Vec<String>,
    pub labels: Vec<String>,
    /// Names of the image, the service's own first.
    pub tags: Vec<String>,
    pub target: String,
    pub network: String,
    pub extra_hosts: Vec<String>,
    pub no_cache: bool,
    pub pull: bool,
    /// Bytes of /dev/shm in RUN steps.
    pub shm_bytes: Option<i64>,
    pub platform: String,
}

/// # Errors
/// Values of the wrong kind, or what the builder cannot do.
pub(super) fn convert(project: &Project, service: &Node, image: &str) -> Result<Option<Build>> {
    let Some(node) = service.get("build") else { return Ok(None) };
    if let Some(other) = node.get("additional_contexts") {
        return Err(other.wrong("build.additional_contexts is not supported yet: COPY --from an image instead"));
    }
    let given = node.text_of("context");
    let context = if given.is_empty() { project.folder().to_string_lossy().into_owned() } else { given };
    let inline = node.get("dockerfile_inline").and_then(Node::as_text);
    let dockerfile = node.text_of("dockerfile");
    if inline.is_some() && !dockerfile.is_empty() {
        return Err(node.wrong("can't use both dockerfile and dockerfile_inline"));
    }
    let platforms = super::super::list(node.get("platforms"));
    if platforms.len() > 1 {
        return Err(node.wrong("building for several platforms at once is not supported"));
    }
    let remote = is_remote(&context);
    // The path is seen from the context, unless it leads elsewhere by itself.
    let dockerfile = if dockerfile.is_empty() || remote {
        dockerfile
    } else {
        Path::new(&context).join(&dockerfile).to_string_lossy().into_owned()
    };
    let mut tags = vec![image.to_owned()];
    tags.extend(super::super::list(node.get("tags")));
    Ok(Some(Build {
        context,
        is_remote: remote,
        dockerfile,
        inline,
        arguments: words(project, node.get("args")),
        labels: words(project, node.get("labels")),
        tags,
        target: node.text_of("target"),
        network: node.text_of("network"),
        extra_hosts: super::super::list(node.get("extra_hosts")),
        no_cache: node.flag("no_cache")?,
        pull: node.flag("pull")?,
        shm_bytes: node.get("shm_size").map(units::bytes).transpose()?,
        platform: platforms.into_iter().next().unwrap_or_else(|| service.text_of("platform")),
    }))
}

fn words(project: &Project, node: Option<&Node>) -> Vec<String> {
    let line = |(name, value): (&String, &Node)| match value.as_text().or_else(|| project.variable(name).cloned()) {
        Some(text) => format!("{name}={text}"),
        None => name.clone(),
    };
    node.into_iter().flat_map(Node::entries).map(line).collect()
}
