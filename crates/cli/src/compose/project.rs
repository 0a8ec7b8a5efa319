//! Which project is meant: its files found and loaded, or its name alone.

use crate::cmd::stack::files::{Disk, standard_input};
use crate::flags::compose::Files;
use anyhow::{Context, Result, anyhow};
use skep_compose::{Files as _, Input, Local, LocalRequest, Project, Request};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of a compose file, the first that is there counts.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Names of the file that is laid over it.
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// Bytes of a file of variables.
const VARIABLES_BYTES_MAX: usize = 1 << 20;

/// A project that a command works on.
pub(super) struct Loaded {
    pub(super) name: String,
    /// What its files say; `None` where only the name is known.
    pub(super) files: Option<FromFiles>,
}

pub(super) struct FromFiles {
    pub(super) project: Project,
    pub(super) local: Local,
    pub(super) folder: PathBuf,
    pub(super) paths: Vec<String>,
    pub(super) variables: Vec<String>,
}

/// How much must be known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Files,
    /// A name is enough, as for what is running already.
    Name,
}

/// Finds, reads and checks; says on standard error what will not be honoured.
///
/// # Errors
/// No file, or what is wrong with it.
pub(super) fn load(flags: &Files, enabled: &[String], interpolate: bool, need: Need) -> Result<Loaded> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let here = std::env::current_dir().context("the working directory is gone")?;
    let settings = settings(flags, &environment, &here);
    let (paths, found_in) = paths(flags, &settings, &here);
    let named = flags.project_name.clone().or_else(|| settings.get("COMPOSE_PROJECT_NAME").cloned());
    if paths.is_empty() {
        return match (named.filter(|name| !name.is_empty()), need) {
            (Some(name), Need::Name) => Ok(Loaded { name, files: None }),
            _ => Err(anyhow!("no configuration file provided: not found (compose.yaml here or above, or -f FILE)")),
        };
    }
    let folder = match &flags.project_directory {
        Some(folder) => here.join(folder),
        None => found_in,
    };
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let request = Request {
        inputs: paths
            .iter()
            .map(|path| {
                let text = if path == "-" { Some(standard_input()?) } else { None };
                Ok(Input { path: here.join(path), text })
            })
            .collect::<Result<_>>()?,
        folder: folder.clone(),
        profiles: profiles(flags, &settings),
        environment,
        interpolate,
        local: Some(LocalRequest {
            name: flags.project_name.clone(),
            variables: flags.env_file.iter().map(|path| here.join(path)).collect(),
            enabled: enabled.to_vec(),
        }),
    };
    let project = skep_compose::load(&request, &Disk)?;
    warn(&project);
    let local = project.to_local(&Disk)?;
    let absolute = |path: &String| {
        if path == "-" { path.clone() } else { here.join(path).to_string_lossy().into_owned() }
    };
    Ok(Loaded {
        name: project.name().to_owned(),
        files: Some(FromFiles {
            project,
            local,
            folder,
            paths: paths.iter().map(absolute).collect(),
            variables: flags.env_file.iter().map(absolute).collect(),
        }),
    })
}

/// The environment, and what files of variables say of the files to read. What is wrong with
/// them is said when they are read in full.
fn settings(flags: &Files, environment: &BTreeMap<String, String>, here: &Path) -> BTreeMap<String, String> {
    let mut all = environment.clone();
    let folder = flags.project_directory.as_ref().map_or_else(|| here.to_owned(), |folder| here.join(folder));
    let beside = [folder.join(".env")];
    let named: Vec<PathBuf> = flags.env_file.iter().map(|path| here.join(path)).collect();
    for path in if named.is_empty() { &beside[..] } else { &named[..] } {
        let text = Disk.read(path, VARIABLES_BYTES_MAX).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let found = text.and_then(|text| skep_compose::variables(&text, environment).ok()).unwrap_or_default();
        for (name, value) in found.into_iter().filter(|(name, _)| name.starts_with("COMPOSE_")) {
            all.entry(name).or_insert(value);
        }
    }
    all
}

/// The files, and the folder of the first.
fn paths(flags: &Files, environment: &BTreeMap<String, String>, here: &Path) -> (Vec<String>, PathBuf) {
    let mut given = flags.file.clone();
    if given.is_empty() {
        let separator = environment.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        let listed = environment.get("COMPOSE_FILE").map(String::as_str).unwrap_or_default();
        given.extend(listed.split(separator).filter(|path| !path.is_empty()).map(str::to_owned));
    }
    if let Some(first) = given.first() {
        let first = here.join(first);
        let folder = if given[0] == "-" { None } else { first.parent() };
        return (given.clone(), folder.unwrap_or(here).to_owned());
    }
    let begin = flags.project_directory.as_ref().map_or_else(|| here.to_owned(), |folder| here.join(folder));
    for folder in begin.ancestors() {
        let there = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        if let Some(file) = there(&NAMES) {
            let found = std::iter::once(file).chain(there(&OVERRIDES));
            return (found.map(|path| path.to_string_lossy().into_owned()).collect(), folder.to_owned());
        }
    }
    (Vec::new(), here.to_owned())
}

fn profiles(flags: &Files, environment: &BTreeMap<String, String>) -> Vec<String> {
    let listed = environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    let listed = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    flags.profile.iter().cloned().chain(listed).collect()
}

fn warn(project: &Project) {
    for key in project.ignored() {
        eprintln!("WARNING: {key} is not supported and will be ignored");
    }
    for name in project.unset() {
        eprintln!("WARNING: The \"{name}\" variable is not set. Defaulting to a blank string.");
    }
}
