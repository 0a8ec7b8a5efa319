//! `Config`: the portable half of a container, and what an image carries.

use super::{Empty, Words, duration, list_or_null, map_or_null, nanos, wire, zero};
use skep_model::container::{ContainerConfig, HealthConfig};
use skep_model::network::PortKey;
use skep_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shorter probe durations are refused.
const HEALTH_DURATION_MIN: Duration = Duration::from_millis(1);

wire!(
    /// `Config` of create, inspect, commit and image inspect.
    Config {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        #[serde(skip_serializing_if = "zero")]
        exposed_ports: BTreeMap<String, Empty>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Option<Vec<String>>,
        cmd: Option<Words>,
        #[serde(skip_serializing_if = "zero")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "zero")]
        args_escaped: bool,
        image: String,
        volumes: Option<BTreeMap<String, Empty>>,
        working_dir: String,
        entrypoint: Option<Words>,
        #[serde(skip_serializing_if = "zero")]
        network_disabled: bool,
        #[serde(skip_serializing_if = "zero")]
        mac_address: String,
        on_build: Option<Vec<String>>,
        labels: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "zero")]
        stop_signal: String,
        #[serde(skip_serializing_if = "zero")]
        stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "zero")]
        shell: Option<Vec<String>>,
    }
);

wire!(
    /// A health probe; durations in nanoseconds, zero inherits.
    Healthcheck {
        #[serde(skip_serializing_if = "zero")]
        test: Vec<String>,
        #[serde(skip_serializing_if = "zero")]
        interval: i64,
        #[serde(skip_serializing_if = "zero")]
        timeout: i64,
        #[serde(skip_serializing_if = "zero")]
        start_period: i64,
        #[serde(skip_serializing_if = "zero")]
        start_interval: i64,
        #[serde(skip_serializing_if = "zero")]
        retries: i64,
    }
);

impl Config {
    /// The model's form.
    ///
    /// # Errors
    /// Malformed ports, environment or health check.
    pub(crate) fn into_model(self) -> Result<ContainerConfig> {
        check_env(self.env.as_deref().unwrap_or_default())?;
        let exposed_ports = self.exposed_ports.keys().map(|key| parse_port(key)).collect::<Result<BTreeSet<_>>>()?;
        if self.stop_timeout.is_some_and(|seconds| seconds < -1) {
            return Err(Error::invalid("StopTimeout cannot be smaller than -1"));
        }
        Ok(ContainerConfig {
            hostname: self.hostname,
            domainname: self.domainname,
            user: self.user,
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            exposed_ports,
            tty: self.tty,
            open_stdin: self.open_stdin,
            stdin_once: self.stdin_once,
            env: self.env.unwrap_or_default(),
            cmd: self.cmd.map(|words| words.0),
            entrypoint: self.entrypoint.map(|words| words.0),
            image: self.image,
            volumes: self.volumes.unwrap_or_default().into_keys().collect(),
            working_dir: self.working_dir,
            labels: self.labels.unwrap_or_default(),
            stop_signal: self.stop_signal,
            stop_timeout_s: self.stop_timeout,
            healthcheck: self.healthcheck.map(Healthcheck::into_model).transpose()?,
            shell: self.shell.filter(|shell| !shell.is_empty()),
            on_build: self.on_build.unwrap_or_default(),
            network_disabled: self.network_disabled,
            mac_address: self.mac_address,
        })
    }

    /// The wire form, for containers: labels are `{}` when there are none.
    pub(crate) fn of_container(config: &ContainerConfig) -> Self {
        Self { labels: Some(config.labels.clone()), ..Self::of_image(config) }
    }

    /// The wire form, for images: labels are `null` when there are none.
    pub(crate) fn of_image(config: &ContainerConfig) -> Self {
        let set = |names: &BTreeSet<String>| names.iter().map(|name| (name.clone(), Empty)).collect();
        Self {
            hostname: config.hostname.clone(),
            domainname: config.domainname.clone(),
            user: config.user.clone(),
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            exposed_ports: config.exposed_ports.iter().map(|port| (port.to_string(), Empty)).collect(),
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            env: list_or_null(config.env.clone()),
            cmd: config.cmd.clone().map(Words),
            healthcheck: config.healthcheck.as_ref().map(Healthcheck::of),
            args_escaped: false,
            image: config.image.clone(),
            volumes: map_or_null(set(&config.volumes)),
            working_dir: config.working_dir.clone(),
            entrypoint: config.entrypoint.clone().map(Words),
            network_disabled: config.network_disabled,
            mac_address: config.mac_address.clone(),
            on_build: list_or_null(config.on_build.clone()),
            labels: map_or_null(config.labels.clone()),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout_s,
            shell: config.shell.clone(),
        }
    }
}

