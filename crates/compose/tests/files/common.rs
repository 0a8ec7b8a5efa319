//! A file system that exists only in a test.

use skep_compose::{Error, Files, Input, Project, Request, Stack, load};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.get(path).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))?;
        Ok(bytes.iter().take(limit + 1).copied().collect())
    }
}

/// Loads files of `/p`.
pub(crate) fn project(files: &[(&str, &str)], inputs: &[&str], environment: &[(&str, &str)]) -> Result<Project, Error> {
    let request = Request {
        inputs: inputs.iter().map(|path| Input { path: path.into(), text: None }).collect(),
        folder: "/p".into(),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        profiles: vec![],
        interpolate: true,
        local: None,
    };
    load(&request, &Memory::new(files))
}

/// One file as the stack `s`.
pub(crate) fn stack(text: &str) -> Stack {
    try_stack(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn try_stack(text: &str) -> Result<Stack, Error> {
    let files = [("/p/f.yml", text), ("/p/pass.txt", "abc123\n")];
    project(&files, &["/p/f.yml"], &[("HOME", "/home/u"), ("TOKEN", "t0ken")])?.to_stack("s", &Memory::new(&files))
}
