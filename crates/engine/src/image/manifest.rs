//! Manifests and archive indexes: the JSON between registries, archives and us.

use super::config::null_is_default;
use super::digest::Digest;
use super::error::{ImageError, ImageResult};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Every manifest kind we read, as an `Accept` header.
pub(crate) const ACCEPTED_MANIFESTS: [&str; 4] = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];

/// The annotation with the whole name of an image in an OCI layout.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The annotation that by its specification holds a tag, in practice often a whole name.
pub(crate) const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Points at a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a manifest of an index is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// Images for several platforms, or the content of an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageList {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a manifest body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Image(Manifest),
    List(ImageList),
}

/// Reads a manifest or a list of manifests, told apart by their fields.
pub(crate) fn parse(body: &[u8]) -> ImageResult<Document> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let bad = |e: serde_json::Error| ImageError::Archive(format!("manifest: {e}"));
    let shape: Shape = serde_json::from_slice(body).map_err(bad)?;
    if shape.schema_version == 1 {
        return Err(ImageError::Archive(
            "manifest: schema version 1 is not supported; the image must be pushed again by a newer client".into(),
        ));
    }
    if shape.manifests.is_some() {
        return serde_json::from_slice(body).map(Document::List).map_err(bad);
    }
    serde_json::from_slice(body).map(Document::Image).map_err(bad)
}

impl ImageList {
    /// The manifest for a platform: the exact variant if one is asked for, else the first that fits.
    pub(crate) fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| {
            let platform = descriptor.platform.as_ref();
            platform.is_some_and(|p| {
                p.os == wanted.os
                    && p.architecture == wanted.architecture
                    && (wanted.variant.is_empty() || p.variant == wanted.variant)
            })
        };
        self.manifests.iter().find(fits)
    }
}

impl Platform {
    /// Parses `os[/architecture[/variant]]`; empty is this machine's.
    pub(crate) fn parse(text: &str) -> Result<Self, skep_model::Error> {
        let here = skep_model::image::host_architecture();
        let mut parts = text.split('/').filter(|part| !part.is_empty());
        let os = parts.next().unwrap_or("linux").to_ascii_lowercase();
        let architecture = match parts.next().unwrap_or(here) {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let variant = parts.next().unwrap_or_default();
        if os != "linux" || parts.next().is_some() {
            return Err(skep_model::Error::invalid(format!(
                "\"{text}\": unknown operating system or architecture: invalid argument"
            )));
        }
        Ok(Self { os, architecture: architecture.to_owned(), variant: variant.to_owned() })
    }
}

/// `manifest.json` of a docker archive: one per image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchiveImage {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(architecture: &str, variant: &str) -> Descriptor {
        let platform = Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.into() };
        Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(format!("{architecture}{variant}").as_bytes()),
            size: 1,
            platform: Some(platform),
            annotations: BTreeMap::new(),
        }
    }

    fn check(platform: &str, expect: Option<&str>) {
        let manifests = vec![descriptor("arm", "v6"), descriptor("arm", "v7"), descriptor("amd64", "")];
        let list = ImageList { schema_version: 2, media_type: OCI_INDEX.into(), manifests };
        let chosen = list.choose(&Platform::parse(platform).unwrap()).map(|d| d.digest.clone());
        assert_eq!(chosen, expect.map(|word| Digest::of(word.as_bytes())), "{platform}");
    }

    #[test]
    fn the_manifest_for_a_platform_is_found() {
        check("linux/amd64", Some("amd64"));
        check("linux/x86_64", Some("amd64"));
        check("linux/arm/v7", Some("armv7"));
        check("linux/arm", Some("armv6"));
        check("linux/s390x", None);
        assert!(Platform::parse("windows/amd64").is_err());
        assert_eq!(Platform::parse("").unwrap().os, "linux");
    }

    #[test]
    fn lists_and_images_are_told_apart_and_old_ones_refused() {
        assert!(matches!(parse(br#"{"schemaVersion":2,"manifests":[]}"#).unwrap(), Document::List(_)));
        let digest = Digest::of(b"x");
        let image = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},"layers":null}}"#);
        assert!(matches!(parse(image.as_bytes()).unwrap(), Document::Image(_)));
        assert!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err().to_string().contains("version 1"));
        assert!(parse(b"{}").is_err());
    }
}
