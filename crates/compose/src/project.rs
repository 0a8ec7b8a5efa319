//! A loaded project: everything merged, substituted and in canonical form.

use crate::dotenv;
use crate::emit;
use crate::error::{Error, Place, Result};
use crate::load::{Files, read_text};
use crate::tree::{Entry, Map, Node, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    /// Whether the dependent restarts with it.
    pub restart: bool,
    /// Whether the dependent cannot do without it.
    pub required: bool,
}

/// A compose project, ready to become a stack. Not `Debug`: its variables may be secrets.
pub struct Project {
    root: Node,
    environment: BTreeMap<String, String>,
    ignored: BTreeSet<String>,
    unset: BTreeSet<String>,
    local: Option<Surroundings>,
    /// Services that no chosen profile has.
    left_out: BTreeSet<String>,
}

/// What a project of one machine is named and where its paths begin.
struct Surroundings {
    name: String,
    folder: PathBuf,
}

impl Project {
    pub(crate) fn new(
        root: Node,
        environment: BTreeMap<String, String>,
        ignored: BTreeSet<String>,
        unset: BTreeSet<String>,
    ) -> Self {
        Self { root, environment, ignored, unset, local: None, left_out: BTreeSet::new() }
    }

    pub(crate) fn make_local(&mut self, name: String, folder: &Path) {
        self.local = Some(Surroundings { name, folder: folder.to_owned() });
    }

    /// The project's name; empty for a stack, which is named elsewhere.
    #[must_use]
    pub fn name(&self) -> &str {
        self.local.as_ref().map(|local| local.name.as_str()).unwrap_or_default()
    }

    /// Services of the files that are left out since no chosen profile has them.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.local.as_ref().map_or_else(|| Path::new("/"), |local| local.folder.as_path())
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
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

    /// The profiles asked for, and those of services that are wanted by name.
    pub(crate) fn profiles_with(&self, asked: &[String], enabled: &[String]) -> Vec<String> {
        let named = self.section("services").filter(|(name, _)| enabled.contains(name));
        let theirs = named.flat_map(|(_, service)| service.get("profiles").map_or(&[][..], Node::items));
        asked.iter().cloned().chain(theirs.filter_map(Node::as_text)).collect()
    }

    /// All profiles that services name, once each.
    #[must_use]
    pub fn profiles(&self) -> BTreeSet<String> {
        let all = self.section("services").flat_map(|(_, node)| node.get("profiles").map_or(&[][..], Node::items));
        all.filter_map(Node::as_text).collect()
    }

    /// Leaves out services whose profiles are not asked for.
    pub(crate) fn choose_profiles(&mut self, asked: &[String]) {
        let wanted = |node: &Node| {
            let profiles = node.get("profiles").map_or(&[][..], Node::items);
            let named = |profile: &Node| profile.as_text().is_some_and(|name| asked.contains(&name));
            profiles.is_empty() || asked.iter().any(|name| name == "*") || profiles.iter().any(named)
        };
        let mut left_out = BTreeSet::new();
        if let Some(services) = self.services_mut() {
            left_out.extend(services.iter().filter(|(_, entry)| !wanted(&entry.node)).map(|(name, _)| name.clone()));
            services.retain(|_, entry| wanted(&entry.node));
        }
        self.left_out = left_out;
    }

    /// Reads each service's `label_file`; labels of the file itself win.
    pub(crate) fn fill_labels(&mut self, files: &dyn Files) -> Result<()> {
        for entry in self.services_mut().into_iter().flat_map(BTreeMap::values_mut) {
            let service = &mut entry.node;
            let mut labels = Map::new();
            for file in service.get("label_file").map_or(&[][..], Node::items) {
                let path = file.as_text().unwrap_or_default();
                let text = read_text(files, Path::new(&path), ENV_FILE_BYTES_MAX)?;
                let found = dotenv::literal(&text)
                    .map_err(|(line, message)| Error::Whole(format!("{path}:{line}: {message}")))?;
                for (name, value) in found {
                    let node = Node::text(&file.at, value.unwrap_or_default());
                    labels.insert(name, Entry { key_at: file.at.clone(), node });
                }
            }
            let at = service.at.clone();
            let Some(map) = service.map_mut().filter(|_| !labels.is_empty()) else { continue };
            if let Some(Value::Map(own)) = map.remove("labels").map(|entry| entry.node.value) {
                labels.extend(own);
            }
            map.remove("label_file");
            map.insert("labels".into(), Entry { key_at: at.clone(), node: Node::new(&at, Value::Map(labels)) });
        }
        Ok(())
    }

