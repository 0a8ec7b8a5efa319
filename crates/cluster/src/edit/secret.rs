//! Secrets and configs.

use super::{exists, invalid, not_found};
use crate::command::{Key, Kind, Object, Write};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::Result;
use skep_model::id::{ConfigId, SecretId};
use skep_model::secret::{Config, ConfigSpec, Secret, SecretSpec};
use skep_model::service::{Service, TaskSpec};

const NAME_LENGTH_MAX: usize = 64;
/// Exclusive.
pub(super) const SECRET_BYTES_LIMIT: usize = 512_000;
/// Exclusive.
pub(super) const CONFIG_BYTES_LIMIT: usize = 1_024_000;

/// # Errors
/// The name is taken or illegal, or the data is empty or too large.
pub fn create_secret(store: &Store, spec: SecretSpec, ids: &mut dyn IdSource) -> Result<(SecretId, Vec<Write>)> {
    check_name(&spec.name)?;
    check_size("secret", spec.data.len(), SECRET_BYTES_LIMIT)?;
    if store.secret_by_name(&spec.name).is_some() {
        return Err(exists(format!("secret {} already exists", spec.name)));
    }
    let id = SecretId(ids.swarm_id());
    let secret = Secret { id: id.clone(), spec, ..Secret::default() };
    Ok((id, vec![Write::put(Object::Secret(secret))]))
}

/// # Errors
/// A service uses it.
pub fn remove_secret(store: &Store, id: &SecretId) -> Result<Vec<Write>> {
    let Some(secret) = store.secret(id.as_str()) else { return Err(not_found("secret", id.as_str())) };
    let uses = |spec: &TaskSpec| spec.container.secrets.iter().any(|reference| reference.secret_id == *id);
    check_unused(store, "secret", &secret.spec.name, uses)?;
    let key = Key::new(Kind::Secret, id.as_str());
    Ok(vec![Write::Remove { key, expected: secret.meta.version }])
}

/// # Errors
/// The name is taken or illegal, or the data is empty or too large.
pub fn create_config(store: &Store, spec: ConfigSpec, ids: &mut dyn IdSource) -> Result<(ConfigId, Vec<Write>)> {
    check_name(&spec.name)?;
    check_size("config", spec.data.len(), CONFIG_BYTES_LIMIT)?;
    if store.config_by_name(&spec.name).is_some() {
        return Err(exists(format!("config {} already exists", spec.name)));
    }
    let id = ConfigId(ids.swarm_id());
    let config = Config { id: id.clone(), spec, ..Config::default() };
    Ok((id, vec![Write::put(Object::Config(config))]))
}

/// # Errors
/// A service uses it.
pub fn remove_config(store: &Store, id: &ConfigId) -> Result<Vec<Write>> {
    let Some(config) = store.config(id.as_str()) else { return Err(not_found("config", id.as_str())) };
    let uses = |spec: &TaskSpec| spec.container.configs.iter().any(|reference| reference.config_id == *id);
    check_unused(store, "config", &config.spec.name, uses)?;
    let key = Key::new(Kind::Config, id.as_str());
    Ok(vec![Write::Remove { key, expected: config.meta.version }])
}

fn check_name(name: &str) -> Result<()> {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let shaped = name.starts_with(alphanumeric) && name.ends_with(alphanumeric);
    let legal = name.chars().all(|c| alphanumeric(c) || "-_.".contains(c));
    if shaped && legal && name.len() <= NAME_LENGTH_MAX {
        return Ok(());
    }
    Err(invalid(
        "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]",
    ))
}

pub(super) fn check_size(kind: &str, length: usize, limit: usize) -> Result<()> {
    if length > 0 && length < limit {
        return Ok(());
    }
    Err(invalid(format!("{kind} data must be larger than 0 and less than {limit} bytes")))
}

/// Only present specs count, as in the reference: an old one is history.
fn check_unused(store: &Store, kind: &str, name: &str, uses: impl Fn(&TaskSpec) -> bool) -> Result<()> {
    let users = store.services_where(|service: &Service| uses(&service.spec.task));
    if users.is_empty() {
        return Ok(());
    }
    let services = if users.len() == 1 { "service" } else { "services" };
    Err(invalid(format!("{kind} '{name}' is in use by the following {services}: {}", users.join(", "))))
}
