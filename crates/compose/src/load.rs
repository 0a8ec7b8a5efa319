//! Several files, with what they include and extend, as one project.

use crate::canonical::{Base, below, rewrite};
use crate::dotenv;
use crate::error::{Error, Result};
use crate::interpolate::{self, Findings};
use crate::merge::{merge, settle};
use crate::naming;
use crate::project::Project;
use crate::schema::{self, Purpose};
use crate::tree::{Map, Node, Value};
use crate::yaml::{self, FILE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Files that one deployment may read by `include` and `extends`.
const FILES_MAX: usize = 256;
/// Bytes of a file of variables.
const VARIABLES_BYTES_MAX: usize = 1 << 20;

/// The one way to the outside: reading files.
pub trait Files {
    /// At most `limit` + 1 bytes of a file, so that the caller sees that it is larger.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
}

/// For callers that read none.
pub(crate) struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// One `-c`.
pub struct Input {
    /// Shown in errors; read from unless there is `text`.
    pub path: PathBuf,
    /// What standard input held.
    pub text: Option<String>,
}

/// What to load, and in which surroundings.
pub struct Request {
    pub inputs: Vec<Input>,
    /// Where relative paths begin: the absolute folder of the first file.
    pub folder: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub profiles: Vec<String>,
    /// `false` leaves `$V` as it is.
    pub interpolate: bool,
    /// For containers on this machine instead of a stack.
    pub local: Option<LocalRequest>,
}

/// What only a project of one machine has.
#[derive(Debug, Clone, Default)]
pub struct LocalRequest {
    /// The project's name, before what the environment, the files and the folder say.
    pub name: Option<String>,
    /// Files of variables in the place of `.env`.
    pub variables: Vec<PathBuf>,
    /// Services that are wanted whatever their profiles say.
    pub enabled: Vec<String>,
}

/// Reads, checks and merges.
///
/// # Errors
/// The first thing that is wrong, with its place where it has one.
pub fn load(request: &Request, files: &dyn Files) -> Result<Project> {
    let purpose = if request.local.is_some() { Purpose::Local } else { Purpose::Stack };
    let mut loader = Loader {
        files,
        purpose,
        interpolate: request.interpolate,
        home: request.environment.get("HOME").cloned(),
        findings: Findings::default(),
        ignored: BTreeSet::new(),
        opened: 0,
        ports: 0,
        copied: 0,
        documents: BTreeMap::new(),
    };
    let given = request.local.as_ref().map(|local| local.variables.as_slice()).unwrap_or_default();
    let beside = [request.folder.join(".env")];
    let variables = if given.is_empty() { &beside } else { given };
    let mut environment = loader.surroundings(&request.environment, variables, !given.is_empty())?;
    let mut texts = Vec::new();
    for input in &request.inputs {
        texts.push(match &input.text {
            Some(text) => text.clone(),
            None => loader.read(&input.path, FILE_BYTES_MAX)?,
        });
    }
    let mut name = String::new();
    if let Some(local) = &request.local {
        name = naming::choose(local.name.as_deref(), &request.inputs, &texts, &environment, &request.folder)?;
        environment.insert(naming::VARIABLE.into(), name.clone());
    }
    let mut root: Option<Node> = None;
    for (input, text) in request.inputs.iter().zip(&texts) {
        let scope = Scope { folder: &request.folder, environment: &environment };
        let node = loader.file(&input.path, text, &scope, &mut Vec::new())?;
        root = Some(match root {
            Some(base) => merge(base, node)?,
            None => node,
        });
    }
    let mut root = root.ok_or_else(|| Error::Whole("no compose file was given".into()))?;
    settle(&mut root);
    let mut project = Project::new(root, environment, loader.ignored, loader.findings.unset);
    if let Some(local) = &request.local {
        project.make_local(name, &request.folder);
        project.choose_profiles(&project.profiles_with(&request.profiles, &local.enabled));
        project.fill_labels(files)?;
    } else {
        project.choose_profiles(&request.profiles);
    }
    project.fill_environment(files)?;
    project.check()?;
    Ok(project)
}

struct Scope<'a> {
    folder: &'a Path,
    environment: &'a BTreeMap<String, String>,
}

pub(crate) struct Loader<'a> {
    files: &'a dyn Files,
    purpose: Purpose,
    interpolate: bool,
    home: Option<String>,
    findings: Findings,
    ignored: BTreeSet<String>,
    opened: usize,
    ports: usize,
    /// Values that `extends` copied.
    pub(crate) copied: usize,
    /// Files that `extends` named, in canonical form.
    documents: BTreeMap<PathBuf, Node>,
}