    /// Reads each service's `env_file` and gives bare names their values from outside.
    pub(crate) fn fill_environment(&mut self, files: &dyn Files) -> Result<()> {
        let outside = self.environment.clone();
        let local = self.local.is_some();
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
                let found = if local && file.text_of("format") != "raw" {
                    let known =
                        |(name, (_, value)): (&String, &(Place, Option<String>))| Some((name.clone(), value.clone()?));
                    let mut known: BTreeMap<String, String> = all.iter().filter_map(known).collect();
                    known.extend(outside.clone());
                    let found = dotenv::variables(&text, &known);
                    found.map(|found| found.into_iter().map(|(name, value)| (name, Some(value))).collect())
                } else {
                    dotenv::literal(&text)
                };
                let found = found.map_err(|(line, message)| Error::Whole(format!("{path}:{line}: {message}")))?;
                all.extend(found.into_iter().map(|(name, value)| (name, (file.at.clone(), value))));
            }
            if let Some(given) = service.get("environment") {
                all.extend(given.entries().map(|(name, node)| (name.clone(), (node.at.clone(), node.as_text()))));
            }
            let fill = |(name, (at, value)): (String, (Place, Option<String>))| {
                // The outside wins over an empty value too, as it does for `docker stack`.
                let empty = value.as_deref().is_none_or(|value| value.is_empty() && !local);
                let value = if empty { outside.get(&name).cloned().or(value) } else { value };
                let node = Node::new(&at, value.map_or(Value::Null, Value::Text));
                (name, Entry { key_at: at, node })
            };
            // A name without a value anywhere is no variable on one machine.
            let filled: Map = all.into_iter().map(fill).filter(|(_, entry)| !local || !entry.node.is_null()).collect();
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
            let built = self.local.is_some() && service.get("build").is_some();
            if service.text_of("image").is_empty() && !built {
                let message = match self.local {
                    Some(_) => format!("service \"{name}\" has neither an image nor a build context specified"),
                    None => format!("invalid image reference for service {name}: no image specified"),
                };
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
        let Some(node) = self.object("services", name) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for (service, node) in node.get("depends_on").into_iter().flat_map(Node::entries) {
            let condition = match node.text_of("condition").as_str() {
                "service_started" => Condition::Started,
                "service_healthy" => Condition::Healthy,
                "service_completed_successfully" => Condition::Completed,
                other => return Err(node.wrong(&format!("depends_on condition \"{other}\" is not known"))),
            };
            let required = node.get("required").map_or(Ok(true), Node::as_bool)?;
            match self.object("services", service) {
                Some(_) => {
                    let restart = node.flag("restart")?;
                    all.push(Dependency { service: service.clone(), condition, restart, required });
                }
                None if required => {
                    let message = format!("service \"{name}\" depends on undefined service \"{service}\"");
                    return Err(node.wrong(&message));
                }
                None => {}
            }
        }
        let others = if self.local.is_some() { sharing(node) } else { Vec::new() };
        for service in others {
            if self.object("services", &service).is_none() {
                let message = format!("service \"{name}\" depends on undefined service \"{service}\"");
                return Err(node.wrong(&message));
            }
            if !all.iter().any(|known| known.service == service) {
                all.push(Dependency { service, condition: Condition::Started, restart: false, required: true });
            }
        }
        Ok(all)
    }

    fn services_mut(&mut self) -> Option<&mut Map> {
        self.root.map_mut()?.get_mut("services")?.node.map_mut()
    }
}

/// Services whose namespaces, volumes or names a service uses, which must be there before it.
fn sharing(service: &Node) -> Vec<String> {
    let spaces = ["network_mode", "ipc", "pid"].into_iter().filter_map(|key| {
        let text = service.text_of(key);
        text.strip_prefix("service:").map(str::to_owned)
    });
    let first = |text: String| text.split(':').next().unwrap_or_default().to_owned();
    let words = |key: &str| service.get(key).map_or(&[][..], Node::items).iter().filter_map(Node::as_text);
    let volumes = words("volumes_from").filter(|text| !text.starts_with("container:")).map(first);
    spaces.chain(volumes).chain(words("links").map(first)).collect()
}