impl Healthcheck {
    pub(crate) fn into_model(self) -> Result<HealthConfig> {
        let checked = |what: &str, nanos: i64| {
            let value = duration(what, nanos)?;
            if !value.is_zero() && value < HEALTH_DURATION_MIN {
                return Err(Error::invalid(format!("{what} in Healthcheck cannot be less than 1ms")));
            }
            Ok(value)
        };
        let Ok(retries) = u32::try_from(self.retries) else {
            return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
        };
        match self.test.first().map(String::as_str) {
            None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => {}
            Some(other) => {
                return Err(Error::invalid(format!("Unknown type '{other}' in Healthcheck test")));
            }
        }
        Ok(HealthConfig {
            test: self.test,
            interval: checked("Interval", self.interval)?,
            timeout: checked("Timeout", self.timeout)?,
            start_period: checked("StartPeriod", self.start_period)?,
            start_interval: checked("StartInterval", self.start_interval)?,
            retries,
        })
    }

    pub(crate) fn of(health: &HealthConfig) -> Self {
        Self {
            test: health.test.clone(),
            interval: nanos(health.interval),
            timeout: nanos(health.timeout),
            start_period: nanos(health.start_period),
            start_interval: nanos(health.start_interval),
            retries: health.retries.into(),
        }
    }
}

/// A single container port.
pub(crate) fn parse_port(text: &str) -> Result<PortKey> {
    let key: PortKey = text.parse()?;
    if key.port == 0 {
        return Err(Error::invalid(format!("invalid port specification: \"{text}\"")));
    }
    Ok(key)
}

/// Variables need a name and no NUL.
pub(crate) fn check_env(env: &[String]) -> Result<()> {
    for line in env {
        if line.is_empty() || line.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {line}")));
        }
        if line.contains('\0') {
            return Err(Error::invalid("invalid environment variable: it contains nul byte"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<ContainerConfig> {
        serde_json::from_value::<Config>(value).unwrap().into_model()
    }

    #[test]
    fn it_round_trips() {
        let wire = json!({
            "Hostname": "h", "Domainname": "d", "User": "1:2", "AttachStdin": true, "AttachStdout": true,
            "AttachStderr": true, "ExposedPorts": {"80/tcp": {}}, "Tty": true, "OpenStdin": true, "StdinOnce": true,
            "Env": ["A=1", "B"], "Cmd": ["a"], "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1_000_000, "Retries": 3},
            "Image": "i", "Volumes": {"/v": {}}, "WorkingDir": "/w", "Entrypoint": ["e"], "OnBuild": null,
            "Labels": {"a": "b"}, "StopSignal": "SIGINT", "StopTimeout": 3, "Shell": ["sh"]
        });
        let model = read(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(Config::of_container(&model)).unwrap(), wire);
    }

    #[test]
    fn nothing_set_prints_like_docker() {
        let config = Config::of_container(&ContainerConfig::default());
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{}}"#
        );
    }

    #[test]
    fn an_empty_entrypoint_differs_from_none() {
        assert_eq!(read(json!({"Entrypoint": []})).unwrap().entrypoint, Some(vec![]));
        assert_eq!(read(json!({"Entrypoint": null})).unwrap().entrypoint, None);
        assert_eq!(read(json!({"Cmd": "sh"})).unwrap().cmd, Some(vec!["sh".to_owned()]));
    }

    #[test]
    fn malformed_values_are_refused() {
        for bad in [
            json!({"ExposedPorts": {"x": {}}}),
            json!({"ExposedPorts": {"0/tcp": {}}}),
            json!({"ExposedPorts": {"80/icmp": {}}}),
            json!({"Env": ["=x"]}),
            json!({"Env": [""]}),
            json!({"Healthcheck": {"Interval": -1}}),
            json!({"Healthcheck": {"Timeout": 1000}}),
            json!({"Healthcheck": {"Retries": -1}}),
            json!({"Healthcheck": {"Test": ["WHAT"]}}),
            json!({"StopTimeout": -5}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
