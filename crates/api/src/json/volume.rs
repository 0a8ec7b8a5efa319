//! Volumes.

use super::{map_or_null, refuse, unsupported, wire};
use crate::filters::Filters;
use serde::Serialize;
use skep_model::volume::VolumeInfo;
use skep_model::{Error, Result};
use std::collections::BTreeMap;

pub(crate) const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
pub(crate) const PRUNE_FILTERS: [&str; 3] = ["all", "label", "label!"];

wire!(
    CreateBody {
        name: String,
        driver: String,
        driver_opts: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
        cluster_volume_spec: Option<serde_json::Value>,
    }
);

impl CreateBody {
    /// # Errors
    /// Other drivers than `local`, cluster volumes, illegal names.
    pub(crate) fn check(&self) -> Result<()> {
        refuse(&[("ClusterVolumeSpec", self.cluster_volume_spec.is_some())])?;
        if !matches!(self.driver.as_str(), "" | "local") {
            return Err(Error {
                kind: skep_model::ErrorKind::NotFound,
                ..unsupported(&format!("volume driver {:?}", self.driver))
            });
        }
        if self.name.is_empty() {
            return Ok(());
        }
        super::check_name("volume", &self.name)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Volume {
    created_at: String,
    driver: String,
    labels: Option<BTreeMap<String, String>>,
    mountpoint: String,
    pub(crate) name: String,
    options: Option<BTreeMap<String, String>>,
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_data: Option<Usage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Usage {
    pub(crate) ref_count: i64,
    /// Bytes; -1 when not known.
    pub(crate) size: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct List {
    pub(crate) volumes: Vec<Volume>,
    pub(crate) warnings: Option<Vec<String>>,
}

impl Volume {
    pub(crate) fn of(volume: &VolumeInfo) -> Self {
        // Volumes show whole seconds.
        let created = skep_model::Timestamp(volume.created.as_secs() * 1_000_000_000);
        Self {
            created_at: created.to_rfc3339(),
            driver: if volume.driver.is_empty() { "local".into() } else { volume.driver.clone() },
            labels: map_or_null(volume.labels.clone()),
            mountpoint: volume.mountpoint.clone(),
            name: volume.name.clone(),
            options: map_or_null(volume.options.clone()),
            scope: "local",
            usage_data: None,
        }
    }
}

/// `used` says whether a container mounts it.
///
/// # Errors
/// Filter values that mean nothing.
pub(crate) fn matches(volume: &VolumeInfo, used: bool, filters: &Filters) -> Result<bool> {
    let dangling = filters.boolean("dangling")?;
    Ok(dangling.is_none_or(|wanted| wanted != used)
        && filters.exact("driver", if volume.driver.is_empty() { "local" } else { &volume.driver })
        && filters.pattern("name", &volume.name)
        && filters.labels("label", &volume.labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skep_model::Timestamp;

    #[test]
    fn it_prints_like_dockers() {
        let volume = VolumeInfo {
            name: "gv".into(),
            mountpoint: "/m".into(),
            created: Timestamp(1_500_000_000_123_000_000),
            ..VolumeInfo::default()
        };
        assert_eq!(
            serde_json::to_value(Volume::of(&volume)).unwrap(),
            json!({"CreatedAt": "2017-07-14T02:40:00Z", "Driver": "local", "Labels": null, "Mountpoint": "/m",
                   "Name": "gv", "Options": null, "Scope": "local"})
        );
    }

    #[test]
    fn odd_requests_are_refused() {
        let check = |value| serde_json::from_value::<CreateBody>(value).unwrap().check();
        assert!(check(json!({})).is_ok() && check(json!({"Name": "ok1", "Driver": "local"})).is_ok());
        assert!(check(json!({"Driver": "nfs"})).is_err());
        assert!(check(json!({"ClusterVolumeSpec": {}})).is_err());
        let long = check(json!({"Name": "é".repeat(10_000)})).unwrap_err();
        assert!(long.message.len() < 1000);
    }

    #[test]
    fn dangling_means_unused() {
        let volume = VolumeInfo { name: "v".into(), ..VolumeInfo::default() };
        let check = |used, text: &str| matches(&volume, used, &Filters::parse(text).unwrap()).unwrap();
        assert!(check(false, r#"{"dangling":["1"]}"#) && !check(true, r#"{"dangling":["true"]}"#));
        assert!(check(true, r#"{"dangling":["false"],"name":["v"],"driver":["local"]}"#));
    }
}
