//! Secrets and configs of this node's tasks, in memory only, and the files they become.

use skep_model::container::InjectedFile;
use skep_model::secret::{Config, Secret};
use skep_model::service::FileTarget;
use skep_model::task::Task;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECRETS_DIRECTORY: &str = "/run/secrets";
const FILE_MODE: u32 = 0o444;

/// What the manager handed to this node, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Dependencies {
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
    pub(crate) configs: BTreeMap<String, Arc<Config>>,
}

impl Dependencies {
    /// The files that `task` refers to.
    ///
    /// # Errors
    /// `Unavailable` when one has not arrived yet; `InvalidArgument` for a malformed owner.
    pub(crate) fn files_of(&self, task: &Task) -> Result<Vec<InjectedFile>> {
        let mut files = Vec::new();
        for reference in &task.spec.container.secrets {
            let secret = self
                .secrets
                .get(reference.secret_id.as_str())
                .ok_or_else(|| missing("secret", reference.secret_id.as_str()))?;
            files.push(file(&reference.file, &reference.secret_name, SECRETS_DIRECTORY, &secret.spec.data)?);
        }
        for reference in &task.spec.container.configs {
            let config = self
                .configs
                .get(reference.config_id.as_str())
                .ok_or_else(|| missing("config", reference.config_id.as_str()))?;
            files.push(file(&reference.file, &reference.config_name, "", &config.spec.data)?);
        }
        Ok(files)
    }
}

fn missing(kind: &str, id: &str) -> Error {
    Error::unavailable(format!("{kind} {id} has not reached this node yet"))
}

fn file(target: &FileTarget, name: &str, directory: &str, data: &[u8]) -> Result<InjectedFile> {
    let name = if target.name.is_empty() { name } else { &target.name };
    let target_path = if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") };
    Ok(InjectedFile {
        target: target_path,
        uid: owner(&target.uid)?,
        gid: owner(&target.gid)?,
        mode: if target.mode == 0 { FILE_MODE } else { target.mode },
        data: data.to_vec(),
    })
}

fn owner(text: &str) -> Result<u32> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| Error::invalid(format!("invalid owner \"{text}\" of a secret or config: not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::ErrorKind;
    use skep_model::secret::{ConfigSpec, SecretSpec};
    use skep_model::service::{ConfigReference, SecretReference};

    fn dependencies() -> Dependencies {
        let secret = Secret {
            id: "s1".into(),
            spec: SecretSpec { data: b"hush".to_vec(), ..SecretSpec::default() },
            ..Secret::default()
        };
        let config = Config {
            id: "c1".into(),
            spec: ConfigSpec { data: b"text".to_vec(), ..ConfigSpec::default() },
            ..Config::default()
        };
        Dependencies {
            secrets: [("s1".to_owned(), Arc::new(secret))].into(),
            configs: [("c1".to_owned(), Arc::new(config))].into(),
        }
    }

    fn task(secret: FileTarget, config: FileTarget) -> Task {
        let mut task = Task::default();
        task.spec.container.secrets =
            vec![SecretReference { secret_id: "s1".into(), secret_name: "pw".into(), file: secret }];
        task.spec.container.configs =
            vec![ConfigReference { config_id: "c1".into(), config_name: "app.conf".into(), file: config }];
        task
    }

    #[test]
    fn relative_names_get_the_usual_directory() {
        let files = dependencies().files_of(&task(FileTarget::default(), FileTarget::default())).unwrap();
        assert_eq!(files[0].target, "/run/secrets/pw");
        assert_eq!((files[0].mode, files[0].data.as_slice()), (0o444, b"hush".as_slice()));
        assert_eq!(files[1].target, "/app.conf");
    }

    #[test]
    fn targets_and_owners_are_kept() {
        let target = FileTarget { name: "/etc/x".into(), uid: "33".into(), gid: "34".into(), mode: 0o400 };
        let files = dependencies().files_of(&task(target, FileTarget::default())).unwrap();
        assert_eq!((files[0].target.as_str(), files[0].uid, files[0].gid, files[0].mode), ("/etc/x", 33, 34, 0o400));
        let bad = FileTarget { uid: "bob".into(), ..FileTarget::default() };
        assert!(dependencies().files_of(&task(bad, FileTarget::default())).is_err());
    }

    #[test]
    fn what_has_not_arrived_may_come_later() {
        let error = Dependencies::default().files_of(&task(FileTarget::default(), FileTarget::default())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
    }
}
