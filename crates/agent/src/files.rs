//! Secrets and configs of this node's tasks, in memory only, and the files they become.

use crate::template::{AtHand, NodeFacts, expand, expand_file};
use skep_model::container::InjectedFile;
use skep_model::id::TaskId;
use skep_model::secret::{Config, Secret};
use skep_model::service::{ConfigReference, FileTarget, PullAuth, SecretReference};
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
    /// Credentials for the images of tasks, by task. Tasks themselves are written to disk.
    pub(crate) pull_auth: BTreeMap<TaskId, PullAuth>,
}

impl Dependencies {
    /// The files that `task` refers to, on `node`.
    ///
    /// # Errors
    /// `Unavailable` when one has not arrived yet; `InvalidArgument` for a malformed owner or
    /// template.
    pub(crate) fn files_of(&self, task: &Task, node: &NodeFacts) -> Result<Vec<InjectedFile>> {
        let secrets = self.secrets_of(task)?;
        let configs = self.configs_of(task)?;
        let templates = secrets.iter().any(|(_, secret)| !secret.spec.template_driver.is_empty())
            || configs.iter().any(|(_, config)| !config.spec.template_driver.is_empty());
        let at_hand = if templates { Some(at_hand(task, node, &secrets, &configs)?) } else { None };
        let content = |kind: &str, name: &str, driver: &str, data: &[u8]| match (driver, &at_hand) {
            ("", _) | (_, None) => Ok(data.to_vec()),
            ("golang", Some(at_hand)) => expand_file(data, task, node, at_hand)
                .map_err(|error| error.context(format!("expanding {kind} {name} failed"))),
            (other, Some(_)) => Err(Error::invalid(format!("{kind} {name}: unknown template driver \"{other}\""))),
        };
        let mut files = Vec::new();
        for (reference, secret) in secrets {
            let name = &reference.secret_name;
            let data = content("secret", name, &secret.spec.template_driver, &secret.spec.data)?;
            files.push(file(&reference.file, name, SECRETS_DIRECTORY, data)?);
        }
        for (reference, config) in configs {
            let name = &reference.config_name;
            let data = content("config", name, &config.spec.template_driver, &config.spec.data)?;
            files.push(file(&reference.file, name, "", data)?);
        }
        Ok(files)
    }

    fn secrets_of<'a>(&'a self, task: &'a Task) -> Result<Vec<(&'a SecretReference, &'a Secret)>> {
        let find = |reference: &'a SecretReference| {
            let id = reference.secret_id.as_str();
            Ok((reference, &**self.secrets.get(id).ok_or_else(|| missing("secret", id))?))
        };
        task.spec.container.secrets.iter().map(find).collect()
    }

    fn configs_of<'a>(&'a self, task: &'a Task) -> Result<Vec<(&'a ConfigReference, &'a Config)>> {
        let find = |reference: &'a ConfigReference| {
            let id = reference.config_id.as_str();
            Ok((reference, &**self.configs.get(id).ok_or_else(|| missing("config", id))?))
        };
        task.spec.container.configs.iter().map(find).collect()
    }
}

/// What templates may name: the environment as the container gets it, and files by their
/// targets, as they are in the store.
fn at_hand(
    task: &Task,
    node: &NodeFacts,
    secrets: &[(&SecretReference, &Secret)],
    configs: &[(&ConfigReference, &Config)],
) -> Result<AtHand> {
    let mut env = BTreeMap::new();
    for pair in &task.spec.container.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        env.insert(name.to_owned(), expand(value, task, node).map_err(|e| e.context("expanding env failed"))?);
    }
    let secrets = secrets.iter().map(|(reference, secret)| {
        (target(&reference.file, &reference.secret_name).to_owned(), secret.spec.data.clone())
    });
    let configs = configs.iter().map(|(reference, config)| {
        (target(&reference.file, &reference.config_name).to_owned(), config.spec.data.clone())
    });
    Ok(AtHand { env, secrets: secrets.collect(), configs: configs.collect() })
}

