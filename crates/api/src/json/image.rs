//! Images: list, inspect, history, removal, disk usage.

use super::config::Config;
use super::container::{GraphDriver, STORAGE_DRIVER};
use super::{map_or_null, zero};
use crate::filters::Filters;
use crate::version::ApiVersion;
use regex::Regex;
use serde::Serialize;
use serde_json::{Value, json};
use skep_engine::image::{RemoteDescriptor, Removed};
use skep_model::image::{HistoryEntry, ImageInfo, Reference};
use skep_model::{Error, Result, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(crate) const FILTERS: [&str; 7] = ["before", "dangling", "label", "label!", "reference", "since", "until"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    pub(crate) containers: i64,
    created: i64,
    id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: String,
    repo_digests: Vec<String>,
    repo_tags: Vec<String>,
    pub(crate) shared_size: i64,
    size: u64,
    #[serde(skip_serializing_if = "zero")]
    virtual_size: u64,
}

impl Summary {
    pub(crate) fn of(image: &ImageInfo, version: ApiVersion) -> Self {
        let (mut repo_tags, mut repo_digests) = (image.repo_tags.clone(), image.repo_digests.clone());
        if !version.at_least(43) && repo_tags.is_empty() && repo_digests.is_empty() {
            repo_tags.push("<none>:<none>".into());
            repo_digests.push("<none>@<none>".into());
        }
        Self {
            containers: -1,
            created: image.created.as_secs(),
            id: image.id.clone(),
            labels: map_or_null(image.config.labels.clone()),
            parent_id: image.parent.clone(),
            repo_digests,
            repo_tags,
            shared_size: -1,
            size: image.size,
            virtual_size: if version.at_least(44) { 0 } else { image.size },
        }
    }
}

/// Chooses from `images` and sorts newest first. Unnamed images that others build on are
/// only shown with `all`. `find` resolves the names in `before` and `since`.
///
/// # Errors
/// Filter values that mean nothing or name no image.
pub(crate) fn select(
    images: Vec<ImageInfo>,
    all: bool,
    filters: &Filters,
    until: Option<Timestamp>,
    find: impl Fn(&str) -> Result<ImageInfo>,
) -> Result<Vec<ImageInfo>> {
    let dangling = filters.boolean("dangling")?;
    let bound = |key: &str| filters.values(key).next().map(&find).transpose();
    let (before, since) = (bound("before")?, bound("since")?);
    let patterns = filters.values("reference").map(Pattern::new).collect::<Result<Vec<_>>>()?;
    let parents: BTreeSet<String> = images.iter().map(|image| image.parent.clone()).collect();
    let mut chosen: Vec<ImageInfo> = images
        .into_iter()
        .filter(|image| {
            let named = !image.repo_tags.is_empty() || !image.repo_digests.is_empty();
            let leaf = !parents.contains(&image.id);
            let tagged = !image.repo_tags.is_empty();
            (all || named || leaf)
                && dangling.is_none_or(|wanted| wanted == (!tagged && leaf))
                && before.as_ref().is_none_or(|other| image.created < other.created)
                && since.as_ref().is_none_or(|other| image.created > other.created)
                && until.is_none_or(|until| image.created < until)
                && filters.labels_and_not(&image.config.labels)
        })
        .collect();
    if !patterns.is_empty() {
        chosen.retain_mut(|image| {
            image.repo_tags.retain(|name| patterns.iter().any(|pattern| pattern.matches(name)));
            image.repo_digests.retain(|name| patterns.iter().any(|pattern| pattern.matches(name)));
            !image.repo_tags.is_empty() || !image.repo_digests.is_empty()
        });
    }
    chosen.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    Ok(chosen)
}

/// A `reference` filter: a shell pattern in which `*` stops at slashes.
struct Pattern {
    regex: Regex,
    has_tag: bool,
}

impl Pattern {
    fn new(text: &str) -> Result<Self> {
        let mut regex = String::from("^");
        for c in text.chars() {
            match c {
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                other => regex.push_str(&regex::escape(&other.to_string())),
            }
        }
        regex.push('$');
        let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let regex = Regex::new(&regex).map_err(|_| Error::invalid(format!("invalid filter 'reference={text}'")))?;
        Ok(Self { regex, has_tag })
    }

    fn matches(&self, reference: &str) -> bool {
        if self.has_tag {
            return self.regex.is_match(reference);
        }
        Reference::parse(reference).is_ok_and(|parsed| self.regex.is_match(&parsed.familiar_name()))
    }
}

/// `GET /images/NAME/json`, in Docker's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: String,
    docker_version: &'static str,
    author: String,
    config: Config,
    /// No longer in the API since 1.45. docker-compose 1.29 speaks whatever version the daemon
    /// does and still needs it to replace a container.
    container_config: Config,
    architecture: String,
    #[serde(skip_serializing_if = "zero")]
    variant: String,
    os: String,
    size: u64,
    #[serde(skip_serializing_if = "zero")]
    virtual_size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Value,
}

