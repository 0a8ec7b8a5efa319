//! The image config: the JSON blob whose digest is the image's id.

use super::digest::Digest;
use super::error::{ImageError, ImageResult};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use skep_model::Timestamp;
use skep_model::container::{ContainerConfig, HealthConfig};
use skep_model::network::PortKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// An image has at most so many layers; overlayfs takes no more either.
pub(crate) const LAYERS_MAX: usize = 500;

/// The parts of an image config that we read or write. Field names are the format's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) architecture: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) config: RunConfig,
    pub(crate) created: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) history: Vec<ConfigHistory>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) os: String,
    pub(crate) rootfs: RootFs,
}

/// The layers, bottom first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// How one step made the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigHistory {
    pub(crate) created: Option<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) created_by: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) empty_layer: bool,
}

/// The defaults for containers of this image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct RunConfig {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    domainname: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    attach_stdin: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    attach_stdout: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    attach_stderr: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Map::is_empty")]
    exposed_ports: Map<String, Value>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    tty: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    open_stdin: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    stdin_once: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    image: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Map::is_empty")]
    volumes: Map<String, Value>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Words>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    network_disabled: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    mac_address: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    on_build: Vec<String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Words>,
}

/// A command: usually a list, in very old images one string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    One(String),
}

impl Words {
    fn to_list(&self) -> Vec<String> {
        match self {
            Self::List(list) => list.clone(),
            Self::One(word) => vec![word.clone()],
        }
    }
}

/// A health probe; durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

impl ImageConfig {
    /// Parses and checks a config blob.
    pub(crate) fn parse(blob: &[u8]) -> ImageResult<Self> {
        let config: Self = serde_json::from_slice(blob).map_err(|e| ImageError::Config(e.to_string()))?;
        let layers = config.rootfs.diff_ids.len();
        if layers > LAYERS_MAX {
            return Err(ImageError::Config(format!("{layers} layers, at most {LAYERS_MAX} are supported")));
        }
        if !matches!(config.os.as_str(), "" | "linux") {
            return Err(ImageError::Config(format!("operating system \"{}\" is not supported", config.os)));
        }
        Ok(config)
    }

    /// The blob that stands for this config.
    pub(crate) fn to_blob(&self) -> ImageResult<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| ImageError::Config(e.to_string()))
    }
}

impl RunConfig {
    pub(crate) fn to_model(&self) -> ContainerConfig {
        ContainerConfig {
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            user: self.user.clone(),
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            exposed_ports: self.exposed_ports.keys().filter_map(|key| parse_port(key)).collect(),
            tty: self.tty,
            open_stdin: self.open_stdin,
            stdin_once: self.stdin_once,
            env: self.env.clone(),
            cmd: self.cmd.as_ref().map(Words::to_list),
            entrypoint: self.entrypoint.as_ref().map(Words::to_list),
            image: self.image.clone(),
            volumes: self.volumes.keys().cloned().collect(),
            working_dir: self.working_dir.clone(),
            labels: self.labels.clone(),
            stop_signal: self.stop_signal.clone(),
            stop_timeout_s: self.stop_timeout,
            healthcheck: self.healthcheck.as_ref().map(Healthcheck::to_model),
            shell: self.shell.as_ref().map(Words::to_list),
            on_build: self.on_build.clone(),
            network_disabled: self.network_disabled,
            mac_address: self.mac_address.clone(),
        }
    }

    pub(crate) fn from_model(config: &ContainerConfig) -> Self {
        let set = |names: Vec<String>| names.into_iter().map(|name| (name, Value::Object(Map::new()))).collect();
        Self {
            hostname: config.hostname.clone(),
            domainname: config.domainname.clone(),
            user: config.user.clone(),
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            exposed_ports: set(config.exposed_ports.iter().map(ToString::to_string).collect()),
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            env: config.env.clone(),
            cmd: config.cmd.clone().map(Words::List),
            healthcheck: config.healthcheck.as_ref().map(Healthcheck::from_model),
            image: config.image.clone(),
            volumes: set(config.volumes.iter().cloned().collect()),
            working_dir: config.working_dir.clone(),
            entrypoint: config.entrypoint.clone().map(Words::List),
            network_disabled: config.network_disabled,
            mac_address: config.mac_address.clone(),
            on_build: config.on_build.clone(),
            labels: config.labels.clone(),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout_s,
            shell: config.shell.clone().map(Words::List),
        }
    }
}

/// Images may carry ports that mean nothing, such as an unexpanded variable.
fn parse_port(key: &str) -> Option<PortKey> {
    key.parse().inspect_err(|_| tracing::warn!(port = key, "exposed port of an image is not valid")).ok()
}

impl Healthcheck {
    fn to_model(&self) -> HealthConfig {
        let duration = |nanoseconds: i64| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
        HealthConfig {
            test: self.test.clone(),
            interval: duration(self.interval),
            timeout: duration(self.timeout),
            start_period: duration(self.start_period),
            start_interval: duration(self.start_interval),
            retries: u32::try_from(self.retries).unwrap_or(0),
        }
    }

    fn from_model(health: &HealthConfig) -> Self {
        let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self {
            test: health.test.clone(),
            interval: nanoseconds(health.interval),
            timeout: nanoseconds(health.timeout),
            start_period: nanoseconds(health.start_period),
            start_interval: nanoseconds(health.start_interval),
            retries: i64::from(health.retries),
        }
    }
}

/// A time of the format; absent or unreadable is "never".
pub(crate) fn parse_created(text: Option<&str>) -> Timestamp {
    text.and_then(Timestamp::parse_rfc3339).unwrap_or(Timestamp::NEVER)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Go writes `null` for empty lists and maps.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_strings_and_unknown_fields_are_read() {
        let blob = br#"{"architecture":"amd64","os":"linux","created":"2023-05-18T22:34:17Z","x":1,
            "config":{"Env":null,"Cmd":"sh","Entrypoint":["/e"],"Volumes":null,"ExposedPorts":{"80/tcp":{},"$P":{}},
            "Healthcheck":{"Test":["CMD","x"],"Interval":1000000000}},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::parse(blob).unwrap();
        let model = config.config.to_model();
        assert_eq!(model.cmd, Some(vec!["sh".into()]));
        assert_eq!(model.exposed_ports.len(), 1);
        assert_eq!(model.healthcheck.unwrap().interval, Duration::from_secs(1));
    }

    #[test]
    fn a_config_round_trips_through_the_format() {
        let model = ContainerConfig {
            env: vec!["A=1".into()],
            cmd: Some(vec![]),
            exposed_ports: ["53/udp".parse().unwrap()].into(),
            volumes: ["/data".to_owned()].into(),
            healthcheck: Some(HealthConfig { retries: 3, ..Default::default() }),
            stop_timeout_s: Some(3),
            ..Default::default()
        };
        let config = ImageConfig { config: RunConfig::from_model(&model), os: "linux".into(), ..Default::default() };
        let again = ImageConfig::parse(&config.to_blob().unwrap()).unwrap();
        assert_eq!(again.config.to_model(), model);
    }

    #[test]
    fn foreign_systems_and_bad_digests_are_refused() {
        assert!(ImageConfig::parse(br#"{"os":"windows"}"#).is_err());
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#).is_err());
        assert!(ImageConfig::parse(b"{").is_err());
    }
}
