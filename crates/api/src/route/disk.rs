//! `GET /system/df`.

use crate::backend::Backend;
use crate::error::Reply;
use crate::json::container_list::Summary as ContainerSummary;
use crate::json::image::{Summary as ImageSummary, layer_usage};
use crate::json::now;
use crate::json::volume::{Usage, Volume};
use crate::request::Query;
use crate::route::images::sized_images;
use crate::version::ApiVersion;
use axum::Extension;
use axum::extract::State;
use serde_json::{Value, json};
use skep_engine::build::CacheRecord;
use skep_model::{Error, Result};
use std::path::{Path, PathBuf};

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];
/// Entries of one volume that are counted; a larger one's size is told as unknown.
const VOLUME_ENTRIES_MAX: usize = 1_000_000;

pub(crate) async fn usage(
    State(backend): State<Backend>,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let types = query.all("type");
    if let Some(unknown) = types.iter().find(|kind| !TYPES.contains(&kind.as_str())) {
        return Err(Error::invalid(format!("unknown object type: {unknown}")).into());
    }
    let wanted = |kind: &str| types.is_empty() || types.iter().any(|t| t == kind);
    let mut report = serde_json::Map::new();
    if wanted("image") {
        let (layers, images) = images(&backend, version);
        report.insert("LayersSize".into(), layers.into());
        report.insert("Images".into(), images);
    }
    if wanted("container") {
        report.insert("Containers".into(), containers(&backend).await);
    }
    if wanted("volume") {
        report.insert("Volumes".into(), volumes(&backend).await?);
    }
    if wanted("build-cache") {
        // The results of steps are images, and counted there.
        let caches = backend.engine.builds().list().await?;
        report.insert("BuilderSize".into(), json!(caches.iter().map(|cache| cache.size).sum::<u64>()));
        report.insert("BuildCache".into(), caches.iter().map(build_cache).collect());
    }
    crate::error::ok(&report)
}

fn build_cache(cache: &CacheRecord) -> Value {
    json!({
        "ID": cache.id,
        "Parent": "",
        "Type": "exec.cachemount",
        "Description": cache.description,
        "InUse": cache.in_use,
        "Shared": false,
        "Size": cache.size,
        "CreatedAt": cache.created.to_rfc3339(),
        "LastUsedAt": cache.last_used.to_rfc3339(),
        "UsageCount": cache.uses,
    })
}

fn images(backend: &Backend, version: ApiVersion) -> (u64, Value) {
    let containers = backend.engine.list();
    let sized = sized_images(backend);
    let layers = layer_usage(&sized);
    let summaries = sized.iter().zip(&layers.shared).map(|((image, _), shared)| {
        let mut summary = ImageSummary::of(image, version);
        let users = containers.iter().filter(|info| info.image_id == image.id).count();
        summary.containers = i64::try_from(users).unwrap_or(i64::MAX);
        summary.shared_size = i64::try_from(*shared).unwrap_or(i64::MAX);
        summary
    });
    (layers.total, json!(summaries.collect::<Vec<_>>()))
}

async fn containers(backend: &Backend) -> Value {
    let mut summaries = Vec::new();
    for info in backend.engine.list() {
        let size = backend.engine.size(info.id.as_str()).await.ok();
        summaries.push(ContainerSummary::of(&info, size, now()));
    }
    json!(summaries)
}

async fn volumes(backend: &Backend) -> Result<Value> {
    let containers = backend.engine.list();
    let mut all = Vec::new();
    for volume in backend.engine.volume_list() {
        let users = containers.iter().filter(|info| info.mounts.iter().any(|mount| mount.name == volume.name)).count();
        let path = PathBuf::from(&volume.mountpoint);
        let size = tokio::task::spawn_blocking(move || directory_size(&path))
            .await
            .map_err(|error| Error::internal(format!("cannot measure a volume: {error}")))?;
        let mut wire = Volume::of(&volume);
        wire.usage_data = Some(Usage { ref_count: i64::try_from(users).unwrap_or(i64::MAX), size: size.unwrap_or(-1) });
        all.push(wire);
    }
    Ok(json!(all))
}

/// Bytes of all regular files below `root`, not following links; `None` when there are
/// too many. What cannot be read counts nothing.
pub(crate) fn directory_size(root: &Path) -> Option<i64> {
    let mut pending = vec![root.to_owned()];
    let mut total: u64 = 0;
    let mut entries = 0;
    while let Some(directory) = pending.pop() {
        let Ok(children) = std::fs::read_dir(directory) else { continue };
        for child in children.flatten() {
            entries += 1;
            if entries > VOLUME_ENTRIES_MAX {
                return None;
            }
            match child.metadata() {
                Ok(meta) if meta.is_dir() => pending.push(child.path()),
                Ok(meta) if meta.is_file() => total += meta.len(),
                _ => {}
            }
        }
    }
    i64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_its_files() {
        let root = std::env::temp_dir().join(format!("skep-api-df-{}", std::process::id()));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/x"), [0; 100]).unwrap();
        std::fs::write(root.join("a/b/y"), [0; 11]).unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        let size = directory_size(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(size, Some(111));
        assert_eq!(directory_size(Path::new("/nonexistent")), Some(0));
    }
}
