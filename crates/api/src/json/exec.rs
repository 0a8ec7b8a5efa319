//! Exec: a further process in a running container.

use super::config::check_env;
use super::{unsupported, wire};
use serde::Serialize;
use skep_model::container::{ExecConfig, ExecInfo};
use skep_model::{Error, Result};

wire!(
    /// Body of `POST /containers/ID/exec`.
    ExecCreate {
        user: String,
        privileged: bool,
        tty: bool,
        console_size: Option<(u16, u16)>,
        attach_stdin: bool,
        attach_stderr: bool,
        attach_stdout: bool,
        detach_keys: String,
        env: Vec<String>,
        working_dir: String,
        cmd: Vec<String>,
    }
);

wire!(
    /// Body of `POST /exec/ID/start`.
    ExecStart {
        detach: bool,
        tty: bool,
        console_size: Option<(u16, u16)>,
    }
);

impl ExecCreate {
    /// # Errors
    /// No command, or detach keys or variables that mean nothing.
    pub(crate) fn into_model(self) -> Result<ExecConfig> {
        if self.cmd.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        check_env(&self.env)?;
        crate::detach::DetachKeys::parse(&self.detach_keys)?;
        if self.console_size.is_some() && !self.tty {
            return Err(unsupported("ConsoleSize without Tty"));
        }
        Ok(ExecConfig {
            cmd: self.cmd,
            env: self.env,
            user: self.user,
            working_dir: self.working_dir,
            tty: self.tty,
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            privileged: self.privileged,
            detach_keys: self.detach_keys,
            console_size: self.console_size.unwrap_or_default(),
        })
    }
}

/// `GET /exec/ID/json`.
#[derive(Debug, Serialize)]
pub(crate) struct ExecInspect {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Running")]
    running: bool,
    #[serde(rename = "ExitCode")]
    exit_code: Option<i32>,
    #[serde(rename = "ProcessConfig")]
    process: ProcessConfig,
    #[serde(rename = "OpenStdin")]
    open_stdin: bool,
    #[serde(rename = "OpenStderr")]
    open_stderr: bool,
    #[serde(rename = "OpenStdout")]
    open_stdout: bool,
    #[serde(rename = "CanRemove")]
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: String,
    #[serde(rename = "DetachKeys")]
    detach_keys: String,
    #[serde(rename = "Pid")]
    pid: u32,
}

#[derive(Debug, Serialize)]
struct ProcessConfig {
    tty: bool,
    entrypoint: String,
    arguments: Vec<String>,
    privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
}

impl ExecInspect {
    pub(crate) fn of(info: &ExecInfo) -> Self {
        let config = &info.config;
        let mut words = config.cmd.iter().cloned();
        Self {
            id: info.id.clone(),
            running: info.running,
            exit_code: info.exit_code,
            process: ProcessConfig {
                tty: config.tty,
                entrypoint: words.next().unwrap_or_default(),
                arguments: words.collect(),
                privileged: config.privileged,
                user: config.user.clone(),
            },
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: info.can_remove,
            container_id: info.container_id.to_string(),
            detach_keys: config.detach_keys.clone(),
            pid: info.pid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn create_needs_a_command() {
        let read = |value| serde_json::from_value::<ExecCreate>(value).unwrap().into_model();
        assert_eq!(read(json!({})).unwrap_err().message, "No exec command specified");
        let config = read(json!({"Cmd": ["a", "b"], "Tty": true, "ConsoleSize": [24, 80], "Env": null})).unwrap();
        assert_eq!((config.cmd.len(), config.console_size), (2, (24, 80)));
        assert!(read(json!({"Cmd": ["a"], "DetachKeys": "ctrl-1"})).is_err());
        assert!(read(json!({"Cmd": ["a"], "Env": ["=1"]})).is_err());
    }

    #[test]
    fn an_unfinished_exec_has_a_null_exit_code() {
        let config = ExecConfig { cmd: vec!["sh".into(), "-c".into()], ..ExecConfig::default() };
        let wire = serde_json::to_value(ExecInspect::of(&ExecInfo { config, ..ExecInfo::default() })).unwrap();
        assert_eq!(wire["ExitCode"], json!(null));
        assert_eq!(wire["ProcessConfig"]["arguments"], json!(["-c"]));
    }
}
