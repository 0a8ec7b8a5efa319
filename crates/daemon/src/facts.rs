//! What this machine and this engine are.

use crate::config::Config;
use anyhow::{Context, Result};
use skep_api::backend::SystemInfo;
use skep_engine::container::LOG_DRIVERS;
use skep_model::node::{NodeDescription, Platform};
use std::io::Write;
use std::path::Path;

const ID_FILE: &str = "engine-id";
/// Beside the log drivers.
const PLUGINS: [(&str, &str); 5] =
    [("Network", "bridge"), ("Network", "host"), ("Network", "null"), ("Network", "overlay"), ("Volume", "local")];

/// What `info` says of this daemon.
///
/// # Errors
/// When the engine's id can be neither read nor made.
pub(crate) fn system_info(config: &Config) -> Result<SystemInfo> {
    Ok(SystemInfo {
        id: engine_id(&config.data_root)?,
        hostname: hostname(),
        data_root: config.data_root.clone(),
        labels: config.labels.clone(),
        counted_resources: config.counted_resources.clone(),
        named_resources: config.named_resources.clone(),
        insecure_registries: config.insecure_registries.clone(),
        registry_mirrors: config.registry_mirrors.clone(),
        debug: config.debug,
    })
}

/// What the swarm is told of this node.
pub(crate) fn node_description(system: &SystemInfo) -> NodeDescription {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let log_drivers = LOG_DRIVERS.into_iter().map(|name| ("Log", name));
    NodeDescription {
        hostname: system.hostname.clone(),
        platform: platform(),
        nano_cpus: i64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000),
        memory_bytes: memory_bytes(),
        engine_version: skep_api::SERVER_VERSION.to_owned(),
        addresses: crate::address::of_this_node(),
        engine_labels: system.labels.clone(),
        generic_resources: system.counted_resources.clone(),
        named_resources: system.named_resources.clone(),
        plugins: log_drivers.chain(PLUGINS).map(|(kind, name)| (kind.to_owned(), name.to_owned())).collect(),
        ..NodeDescription::default()
    }
}

pub(crate) fn platform() -> Platform {
    Platform { architecture: std::env::consts::ARCH.into(), os: std::env::consts::OS.into() }
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// A random id, made once per data root.
fn engine_id(data_root: &Path) -> Result<String> {
    let path = data_root.join(ID_FILE);
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot make an engine id")?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary).with_context(|| temporary.display().to_string())?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path).with_context(|| path.display().to_string())?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_keeps_its_id() {
        let directory = std::env::temp_dir().join(format!("skep-facts-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let id = engine_id(&directory).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(engine_id(&directory).unwrap(), id);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory_bytes() > 0);
        assert!(node_description(&SystemInfo::default()).nano_cpus >= 1_000_000_000);
    }
}