fn missing(kind: &str, id: &str) -> Error {
    Error::unavailable(format!("{kind} {id} has not reached this node yet"))
}

fn target<'a>(file: &'a FileTarget, name: &'a str) -> &'a str {
    if file.name.is_empty() { name } else { &file.name }
}

fn file(target: &FileTarget, name: &str, directory: &str, data: Vec<u8>) -> Result<InjectedFile> {
    let name = self::target(target, name);
    let target_path = if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") };
    Ok(InjectedFile {
        target: target_path,
        uid: owner(&target.uid)?,
        gid: owner(&target.gid)?,
        mode: if target.mode == 0 { FILE_MODE } else { target.mode },
        data,
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
            ..Dependencies::default()
        }
    }

    fn task(secret: FileTarget, config: FileTarget) -> Task {
        let mut task = Task::default();
        Arc::make_mut(&mut task.spec).container.secrets =
            vec![SecretReference { secret_id: "s1".into(), secret_name: "pw".into(), file: secret }];
        Arc::make_mut(&mut task.spec).container.configs =
            vec![ConfigReference { config_id: "c1".into(), config_name: "app.conf".into(), file: config }];
        task
    }

    #[test]
    fn relative_names_get_the_usual_directory() {
        let files = dependencies()
            .files_of(&task(FileTarget::default(), FileTarget::default()), &NodeFacts::default())
            .unwrap();
        assert_eq!(files[0].target, "/run/secrets/pw");
        assert_eq!((files[0].mode, files[0].data.as_slice()), (0o444, b"hush".as_slice()));
        assert_eq!(files[1].target, "/app.conf");
    }

    #[test]
    fn targets_and_owners_are_kept() {
        let target = FileTarget { name: "/etc/x".into(), uid: "33".into(), gid: "34".into(), mode: 0o400 };
        let files = dependencies().files_of(&task(target, FileTarget::default()), &NodeFacts::default()).unwrap();
        assert_eq!((files[0].target.as_str(), files[0].uid, files[0].gid, files[0].mode), ("/etc/x", 33, 34, 0o400));
        let bad = FileTarget { uid: "bob".into(), ..FileTarget::default() };
        assert!(dependencies().files_of(&task(bad, FileTarget::default()), &NodeFacts::default()).is_err());
    }

    #[test]
    fn what_has_not_arrived_may_come_later() {
        let error = Dependencies::default()
            .files_of(&task(FileTarget::default(), FileTarget::default()), &NodeFacts::default())
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
    }

    #[test]
    fn templates_are_filled_in_where_the_task_runs() {
        let mut dependencies = dependencies();
        let mut config = Config::clone(&dependencies.configs["c1"]);
        config.spec.template_driver = "golang".into();
        config.spec.data = b"{{.Node.Hostname}} {{.Task.Slot}} {{env \"WHO\"}} {{secret \"pw\"}}".to_vec();
        dependencies.configs.insert("c1".into(), Arc::new(config.clone()));
        let mut task = task(FileTarget::default(), FileTarget::default());
        task.slot = 2;
        Arc::make_mut(&mut task.spec).container.env = vec!["WHO={{.Service.Name}}".into()];
        task.service_name = "web".into();
        let node = NodeFacts { hostname: "host1".into(), ..NodeFacts::default() };
        let files = dependencies.files_of(&task, &node).unwrap();
        assert_eq!(String::from_utf8(files[1].data.clone()).unwrap(), "host1 2 web hush");
        assert_eq!(files[0].data, b"hush", "only templates are filled in");
        config.spec.data = b"{{secret \"other\"}}".to_vec();
        dependencies.configs.insert("c1".into(), Arc::new(config));
        let error = dependencies.files_of(&task, &node).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.starts_with("expanding config app.conf failed: "), "{error}");
        assert!(error.message.contains("secret target other not found"), "{error}");
    }
}
