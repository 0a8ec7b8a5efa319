//! Reads the compose files that were named, in the surroundings of this process.

use crate::flags::stack::Files as Flags;
use anyhow::{Context, Result, anyhow};
use skep_compose::{FILE_BYTES_MAX, Files, Input, Project, Request};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The machine's own files.
pub(crate) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Loads and says, on standard error, what will not be honoured.
///
/// # Errors
/// What is wrong with the files.
pub(super) fn load(flags: &Flags, interpolate: bool) -> Result<Project> {
    let mut inputs = Vec::new();
    for name in &flags.compose_file {
        let text = if name == "-" { Some(standard_input()?) } else { None };
        inputs.push(Input { path: name.into(), text });
    }
    let here = std::env::current_dir().context("the working directory is gone")?;
    let folder = match flags.compose_file.first().map(String::as_str) {
        None | Some("-") => here,
        Some(first) => here.join(first).parent().map_or_else(|| here.clone(), Path::to_path_buf),
    };
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut profiles = flags.profile.clone();
    let listed = environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    profiles.extend(listed.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    let request = Request { inputs, folder: normal(&folder), environment, profiles, interpolate, local: None };
    let project = skep_compose::load(&request, &Disk)?;
    warn(&project);
    Ok(project)
}

fn warn(project: &Project) {
    let ignored: Vec<&str> = project.ignored().collect();
    if !ignored.is_empty() {
        eprintln!("Ignoring unsupported options: {}\n", ignored.join(", "));
    }
    for name in project.unset() {
        eprintln!("The \"{name}\" variable is not set. Defaulting to a blank string.");
    }
}

pub(crate) fn standard_input() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).context("standard input")?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(anyhow!("-: the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("-: not a text in UTF-8"))
}

/// The folder as the kernel sees it, so that the same stack always gets the same paths.
fn normal(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf())
}