#[derive(Debug, Serialize)]
struct RootFs {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

impl Inspect {
    /// `layers` are its unpacked directories, topmost first.
    pub(crate) fn of(image: &ImageInfo, layers: &[PathBuf], version: ApiVersion) -> Self {
        let paths: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let mut data = BTreeMap::new();
        if let Some((top, below)) = paths.split_first() {
            data.insert("UpperDir", top.clone());
            if !below.is_empty() {
                data.insert("LowerDir", below.join(":"));
            }
        }
        Self {
            id: image.id.clone(),
            repo_tags: image.repo_tags.clone(),
            repo_digests: image.repo_digests.clone(),
            parent: image.parent.clone(),
            comment: image.comment.clone(),
            created: image.created.to_rfc3339(),
            docker_version: "",
            author: image.author.clone(),
            config: Config::of_image(&image.config),
            container_config: Config::of_image(&image.config),
            architecture: image.architecture.clone(),
            variant: image.variant.clone(),
            os: image.os.clone(),
            size: image.size,
            virtual_size: if version.at_least(44) { 0 } else { image.size },
            graph_driver: GraphDriver { data, name: STORAGE_DRIVER },
            root_fs: RootFs { kind: "layers", layers: image.diff_ids.clone() },
            metadata: json!({ "LastTagTime": image.last_tag_time.to_rfc3339() }),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct History {
    comment: String,
    created: i64,
    created_by: String,
    id: String,
    size: u64,
    tags: Option<Vec<String>>,
}

impl History {
    pub(crate) fn of(entry: &HistoryEntry) -> Self {
        Self {
            comment: entry.comment.clone(),
            created: entry.created.as_secs(),
            created_by: entry.created_by.clone(),
            id: if entry.id.is_empty() { "<missing>".into() } else { entry.id.clone() },
            size: entry.size,
            tags: super::list_or_null(entry.tags.clone()),
        }
    }
}

/// What removal did, a line each.
pub(crate) fn removed(done: &[Removed]) -> Vec<Value> {
    let line = |one: &Removed| match one {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    };
    done.iter().map(line).collect()
}

/// `GET /distribution/NAME/json`.
pub(crate) fn distribution(remote: &RemoteDescriptor) -> Value {
    let platforms: Vec<Value> =
        remote.platforms.iter().map(|(arch, os)| json!({ "architecture": arch, "os": os })).collect();
    json!({
        "Descriptor": { "mediaType": remote.media_type, "digest": remote.digest, "size": remote.size },
        "Platforms": platforms
    })
}

/// Bytes on disk of all layers, and of each image's layers that others use too.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerUsage {
    pub(crate) total: u64,
    /// In the order of the images.
    pub(crate) shared: Vec<u64>,
}

/// `sizes` are an image's layer sizes, bottom first as its diff ids.
pub(crate) fn layer_usage(images: &[(ImageInfo, Vec<u64>)]) -> LayerUsage {
    // A layer is what it is only on top of those below it.
    let mut users: BTreeMap<&[String], (u64, usize)> = BTreeMap::new();
    for (image, sizes) in images {
        for (index, size) in sizes.iter().take(image.diff_ids.len()).enumerate() {
            users.entry(&image.diff_ids[..=index]).or_insert((*size, 0)).1 += 1;
        }
    }
    let shared = images.iter().map(|(image, _)| {
        let chains = (0..image.diff_ids.len()).filter_map(|index| users.get(&image.diff_ids[..=index]));
        chains.filter(|(_, count)| *count > 1).map(|(size, _)| size).sum()
    });
    LayerUsage { shared: shared.collect(), total: users.values().map(|(size, _)| size).sum() }
}

/// Layer sizes, bottom first, out of an image's history.
pub(crate) fn layer_sizes(history: &[HistoryEntry]) -> Vec<u64> {
    history.iter().rev().filter(|entry| !entry.empty_layer).map(|entry| entry.size).collect()
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
