//! Images: what the store knows of one, and the words of a reference.

use crate::container::ContainerConfig;
use crate::error::{Error, Result};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One layer's history line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    pub created: Timestamp,
    pub created_by: String,
    pub comment: String,
    pub empty_layer: bool,
    /// Bytes of the layer, 0 for an empty one.
    pub size: u64,
    /// Names of the image that ends at this entry, if any.
    pub tags: Vec<String>,
    /// Image id that ends here, else `<missing>`.
    pub id: String,
}

/// An image as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageInfo {
    /// `sha256:` and the digest of the config blob.
    pub id: String,
    /// `name:tag`, familiar form (`busybox:latest`).
    pub repo_tags: Vec<String>,
    /// `name@sha256:...`, known after a pull or push.
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    pub author: String,
    pub created: Timestamp,
    pub config: ContainerConfig,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    /// Unpacked bytes over all layers.
    pub size: u64,
    /// `sha256:` ids of the unpacked layers, bottom first.
    pub diff_ids: Vec<String>,
    pub last_tag_time: Timestamp,
}

/// A parsed image reference: `[registry/]repository[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io` when none was given.
    pub registry: String,
    /// `library/` is prepended on docker.io for single names.
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:...`
    pub digest: Option<String>,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const REFERENCE_LENGTH_MAX: usize = 255;

impl Reference {
    /// Parses and normalises, without adding a default tag.
    ///
    /// # Errors
    /// `invalid reference format`, as Docker words it.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::invalid("invalid reference format");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if digest.as_deref().is_some_and(|d| !is_digest(d)) {
            return Err(bad());
        }
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|t| !is_tag(t)) {
            return Err(bad());
        }
        let (registry, path) = split_registry(name);
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        if path.is_empty() || !path.split('/').all(is_path_component) || !registry.chars().all(is_host_character) {
            return Err(bad());
        }
        if name.len() > REFERENCE_LENGTH_MAX {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name must not be more than {REFERENCE_LENGTH_MAX} characters"
            )));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The same reference with `latest` when neither tag nor digest is given.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The name as people write it: `busybox`, `quay.io/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
    }

    /// Familiar name with tag and digest.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            (if host == "index.docker.io" { DEFAULT_REGISTRY } else { host }, path)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')))
}

/// Of a name or an address, IPv6 in brackets included, and its port.
fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._:[]".contains(c)
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
}

/// The architecture of this machine, in the words of images and of Go.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, familiar: &str) {
        assert_eq!(Reference::parse(input).unwrap().with_default_tag().familiar(), familiar);
    }

    #[test]
    fn familiar_forms() {
        check("busybox", "busybox:latest");
        check("docker.io/library/busybox:1", "busybox:1");
        check("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest");
        check("localhost/x:1", "localhost/x:1");
        check("user/app", "user/app:latest");
    }

    #[test]
    fn malformed_references_are_refused() {
        for bad in ["", ":tag", "a:b:c", "A", "a//b", "a@sha256:12", "-a", "a:-t", &"x".repeat(300)] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
