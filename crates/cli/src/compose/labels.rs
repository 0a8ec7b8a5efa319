//! The labels of docker compose, by which either tool knows a project's objects.

use serde_json::Value;
use sha2::{Digest, Sha256};
use skep_compose::{Condition, LocalService};

pub(super) const PROJECT: &str = "com.docker.compose.project";
pub(super) const SERVICE: &str = "com.docker.compose.service";
pub(super) const NUMBER: &str = "com.docker.compose.container-number";
pub(super) const ONE_OFF: &str = "com.docker.compose.oneoff";
pub(super) const SLUG: &str = "com.docker.compose.slug";
pub(super) const HASH: &str = "com.docker.compose.config-hash";
pub(super) const NETWORK: &str = "com.docker.compose.network";
pub(super) const VOLUME: &str = "com.docker.compose.volume";
pub(super) const VERSION: &str = "com.docker.compose.version";
pub(super) const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
pub(super) const WORKING_FOLDER: &str = "com.docker.compose.project.working_dir";
pub(super) const VARIABLES: &str = "com.docker.compose.project.environment_file";
pub(super) const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub(super) const IMAGE: &str = "com.docker.compose.image";

/// Of a service's definition, and of what is placed in its containers.
pub(super) fn hash(service: &LocalService) -> String {
    let mut hasher = Sha256::new();
    hasher.update(service.definition.as_bytes());
    for file in &service.files {
        hasher.update(format!("\0{} {} {} {:o}\0", file.path, file.user, file.group, file.mode).as_bytes());
        hasher.update(&file.content);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `db:service_healthy:false,cache:service_started:true`
pub(super) fn depends_on(service: &LocalService) -> String {
    let word = |condition| match condition {
        Condition::Started => "service_started",
        Condition::Healthy => "service_healthy",
        Condition::Completed => "service_completed_successfully",
    };
    let one = |wish: &skep_compose::Dependency| format!("{}:{}:{}", wish.service, word(wish.condition), wish.restart);
    service.depends_on.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The keys of what a container made by either tool depends on.
pub(super) fn needed(label: &str) -> Vec<String> {
    let key = |part: &str| part.split(':').next().unwrap_or_default().to_owned();
    label.split(',').map(key).filter(|key| !key.is_empty()).collect()
}

/// Puts labels beside those that a body has.
pub(super) fn add(body: &mut Value, labels: &[(&str, String)]) {
    if !body["Labels"].is_object() {
        body["Labels"] = serde_json::json!({});
    }
    for (name, value) in labels {
        body["Labels"][*name] = value.clone().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_back() {
        assert_eq!(needed("db:service_healthy:false,cache:service_started:true"), ["db", "cache"]);
        assert_eq!(needed(""), [""; 0]);
    }
}
