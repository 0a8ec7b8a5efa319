//! The order in which services start: each after what it depends on.

use crate::error::{Error, Result};
use crate::project::Project;
use std::collections::{BTreeMap, BTreeSet};

/// # Errors
/// Services that wait for each other in a circle, all of them named.
pub(crate) fn check(project: &Project) -> Result<()> {
    names(project).map(drop)
}

/// The services' keys, dependencies first, otherwise by name.
///
/// # Errors
/// A circle.
pub(crate) fn names(project: &Project) -> Result<Vec<String>> {
    let mut waiting: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, _) in project.section("services") {
        let needs = project.dependencies(name)?.into_iter().map(|dependency| dependency.service).collect();
        waiting.insert(name.clone(), needs);
    }
    sort(waiting)
}

fn sort(mut waiting: BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>> {
    let mut wanted_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, needs) in &waiting {
        for need in needs {
            wanted_by.entry(need.clone()).or_default().push(name.clone());
        }
    }
    let mut ready: BTreeSet<String> =
        waiting.iter().filter(|(_, needs)| needs.is_empty()).map(|(name, _)| name.clone()).collect();
    let mut sorted = Vec::new();
    while let Some(name) = ready.pop_first() {
        waiting.remove(&name);
        for dependent in wanted_by.remove(&name).unwrap_or_default() {
            if let Some(needs) = waiting.get_mut(&dependent) {
                needs.remove(&name);
                if needs.is_empty() {
                    ready.insert(dependent);
                }
            }
        }
        sorted.push(name);
    }
    if waiting.is_empty() { Ok(sorted) } else { Err(circle(&waiting)) }
}

/// Every service left waits for another one left, so following them comes around.
fn circle(waiting: &BTreeMap<String, BTreeSet<String>>) -> Error {
    let mut chain: Vec<String> = Vec::new();
    let mut next = waiting.keys().next().cloned();
    while let Some(name) = next {
        if let Some(begin) = chain.iter().position(|known| *known == name) {
            chain.drain(..begin);
            chain.push(name);
            break;
        }
        next = waiting.get(&name).and_then(|needs| needs.iter().find(|need| waiting.contains_key(*need))).cloned();
        chain.push(name);
    }
    Error::Loop { what: "depends_on", chain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(edges: &[(&str, &[&str])]) -> std::result::Result<Vec<String>, String> {
        let set = |needs: &[&str]| needs.iter().map(|need| (*need).to_owned()).collect();
        sort(edges.iter().map(|(name, needs)| ((*name).to_owned(), set(needs))).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn dependencies_come_first_then_names_count() {
        assert_eq!(run(&[("a", &["z"]), ("b", &[]), ("z", &[])]).unwrap(), ["b", "z", "a"]);
        assert_eq!(run(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]).unwrap(), ["c", "b", "a"]);
    }

    #[test]
    fn circles_are_named() {
        let said = run(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]).unwrap_err();
        assert_eq!(said, "depends_on goes in a circle: b -> c -> b");
    }
}
