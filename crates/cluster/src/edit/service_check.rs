//! What a service spec must look like, whatever else exists.

use super::invalid;
use crate::plan::parse_constraints;
use crate::store::Store;
use skep_model::image::Reference;
use skep_model::service::{
    EndpointMode, EndpointSpec, FailureAction, FileTarget, PublishMode, ServiceMode, ServiceSpec, TaskContainer,
    TaskResources, UpdateConfig,
};
use skep_model::{Error, Result, validate};
use std::collections::BTreeMap;
use std::time::Duration;

/// 0.001 CPU.
const NANO_CPUS_MIN: i64 = 1_000_000;
const MEMORY_BYTES_MIN: i64 = 4 << 20;
const HEALTH_DURATION_MIN: Duration = Duration::from_millis(1);
/// More replicas than this are a typing error; every one costs an object.
const REPLICAS_MAX: u64 = 1_000_000;
/// Clients' counts are signed; one beyond this was negative.
const COUNT_MAX: u64 = i64::MAX as u64;

/// # Errors
/// The first rule that is broken.
pub(super) fn check(store: &Store, spec: &ServiceSpec) -> Result<()> {
    validate::service_name(&spec.name)?;
    check_mode(&spec.mode)?;
    check_container(&spec.task.container)?;
    check_resources(&spec.task.resources)?;
    parse_constraints(&spec.task.placement.constraints).map_err(invalid)?;
    check_spread(&spec.task.placement.spread)?;
    if spec.mode.is_job() && spec.update.is_some() {
        return Err(invalid("Jobs may not have an update config"));
    }
    check_update(spec.update.as_ref())?;
    check_update(spec.rollback.as_ref())?;
    if spec.rollback.as_ref().is_some_and(|config| config.failure_action == FailureAction::Rollback) {
        return Err(invalid("invalid rollback failure action: a rollback cannot roll back"));
    }
    check_endpoint(&spec.endpoint)?;
    check_files(store, &spec.task.container)
}

/// What an update may not change.
///
/// # Errors
/// Mode or name differ.
pub(super) fn check_change(before: &ServiceSpec, after: &ServiceSpec) -> Result<()> {
    if before.name != after.name {
        let text = "rpc error: code = Unimplemented desc = renaming services is not supported";
        return Err(Error::not_implemented(text));
    }
    if std::mem::discriminant(&before.mode) != std::mem::discriminant(&after.mode) {
        let text = "rpc error: code = Unimplemented desc = service mode change is not allowed";
        return Err(Error::not_implemented(text));
    }
    Ok(())
}

fn check_mode(mode: &ServiceMode) -> Result<()> {
    match mode {
        ServiceMode::Replicated { replicas } if *replicas > COUNT_MAX => {
            Err(invalid("Number of replicas must be non-negative"))
        }
        ServiceMode::Replicated { replicas } if *replicas > REPLICAS_MAX => {
            Err(invalid(format!("{replicas} replicas are more than the {REPLICAS_MAX} allowed")))
        }
        ServiceMode::ReplicatedJob { max_concurrent, .. } if *max_concurrent > COUNT_MAX => {
            Err(invalid("Maximum concurrent jobs must not be negative"))
        }
        ServiceMode::ReplicatedJob { total_completions, .. } if *total_completions > COUNT_MAX => {
            Err(invalid("Total completed jobs must not be negative"))
        }
        ServiceMode::ReplicatedJob { total_completions, .. } if *total_completions > REPLICAS_MAX => {
            Err(invalid(format!("{total_completions} completions are more than the {REPLICAS_MAX} allowed")))
        }
        ServiceMode::Replicated { .. }
        | ServiceMode::Global
        | ServiceMode::ReplicatedJob { .. }
        | ServiceMode::GlobalJob => Ok(()),
    }
}

fn check_container(container: &TaskContainer) -> Result<()> {
    if container.image.is_empty() {
        return Err(invalid("ContainerSpec: image reference must be provided"));
    }
    if Reference::parse(&container.image).is_err() {
        return Err(invalid(format!("ContainerSpec: {:?} is not a valid repository/tag", container.image)));
    }
    let mut targets = std::collections::BTreeSet::new();
    for mount in &container.mounts {
        if !targets.insert(mount.target.as_str()) {
            return Err(invalid(format!("ContainerSpec: duplicate mount point: {}", mount.target)));
        }
    }
    let Some(health) = &container.healthcheck else { return Ok(()) };
    let durations = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    for (name, duration) in durations {
        if !duration.is_zero() && duration < HEALTH_DURATION_MIN {
            return Err(invalid(format!("ContainerSpec: {name} in HealthConfig cannot be less than 1ms")));
        }
    }
    Ok(())
}

