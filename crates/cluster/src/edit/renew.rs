//! Secrets and configs that get new content under their old name and id, and the services
//! that use them started anew, all in one command.

use super::secret::{CONFIG_BYTES_LIMIT, SECRET_BYTES_LIMIT, check_size};
use super::{check_version, invalid, not_found};
use crate::command::{Object, Write};
use crate::store::Store;
use skep_model::Result;
use skep_model::id::{ConfigId, SecretId};
use skep_model::secret::{ConfigSpec, SecretSpec};
use skep_model::service::{Service, TaskContainer};

/// New labels and, unless `spec.data` is empty, new content.
///
/// # Errors
/// The version is not the present one, the name differs, or the content is too large.
pub fn update_secret(store: &Store, id: &SecretId, version: u64, spec: SecretSpec) -> Result<Vec<Write>> {
    let Some(present) = store.secret(id.as_str()) else { return Err(not_found("secret", id.as_str())) };
    check_version(present.meta.version, version)?;
    check_same_name(&present.spec.name, &spec.name)?;
    let mut secret = (**present).clone();
    secret.spec.labels = spec.labels;
    let renewed = !spec.data.is_empty() && spec.data != present.spec.data;
    if renewed {
        check_size("secret", spec.data.len(), SECRET_BYTES_LIMIT)?;
        secret.spec.data = spec.data;
    }
    let mut writes = vec![Write::put(Object::Secret(secret))];
    if renewed {
        let uses = |container: &TaskContainer| container.secrets.iter().any(|reference| reference.secret_id == *id);
        writes.extend(restarted(store, uses));
    }
    Ok(writes)
}

/// New labels and, unless `spec.data` is empty, new content.
///
/// # Errors
/// The version is not the present one, the name differs, or the content is too large.
pub fn update_config(store: &Store, id: &ConfigId, version: u64, spec: ConfigSpec) -> Result<Vec<Write>> {
    let Some(present) = store.config(id.as_str()) else { return Err(not_found("config", id.as_str())) };
    check_version(present.meta.version, version)?;
    check_same_name(&present.spec.name, &spec.name)?;
    let mut config = (**present).clone();
    config.spec.labels = spec.labels;
    let renewed = !spec.data.is_empty() && spec.data != present.spec.data;
    if renewed {
        check_size("config", spec.data.len(), CONFIG_BYTES_LIMIT)?;
        config.spec.data = spec.data;
    }
    let mut writes = vec![Write::put(Object::Config(config))];
    if renewed {
        let uses = |container: &TaskContainer| container.configs.iter().any(|reference| reference.config_id == *id);
        writes.extend(restarted(store, uses));
    }
    Ok(writes)
}

fn check_same_name(present: &str, given: &str) -> Result<()> {
    if present == given {
        return Ok(());
    }
    Err(invalid("only updates to Labels are allowed"))
}

/// A forced rolling update of every service that `uses` it. A job is not run again for
/// it: its next run has the new content.
fn restarted(store: &Store, uses: impl Fn(&TaskContainer) -> bool) -> Vec<Write> {
    let using = |service: &&std::sync::Arc<Service>| {
        !service.pending_delete && !service.spec.mode.is_job() && uses(&service.spec.task.container)
    };
    let force = |service: &std::sync::Arc<Service>| {
        let mut service = (**service).clone();
        let before = service.spec.clone();
        service.spec.task.force_update += 1;
        service.previous_spec = Some(Box::new(before));
        service.update_status = None;
        service.restarts.clear();
        Write::put(Object::Service(Box::new(service)))
    };
    store.services().filter(using).map(force).collect()
}