impl Loader<'_> {
    /// One file with all it includes and extends.
    fn file(&mut self, path: &Path, text: &str, scope: &Scope<'_>, chain: &mut Vec<String>) -> Result<Node> {
        let shown = path.to_string_lossy().into_owned();
        if chain.contains(&shown) {
            chain.push(shown);
            return Err(Error::Loop { what: "include", chain: chain.clone() });
        }
        chain.push(shown);
        let mut root = self.document(path, text, scope)?;
        crate::extends::resolve(&mut root, self, path, &mut |loader, file| loader.extended(file, scope.environment))?;
        let included = root.map_mut().and_then(|map| map.remove("include"));
        if let Some(list) = included {
            for item in list.node.items() {
                self.include(&mut root, item, scope, chain)?;
            }
        }
        chain.pop();
        Ok(root)
    }

    /// Parsed, substituted, checked and in canonical form.
    fn document(&mut self, path: &Path, text: &str, scope: &Scope<'_>) -> Result<Node> {
        let shown = path.to_string_lossy();
        let home = self.home.clone();
        let mut around = Base::new(scope.folder, home.as_deref(), self.purpose);
        around.ports = self.ports.into();
        let mut whole: Option<Node> = None;
        for mut node in yaml::parse(&shown, text)?.into_iter().filter(|node| !node.is_null()) {
            if self.interpolate {
                interpolate::apply(&mut node, scope.environment, &mut self.findings)?;
            }
            schema::check(&node, self.purpose, &mut self.ignored)?;
            rewrite(&mut node, &around)?;
            whole = Some(match whole {
                Some(base) => merge(base, node)?,
                None => node,
            });
        }
        self.ports = around.ports.get();
        whole.ok_or_else(|| Error::Whole(format!("{shown}: empty compose file")))
    }

    /// The services of another file, for `extends`.
    fn extended(&mut self, path: &Path, environment: &BTreeMap<String, String>) -> Result<Node> {
        if let Some(known) = self.documents.get(path) {
            return Ok(known.clone());
        }
        let text = self.read(path, FILE_BYTES_MAX)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        let node = self.document(path, &text, &Scope { folder, environment })?;
        self.documents.insert(path.to_owned(), node.clone());
        Ok(node)
    }

    /// Adds what an included project defines; what both define must be the same.
    fn include(&mut self, root: &mut Node, item: &Node, scope: &Scope<'_>, chain: &mut Vec<String>) -> Result<()> {
        let words = |key: &str| match item.get(key) {
            Some(node) if node.is_scalar() => vec![node.as_text().unwrap_or_default()],
            Some(node) => node.items().iter().filter_map(Node::as_text).collect(),
            None => Vec::new(),
        };
        let paths = if item.is_scalar() { vec![item.as_text().unwrap_or_default()] } else { words("path") };
        let home = self.home.clone();
        let base = Base::new(scope.folder, home.as_deref(), self.purpose);
        let absolute = |path: &String| PathBuf::from(below(&base, path));
        let paths: Vec<PathBuf> = paths.iter().map(absolute).collect();
        let Some(first) = paths.first().filter(|path| !path.as_os_str().is_empty()) else {
            return Err(item.wrong("include needs a path"));
        };
        let folder = match item.text_of("project_directory").as_str() {
            "" => first.parent().unwrap_or_else(|| Path::new("/")).to_owned(),
            given => below(&base, given).into(),
        };
        let named: Vec<PathBuf> = words("env_file").iter().map(absolute).collect();
        let required = !named.is_empty();
        let variables = if required { named } else { vec![folder.join(".env")] };
        let environment = self.surroundings(scope.environment, &variables, required)?;
        let scope = Scope { folder: &folder, environment: &environment };
        let mut whole: Option<Node> = None;
        for path in &paths {
            let text = self.read(path, FILE_BYTES_MAX)?;
            let node = self.file(path, &text, &scope, chain)?;
            whole = Some(match whole {
                Some(base) => merge(base, node)?,
                None => node,
            });
        }
        match whole {
            Some(mut included) => {
                settle(&mut included);
                import(root, included)
            }
            None => Ok(()),
        }
    }

    /// Variables from outside over those of files.
    fn surroundings(
        &mut self,
        outside: &BTreeMap<String, String>,
        paths: &[PathBuf],
        required: bool,
    ) -> Result<BTreeMap<String, String>> {
        let mut all = outside.clone();
        for path in paths {
            let text = match self.read(path, VARIABLES_BYTES_MAX) {
                Err(Error::Read { source, .. }) if !required && source.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let found = dotenv::variables(&text, &all)
                .map_err(|(line, message)| Error::Whole(format!("{}:{line}: {message}", path.display())))?;
            for (name, value) in found {
                all.entry(name).or_insert(value);
            }
        }
        Ok(all)
    }

    fn read(&mut self, path: &Path, limit: usize) -> Result<String> {
        self.opened += 1;
        if self.opened > FILES_MAX {
            return Err(Error::Whole(format!("{}: more than {FILES_MAX} files belong together", path.display())));
        }
        read_text(self.files, path, limit)
    }
}

/// A file that must be text.
///
/// # Errors
/// It cannot be read, is too large, or is not UTF-8.
pub(crate) fn read_text(files: &dyn Files, path: &Path, limit: usize) -> Result<String> {
    let bytes = read_bytes(files, path, limit)?;
    String::from_utf8(bytes).map_err(|_| Error::Whole(format!("{}: not a text in UTF-8", path.display())))
}

/// A whole file.
///
/// # Errors
/// It cannot be read or is too large.
pub(crate) fn read_bytes(files: &dyn Files, path: &Path, limit: usize) -> Result<Vec<u8>> {
    let shown = || path.display().to_string();
    let bytes = files.read(path, limit).map_err(|source| Error::Read { path: shown(), source })?;
    if bytes.len() > limit { Err(Error::TooLarge { path: shown(), limit }) } else { Ok(bytes) }
}

fn import(root: &mut Node, included: Node) -> Result<()> {
    let Value::Map(sections) = included.value else { return Ok(()) };
    let Some(map) = root.map_mut() else { return Ok(()) };
    for (section, entry) in sections {
        if section.starts_with("x-") || matches!(section.as_str(), "version" | "name") {
            continue;
        }
        let Some(ours) = map.get_mut(&section) else {
            map.insert(section, entry);
            continue;
        };
        if ours.node.is_null() {
            ours.node.value = Value::Map(Map::new());
        }
        let (Value::Map(theirs), Some(ours)) = (entry.node.value, ours.node.map_mut()) else { continue };
        for (name, object) in theirs {
            if let Some(present) = ours.get(&name).filter(|present| present.node != object.node) {
                let message = format!("{section}.{name} is defined otherwise in an included file ({})", object.key_at);
                return Err(Error::at(&present.key_at, message));
            }
            ours.entry(name).or_insert(object);
        }
    }
    Ok(())
}
