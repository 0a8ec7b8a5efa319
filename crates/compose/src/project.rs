//! A loaded project: everything merged, substituted and in canonical form.

use crate::dotenv;
use crate::emit;
use crate::error::{Error, Place, Result};
use crate::load::{Files, read_text};
use crate::tree::{Entry, Map, Node, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Bytes of one `env_file`.
const ENV_FILE_BYTES_MAX: usize = 1 << 20;

/// What a dependent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its tasks run.
    Started,
    /// Its tasks run and their health checks pass.
    Healthy,
    /// Its tasks ended well.
    Completed,
}

/// One line of `depends_on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The service's key in the file.
    pub service: String,
    pub condition: Condition,
}

/// A compose project, ready to become a stack. Not `Debug`: its variables may be secrets.
pub struct Project {
    root: Node,
    environment: BTreeMap<String, String>,
    ignored: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl Project {
    pub(crate) fn new(
        root: Node,
        environment: BTreeMap<String, String>,
        ignored: BTreeSet<String>,
        unset: BTreeSet<String>,
    ) -> Self {
        Self { root, environment, ignored, unset }
    }

    /// A variable of the surroundings, `.env` included.
    pub(crate) fn variable(&self, name: &str) -> Option<&String> {
        self.environment.get(name)
    }

    /// Keys that are there and that a stack does not honour.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.ignored.iter().map(String::as_str)
    }

    /// Variables that were used and are not set.
    pub fn unset(&self) -> impl Iterator<Item = &str> {
        self.unset.iter().map(String::as_str)
    }

    /// The merged project as a compose file.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        emit::yaml(&self.root)
    }

    pub(crate) fn section(&self, name: &str) -> impl Iterator<Item = (&String, &Node)> {
        self.root.get(name).and_then(Node::map).into_iter().flatten().map(|(name, entry)| (name, &entry.node))
    }

    pub(crate) fn object(&self, section: &str, name: &str) -> Option<&Node> {
        // A network or volume may be defined by its name alone, so null counts.
        self.root.get(section)?.map()?.get(name).map(|entry| &entry.node)
    }

    /// Leaves out services whose profiles are not asked for.
    pub(crate) fn choose_profiles(&mut self, asked: &[String]) {
        let wanted = |node: &Node| {
            let profiles = node.get("profiles").map_or(&[][..], Node::items);
            let named = |profile: &Node| profile.as_text().is_some_and(|name| asked.contains(&name));
            profiles.is_empty() || asked.iter().any(|name| name == "*") || profiles.iter().any(named)
        };
        if let Some(services) = self.services_mut() {
            services.retain(|_, entry| wanted(&entry.node));
        }
    }

    /// Reads each service's `env_file` and gives bare names their values from outside.
    pub(crate) fn fill_environment(&mut self, files: &dyn Files) -> Result<()> {
        let outside = self.environment.clone();
        for entry in self.services_mut().into_iter().flat_map(BTreeMap::values_mut) {
            let service = &mut entry.node;
            let mut all: BTreeMap<String, (Place, Option<String>)> = BTreeMap::new();
            for file in service.get("env_file").map_or(&[][..], Node::items) {
                let path = file.text_of("path");
                let text = match read_text(files, Path::new(&path), ENV_FILE_BYTES_MAX) {
                    Err(Error::Read { .. }) if !file.flag("required")? => continue,
                    Err(error) => return Err(file.wrong(&format!("env file {error}"))),
                    Ok(text) => text,
                };
                let found = dotenv::literal(&text)
                    .map_err(|(line, message)| Error::Whole(format!("{path}:{line}: {message}")))?;
                all.extend(found.into_iter().map(|(name, value)| (name, (file.at.clone(), value))));
            }
            if let Some(given) = service.get("environment") {
                all.extend(given.entries().map(|(name, node)| (name.clone(), (node.at.clone(), node.as_text()))));
            }
            let fill = |(name, (at, value)): (String, (Place, Option<String>))| {
                // The outside wins over an empty value too, as it does for `docker stack`.
                let empty = value.as_deref().is_none_or(str::is_empty);
                let value = if empty { outside.get(&name).cloned().or(value) } else { value };
                let node = Node::new(&at, value.map_or(Value::Null, Value::Text));
                (name, Entry { key_at: at, node })
            };
            let filled: Map = all.into_iter().map(fill).collect();
            let at = service.at.clone();
            if let Some(map) = service.map_mut() {
                map.remove("env_file");
                if !filled.is_empty() {
                    let node = Node::new(&at, Value::Map(filled));
                    map.insert("environment".into(), Entry { key_at: at, node });
                }
            }
        }
        Ok(())
    }

    /// Every service has an image, and what it depends on is there.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, service) in self.section("services") {
            if service.text_of("image").is_empty() {
                let message = format!("invalid image reference for service {name}: no image specified");
                return Err(Error::at(&service.at, message));
            }
            self.dependencies(name)?;
        }
        crate::order::check(self)
    }

    /// What a service waits for; optional dependencies that are not there are left out.
    ///
    /// # Errors
    /// A service that is not there, or an unknown condition.
    pub(crate) fn dependencies(&self, name: &str) -> Result<Vec<Dependency>> {
        let Some(given) = self.object("services", name).and_then(|service| service.get("depends_on")) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for (service, node) in given.entries() {
            let condition = match node.text_of("condition").as_str() {
                "service_started" => Condition::Started,
                "service_healthy" => Condition::Healthy,
                "service_completed_successfully" => Condition::Completed,
                other => return Err(node.wrong(&format!("depends_on condition \"{other}\" is not known"))),
            };
            let required = node.get("required").map_or(Ok(true), Node::as_bool)?;
            match self.object("services", service) {
                Some(_) => all.push(Dependency { service: service.clone(), condition }),
                None if required => {
                    let message = format!("service \"{name}\" depends on undefined service \"{service}\"");
                    return Err(node.wrong(&message));
                }
                None => {}
            }
        }
        Ok(all)
    }

    fn services_mut(&mut self) -> Option<&mut Map> {
        self.root.map_mut()?.get_mut("services")?.node.map_mut()
    }
}