fn check_resources(resources: &TaskResources) -> Result<()> {
    for cpus in [resources.limit_nano_cpus, resources.reserve_nano_cpus] {
        if cpus != 0 && cpus < NANO_CPUS_MIN {
            let value = cpus as f64 / 1e9;
            return Err(invalid(format!("invalid cpu value {value}: Must be at least 0.001")));
        }
    }
    for memory in [resources.limit_memory_bytes, resources.reserve_memory_bytes] {
        if memory != 0 && memory < MEMORY_BYTES_MIN {
            return Err(invalid(format!("invalid memory value {memory}: Must be at least 4MiB")));
        }
    }
    let reversed = |limit: i64, reserved: i64| limit > 0 && reserved > limit;
    if reversed(resources.limit_memory_bytes, resources.reserve_memory_bytes) {
        return Err(invalid("memory reservation must not be larger than the memory limit"));
    }
    if resources.limit_pids < 0 || resources.reserve_generic.values().any(|count| *count < 0) {
        return Err(invalid("resource values must not be negative"));
    }
    Ok(())
}

fn check_spread(spread: &[String]) -> Result<()> {
    let known = |key: &&String| {
        let key = key.to_ascii_lowercase();
        ["node.labels.", "engine.labels."].iter().any(|prefix| key.len() > prefix.len() && key.starts_with(prefix))
    };
    match spread.iter().find(|key| !known(key)) {
        None => Ok(()),
        Some(key) => Err(invalid(format!(
            "placement preference spread={key}: only node.labels.* and engine.labels.* can be spread over"
        ))),
    }
}

fn check_update(config: Option<&UpdateConfig>) -> Result<()> {
    let ratio = config.map_or(0.0, |config| config.max_failure_ratio);
    if (0.0..=1.0).contains(&ratio) {
        return Ok(());
    }
    Err(invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"))
}

fn check_endpoint(endpoint: &EndpointSpec) -> Result<()> {
    let mut published = std::collections::BTreeSet::new();
    for port in &endpoint.ports {
        if port.target_port == 0 {
            return Err(invalid("EndpointSpec: a published port needs a target port"));
        }
        if endpoint.mode == EndpointMode::DnsRr && port.publish_mode == PublishMode::Ingress {
            return Err(invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode"));
        }
        if port.published_port != 0 && !published.insert((port.protocol, port.published_port)) {
            return Err(invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}

/// References to secrets and configs, which must exist.
fn check_files(store: &Store, container: &TaskContainer) -> Result<()> {
    let secrets = container.secrets.iter();
    if secrets.clone().any(|reference| reference.secret_id.is_empty() || reference.secret_name.is_empty()) {
        return Err(invalid("malformed secret reference"));
    }
    check_targets("secret", secrets.clone().map(|reference| (&reference.file, reference.secret_name.as_str())))?;
    let configs = container.configs.iter();
    if configs.clone().any(|reference| reference.config_id.is_empty() || reference.config_name.is_empty()) {
        return Err(invalid("malformed config reference"));
    }
    check_targets("config", configs.clone().map(|reference| (&reference.file, reference.config_name.as_str())))?;
    let missing = secrets.clone().filter(|reference| store.secret(reference.secret_id.as_str()).is_none());
    check_present("secret", missing.map(|reference| reference.secret_name.clone()).collect())?;
    let missing = configs.filter(|reference| store.config(reference.config_id.as_str()).is_none());
    check_present("config", missing.map(|reference| reference.config_name.clone()).collect())
}

fn check_present(kind: &str, missing: Vec<String>) -> Result<()> {
    match missing.as_slice() {
        [] => Ok(()),
        [one] => Err(invalid(format!("{kind} not found: {one}"))),
        many => Err(invalid(format!("{kind}s not found: {}", many.join(", ")))),
    }
}

fn check_targets<'a>(kind: &str, files: impl Iterator<Item = (&'a FileTarget, &'a str)>) -> Result<()> {
    let mut targets: BTreeMap<&str, &str> = BTreeMap::new();
    for (file, name) in files {
        if file.name.is_empty() {
            let text = format!("malformed file {kind} reference, invalid target file name provided");
            return Err(invalid(text));
        }
        if let Some(other) = targets.insert(&file.name, name) {
            let text = format!("{kind} references '{other}' and '{name}' have a conflicting target: '{}'", file.name);
            return Err(invalid(text));
        }
    }
    Ok(())
}
