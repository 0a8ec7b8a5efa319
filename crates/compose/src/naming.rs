//! How a project of one machine gets its name.

use crate::error::{Error, Result};
use crate::interpolate::substitute;
use crate::load::Input;
use crate::yaml;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The variable that names a project, and that files may use.
pub(crate) const VARIABLE: &str = "COMPOSE_PROJECT_NAME";

/// The user's word, else the environment's, else the last file's `name`, else the folder's name.
///
/// # Errors
/// A name that was given and has letters a name cannot have, or no name at all.
pub(crate) fn choose(
    given: Option<&str>,
    inputs: &[Input],
    texts: &[String],
    environment: &BTreeMap<String, String>,
    folder: &Path,
) -> Result<String> {
    let from_environment = || environment.get(VARIABLE).map(String::as_str);
    if let Some(name) = given.filter(|name| !name.is_empty()).or_else(from_environment).filter(|name| !name.is_empty())
    {
        return checked(name);
    }
    let mut named = String::new();
    for (input, text) in inputs.iter().zip(texts) {
        for document in yaml::parse(&input.path.to_string_lossy(), text)? {
            let written = document.text_of("name");
            if !written.is_empty() {
                named = substitute(&written, environment, &mut BTreeSet::new())
                    .map_err(|message| document.wrong(&message))?;
            }
        }
    }
    if !named.is_empty() {
        return checked(&named);
    }
    let name = normal(&folder.file_name().unwrap_or_default().to_string_lossy());
    if name.is_empty() {
        return Err(Error::Whole("project name must not be empty: name it with -p".into()));
    }
    Ok(name)
}

fn checked(name: &str) -> Result<String> {
    if normal(name) == name {
        return Ok(name.to_owned());
    }
    let rule = "must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number";
    Err(Error::Whole(format!("invalid project name \"{name}\": {rule}")))
}

fn normal(name: &str) -> String {
    let lower = name.to_lowercase();
    let kept = lower.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c));
    kept.collect::<String>().trim_start_matches(['_', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: Option<&str>, text: &str, environment: &[(&str, &str)], expect: std::result::Result<&str, &str>) {
        let inputs = [Input { path: "f.yml".into(), text: None }];
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let chosen = choose(given, &inputs, &[text.to_owned()], &environment, Path::new("/srv/-My App.2"));
        match (chosen, expect) {
            (Ok(name), Ok(expect)) => assert_eq!(name, expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (chosen, expect) => panic!("{chosen:?}, not {expect:?}"),
        }
    }

    #[test]
    fn the_nearest_word_names_the_project() {
        check(None, "services: {}", &[], Ok("myapp2"));
        check(None, "name: ${SITE:-shop}", &[], Ok("shop"));
        check(None, "name: shop", &[(VARIABLE, "env")], Ok("env"));
        check(Some("mine"), "name: shop", &[(VARIABLE, "env")], Ok("mine"));
        check(Some("Mine"), "", &[], Err("invalid project name \"Mine\""));
        check(None, "name: -x", &[], Err("invalid project name"));
    }
}
