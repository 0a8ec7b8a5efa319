//! Compose files and `.env` files, up to the objects of a stack and of one machine.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_compose::{Files, Input, LocalRequest, Request, load};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A folder with two files.
struct Memory<'a> {
    compose: &'a str,
    dotenv: &'a str,
}

impl Files for Memory<'_> {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let text = match path.to_str() {
            Some("/p/f.yml") => self.compose,
            Some("/p/.env") => self.dotenv,
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(text.bytes().take(limit + 1).collect())
    }
}

fuzz_target!(|texts: (&str, &str)| {
    let (compose, dotenv) = texts;
    let files = Memory { compose, dotenv };
    let request = |local| Request {
        inputs: vec![Input { path: "/p/f.yml".into(), text: None }],
        folder: "/p".into(),
        environment: BTreeMap::from([("A".to_owned(), "a".repeat(1000))]),
        profiles: vec![],
        interpolate: true,
        local,
    };
    if let Ok(project) = load(&request(None), &files) {
        let _ = project.to_stack("s", &files);
        let _ = project.to_yaml();
    }
    if let Ok(project) = load(&request(Some(LocalRequest::default())), &files) {
        let _ = project.to_local(&files);
        let _ = project.to_local_yaml();
    }
});
