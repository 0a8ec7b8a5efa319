//! A project as the API's objects: the same ones that `docker stack deploy` makes.

mod deploy;
mod files;
mod local;
mod mounts;
mod networks;
mod service;

use crate::error::Result;
use crate::load::Files;
use crate::order;
use crate::project::{Dependency, Project};
pub use local::{Build, Local, LocalNetwork, LocalService, LocalVolume, PlacedFile};
use serde_json::{Map, Value as Json};
use std::fmt;

/// Label that says to which stack an object belongs.
pub const NAMESPACE_LABEL: &str = "com.docker.stack.namespace";
/// Label of a service with its image as the file names it.
pub const IMAGE_LABEL: &str = "com.docker.stack.image";

/// Everything a stack consists of. Names are the objects' own, with the stack's in front.
#[derive(Debug)]
pub struct Stack {
    /// Networks to make where they are missing, with the body of `/networks/create`.
    pub networks: Vec<(String, Json)>,
    /// Networks that must be there.
    pub external_networks: Vec<String>,
    pub secrets: Vec<FileObject>,
    pub configs: Vec<FileObject>,
    /// Each after those it depends on.
    pub services: Vec<Service>,
}

/// A secret or config to create, with the body of `/secrets/create` or `/configs/create`.
pub struct FileObject {
    pub name: String,
    pub body: Json,
}

/// The body may hold a secret.
impl fmt::Debug for FileObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileObject").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A service to create or update.
#[derive(Debug)]
pub struct Service {
    /// Its key in the file.
    pub key: String,
    pub name: String,
    /// As the file names it.
    pub image: String,
    /// Body of `/services/create`. `SecretID` and `ConfigID` are still to be filled in by
    /// `SecretName` and `ConfigName`.
    pub spec: Json,
    pub depends_on: Vec<Dependency>,
    /// The file gives it a health check.
    pub has_health_check: bool,
}

impl Project {
    /// # Errors
    /// A value that makes no sense, an object that is named and not defined, a file that
    /// cannot be read.
    pub fn to_stack(&self, stack: &str, files: &dyn Files) -> Result<Stack> {
        let namespace = Namespace(stack);
        let mut services = Vec::new();
        for key in order::names(self)? {
            services.push(service::convert(self, &key, &namespace)?);
        }
        let (networks, external_networks) = networks::convert(self, &namespace)?;
        Ok(Stack {
            networks,
            external_networks,
            secrets: files::convert(self, files::Kind::Secret, &namespace, files)?,
            configs: files::convert(self, files::Kind::Config, &namespace, files)?,
            services,
        })
    }
}

/// The stack's name, put before the names of its objects.
struct Namespace<'a>(&'a str);

impl Namespace<'_> {
    fn scope(&self, name: &str) -> String {
        format!("{}_{name}", self.0)
    }

    /// The labels of a node, and the stack's.
    fn labels(&self, node: Option<&crate::tree::Node>) -> Map<String, Json> {
        let mut labels = texts(node);
        labels.insert(NAMESPACE_LABEL.into(), self.0.into());
        labels
    }
}

/// A mapping of scalars as a mapping of texts; null is the empty text.
fn texts(node: Option<&crate::tree::Node>) -> Map<String, Json> {
    let entries = node.into_iter().flat_map(crate::tree::Node::entries);
    entries.map(|(key, value)| (key.clone(), value.as_text().unwrap_or_default().into())).collect()
}

/// A list of scalars as texts.
fn list(node: Option<&crate::tree::Node>) -> Vec<String> {
    node.map_or(&[][..], crate::tree::Node::items).iter().filter_map(crate::tree::Node::as_text).collect()
}
