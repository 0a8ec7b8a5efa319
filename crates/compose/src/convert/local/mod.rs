//! A project as the containers, networks and volumes of one machine, named and shaped as
//! `docker compose` names and shapes them.

mod build;
mod container;
mod host;
mod mounts;
mod networks;

use super::{files, service};
use crate::error::Result;
use crate::load::Files;
use crate::order;
use crate::project::{Dependency, Project};
use crate::tree::{Entry, Map, Node, Value};
use crate::units;
pub use build::Build;
pub use container::PlacedFile;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// Everything that a project consists of.
#[derive(Debug)]
pub struct Local {
    pub name: String,
    /// Those that services use.
    pub networks: Vec<LocalNetwork>,
    /// Those that services use.
    pub volumes: Vec<LocalVolume>,
    /// Each after those it depends on.
    pub services: Vec<LocalService>,
}

/// A network to make, or one that must be there.
#[derive(Debug, Clone)]
pub struct LocalNetwork {
    /// Its key in the file.
    pub key: String,
    pub name: String,
    /// Body of `/networks/create`; `None` for an external one.
    pub body: Option<Json>,
}

/// A volume to make, or one that must be there.
#[derive(Debug, Clone)]
pub struct LocalVolume {
    /// Its key in the file.
    pub key: String,
    pub name: String,
    /// Body of `/volumes/create`; `None` for an external one.
    pub body: Option<Json>,
}

/// A service and its containers' body. Not `Debug` in full: the body may hold secrets.
#[derive(Clone)]
pub struct LocalService {
    /// Its key in the file.
    pub key: String,
    /// As the file names it, else made of the project's name and the key.
    pub image: String,
    pub build: Option<Build>,
    /// `always`, `missing`, `never`, `build`, or empty.
    pub pull_policy: String,
    pub platform: String,
    /// How many containers.
    pub scale: u64,
    /// The one container's name, where the file gives it.
    pub container_name: Option<String>,
    /// Body of `/containers/create` without the project's labels. Spaces shared with another
    /// service read `service:KEY`, and `VolumesFrom` names keys; both are still to be
    /// replaced by ids.
    pub body: Json,
    pub depends_on: Vec<Dependency>,
    pub has_health_check: bool,
    /// Files whose content is part of the project; put into each container before it starts.
    pub files: Vec<PlacedFile>,
    /// Whether `up` shows its output.
    pub attach: bool,
    /// The service as the files define it, in one canonical text: another text is another service.
    pub definition: String,
}

impl std::fmt::Debug for LocalService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalService").field("key", &self.key).field("image", &self.image).finish_non_exhaustive()
    }
}

/// Keys that say how containers are made, not what they are.
const NOT_DEFINING: [&str; 9] =
    ["attach", "build", "depends_on", "deploy", "develop", "profiles", "pull_policy", "pull_refresh_after", "scale"];

impl Project {
    /// # Errors
    /// A value that makes no sense, an object that is named and not defined, a file that
    /// cannot be read.
    pub fn to_local(&self, files: &dyn Files) -> Result<Local> {
        let mut services = Vec::new();
        for key in order::names(self)? {
            services.push(convert(self, &key, files)?);
        }
        let used: BTreeSet<String> = services
            .iter()
            .filter_map(|service| self.object("services", &service.key))
            .flat_map(networks::names)
            .collect();
        Ok(Local {
            name: self.name().to_owned(),
            networks: networks::convert(self, &used)?,
            volumes: mounts::volumes(self)?,
            services,
        })
    }

    /// The merged project with its name and its default network, as a compose file.
    #[must_use]
    pub fn to_local_yaml(&self) -> String {
        crate::emit::yaml(&self.explicit())
    }

    /// The same as JSON.
    #[must_use]
    pub fn to_local_json(&self) -> Json {
        self.explicit().to_json()
    }

