//! Rules of the tree that the compiler does not hold: which crate may use which, what
//! pure crates may not name, file sizes, licences, and that the docs list every crate.

use crate::sh::{cmd, output, root};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of non-test code a source file may have.
const FILE_LINES_MAX: usize = 500;

/// Who may use whom among our own crates; everything not listed is refused.
const ALLOWED: [(&str, &[&str]); 19] = [
    ("base2histogram", &[]),
    ("skep-model", &[]),
    ("skep-cluster", &["skep-model"]),
    ("skep-proto", &["skep-model"]),
    ("skep-identity", &["skep-model"]),
    ("skep-engine", &["skep-model"]),
    ("skep-shim", &["skep-model"]),
    ("skep-netd", &["skep-proto", "skep-model"]),
    ("skep-manager", &["skep-cluster", "skep-identity", "skep-proto", "skep-model"]),
    ("skep-agent", &["skep-engine", "skep-netd", "skep-identity", "skep-proto", "skep-model"]),
    ("skep-buildkit", &["skep-engine", "skep-model"]),
    ("skep-api", &["skep-buildkit", "skep-engine", "skep-manager", "skep-model"]),
    ("skep-compose", &[]),
    ("skep-cli", &["skep-compose", "skep-model"]),
    ("skep-sim", &["skep-cluster", "skep-model"]),
    ("skep-turmoil", &["skep-cluster", "skep-identity", "skep-manager", "skep-model", "skep-proto", "skep-sim"]),
    ("skep-lab", &[]),
    ("skep-conformance", &["skep-lab"]),
    ("xtask", &["skep-lab"]),
];

/// Words that pure crates must not contain, with the reason shown to whoever used one.
const BANNED_IN_PURE: [(&str, &str); 7] = [
    ("std::time::Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("thread_rng", "random bits are an argument"),
    ("rand::", "random bits are an argument"),
    ("tokio", "deciding does no IO"),
];

/// Left-over debugging and unfinished work.
const BANNED_EVERYWHERE: [&str; 3] = ["todo!(", "unimplemented!(", "dbg!("];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Runs every rule and lists all that is broken at once.
pub(crate) fn run() -> Result<()> {
    let json = output(&mut cmd("cargo", ["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    let ours: Vec<&Package> = metadata.packages.iter().filter(|p| metadata.workspace_members.contains(&p.id)).collect();

    let mut problems = Vec::new();
    problems.extend(crate_graph(&ours));
    problems.extend(licences(&metadata.packages, &ours)?);
    problems.extend(documented(&ours)?);
    for package in &ours {
        problems.extend(sources(package)?);
    }
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    bail!("{} broken rules", problems.len())
}

fn crate_graph(ours: &[&Package]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut problems = Vec::new();
    // `daemon` is the one crate that wires everything together.
    for package in ours.iter().filter(|p| p.name != "skep-daemon") {
        let Some(may_use) = allowed.get(package.name.as_str()) else {
            problems.push(format!("{}: not in the crate graph of xtask/src/tidy.rs", package.name));
            continue;
        };
        let uses = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        for dependency in uses.filter(|d| ours.iter().any(|p| p.name == d.name)) {
            if !may_use.contains(&dependency.name.as_str()) {
                problems.push(format!("{} must not use {}", package.name, dependency.name));
            }
        }
    }
    problems
}

#[derive(Deserialize)]
struct DenyFile {
    licenses: DenyLicenses,
}

#[derive(Deserialize)]
struct DenyLicenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<DenyException>,
    /// Packages that name a file instead of a licence, read by a person.
    #[serde(default)]
    clarify: Vec<DenyClarification>,
}

#[derive(Deserialize)]
struct DenyClarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct DenyException {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

/// The licences of deny.toml, checked here too since cargo-deny itself takes longer to build than skep.
fn licences(all: &[Package], ours: &[&Package]) -> Result<Vec<String>> {
    let deny: DenyFile = toml::from_str(&fs::read_to_string(root().join("deny.toml"))?).context("deny.toml")?;
    let mut problems = Vec::new();
    for package in all.iter().filter(|p| !ours.iter().any(|o| o.id == p.id)) {
        let extra = deny.licenses.exceptions.iter().filter(|e| e.name == package.name).flat_map(|e| &e.allow);
        let allowed: Vec<&String> = deny.licenses.allow.iter().chain(extra).collect();
        let clarified = deny.licenses.clarify.iter().find(|c| c.name == package.name).map(|c| c.expression.as_str());
        let text = package.license.as_deref().or(clarified).unwrap_or("none");
        let fits = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|requirement| {
                let name = requirement.license.to_string();
                allowed.iter().any(|allow| **allow == name)
            })
        });
        if !fits {
            problems.push(format!("{} {}: licence {text} is not allowed by deny.toml", package.name, package.version));
        }
    }
    Ok(problems)
}

fn documented(ours: &[&Package]) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let missing = |package: &&&Package| {
        let folder = package.manifest_path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        !folder.is_some_and(|folder| text.contains(&format!("{folder}/")) || text.contains(&format!("`{folder}`")))
    };
    let crates = ours.iter().filter(missing).map(|p| format!("ARCHITECTURE.md does not mention {}", p.name));
    let named = text.split('`').filter(|word| word.starts_with("crates/") && !word.contains(' '));
    let stale = named.filter(|path| !root().join(path).exists());
    Ok(crates.chain(stale.map(|path| format!("ARCHITECTURE.md names {path}, which does not exist"))).collect())
}

fn sources(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().context("a manifest has a folder")?;
    let pure = matches!(package.name.as_str(), "skep-model" | "skep-cluster" | "skep-compose");
    let mut problems = Vec::new();
    for path in rust_files(&folder.join("src"))? {
        let text = fs::read_to_string(&path)?;
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        problems.extend(source_problems(&shown, &text, pure, package.name == "xtask"));
    }
    Ok(problems)
}

fn source_problems(shown: &str, text: &str, pure: bool, is_tidy: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > FILE_LINES_MAX && !shown.ends_with("tests.rs") {
        problems.push(format!("{shown}: {lines} lines of code, at most {FILE_LINES_MAX}; split it by concern"));
    }
    for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let at = number + 1;
        if pure {
            let found = BANNED_IN_PURE.iter().filter(|(word, _)| line.contains(word));
            problems.extend(found.map(|(word, why)| format!("{shown}:{at}: {word}: {why}")));
        }
        if !is_tidy {
            let found = BANNED_EVERYWHERE.iter().filter(|word| line.contains(*word));
            problems.extend(found.map(|word| format!("{shown}:{at}: {word}...) must not stay")));
        }
    }
    problems
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pure_crates_may_not_name_a_clock() {
        let found = source_problems("x.rs", "fn f() { let t = std::time::SystemTime::now(); }", true, false);
        assert_eq!(found.len(), 1);
        assert!(source_problems("x.rs", "// SystemTime is banned", true, false).is_empty());
        assert!(source_problems("x.rs", "use std::time::SystemTime;", false, false).is_empty());
    }

    #[test]
    fn unfinished_work_and_long_files_are_found() {
        assert_eq!(source_problems("x.rs", "todo!()", false, false).len(), 1);
        assert_eq!(source_problems("x.rs", &"x\n".repeat(501), false, false).len(), 1);
    }
}