    fn explicit(&self) -> Node {
        let mut root = self.root().clone();
        let at = root.at.clone();
        let entry = |value: Value| Entry { key_at: at.clone(), node: Node::new(&at, value) };
        let Some(map) = root.map_mut() else { return root };
        map.remove("version");
        map.insert("name".into(), entry(Value::Text(self.name().to_owned())));
        let mut used = BTreeSet::new();
        for (_, service) in map.get_mut("services").and_then(|entry| entry.node.map_mut()).into_iter().flatten() {
            used.extend(networks::names(&service.node));
            let alone = service.node.get("networks").is_none() && service.node.get("network_mode").is_none();
            if let Some(service) = service.node.map_mut().filter(|_| alone) {
                let default = Map::from([(networks::DEFAULT.to_owned(), entry(Value::Null))]);
                service.insert("networks".into(), entry(Value::Map(default)));
            }
        }
        for (section, names) in [("networks", used), ("volumes", BTreeSet::new())] {
            let objects = map.entry(section.into()).or_insert_with(|| entry(Value::Map(Map::new())));
            if objects.node.is_null() {
                objects.node.value = Value::Map(Map::new());
            }
            let Some(objects) = objects.node.map_mut() else { continue };
            for name in names {
                objects.entry(name).or_insert_with(|| entry(Value::Map(Map::new())));
            }
            for (key, object) in objects.iter_mut() {
                let name = name_of(self, Some(&object.node), key);
                if let Some(object) = object.node.map_mut() {
                    object.insert("name".into(), entry(Value::Text(name)));
                }
            }
        }
        map.retain(|_, entry| entry.node.map().is_none_or(|map| !map.is_empty()));
        root
    }
}

fn convert(project: &Project, key: &str, files: &dyn Files) -> Result<LocalService> {
    let Some(node) = project.object("services", key) else {
        return Err(crate::error::Error::Whole(format!("undefined service \"{key}\"")));
    };
    let named = node.text_of("image");
    let image = if named.is_empty() { format!("{}-{key}", project.name()) } else { named };
    let health = node.get("healthcheck").map(service::health_check).transpose()?;
    let has_health_check = service::checks(health.as_ref());
    let container_name = node.get("container_name").and_then(Node::as_text);
    let scale = scale(node)?;
    if scale > 1 && container_name.is_some() {
        let message = format!(
            "can't set container_name and {key} as container name must be unique: it would be {scale} containers"
        );
        return Err(node.wrong(&message));
    }
    let pull_policy = node.text_of("pull_policy");
    if !matches!(pull_policy.as_str(), "" | "always" | "missing" | "if_not_present" | "never" | "build") {
        return Err(
            node.wrong(&format!("pull_policy \"{pull_policy}\" is not supported: always, missing, never or build"))
        );
    }
    Ok(LocalService {
        key: key.to_owned(),
        body: container::body(project, key, node, &image, health, files)?,
        build: build::convert(project, node, &image)?,
        image,
        pull_policy,
        platform: node.text_of("platform"),
        scale,
        container_name,
        depends_on: project.dependencies(key)?,
        has_health_check,
        files: container::placed_files(project, node)?,
        attach: node.get("attach").map_or(Ok(true), Node::as_bool)?,
        definition: definition(node),
    })
}

fn scale(node: &Node) -> Result<u64> {
    let plan = node.get("deploy");
    let replicas = plan.and_then(|plan| plan.get("replicas")).or_else(|| node.get("scale"));
    replicas.map_or(Ok(1), Node::as_count)
}

fn definition(node: &Node) -> String {
    let mut json = node.to_json();
    if let Some(object) = json.as_object_mut() {
        object.retain(|key, _| !NOT_DEFINING.contains(&key.as_str()) && !key.starts_with("x-"));
        // Of the plan only limits and restarts reach a container.
        if let Some(plan) = node.get("deploy") {
            for key in ["resources", "restart_policy"] {
                if let Some(part) = plan.get(key) {
                    object.insert(format!("deploy.{key}"), part.to_json());
                }
            }
        }
    }
    json.to_string()
}

/// The name of a network or volume: its own, or the key behind the project's name.
fn name_of(project: &Project, node: Option<&Node>, key: &str) -> String {
    let given = node.map(|node| node.text_of("name")).unwrap_or_default();
    if given.is_empty() { format!("{}_{key}", project.name()) } else { given }
}

/// Whole seconds, at least one where any time is given.
fn seconds(node: &Node) -> Result<i64> {
    Ok((units::duration_ns(node)? + 999_999_999) / 1_000_000_000)
}
