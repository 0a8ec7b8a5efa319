//! `ADD` of a git repository, fetched by the machine's own `git` program.

use super::copy::SourceTree;
use super::error::{BuildError, BuildResult};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Longest a fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(600);
/// Bytes of git's own words that are shown when it fails.
const ERROR_BYTES_MAX: usize = 2000;
/// Fewest hexadecimal digits that can be a commit's name.
const COMMIT_LENGTH_MIN: usize = 7;

/// `https://host/x.git#branch:directory`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    remote: String,
    /// Branch, tag or commit; empty is the remote's own choice.
    reference: String,
    /// Directory of the repository; empty is all of it.
    directory: String,
}

impl Repository {
    /// `None` for what is no repository's address.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        let (remote, fragment) = source.split_once('#').unwrap_or((source, ""));
        let is_http = remote.starts_with("http://") || remote.starts_with("https://");
        let is_scp = remote.starts_with("git@") && remote.contains(':');
        let is_other = remote.starts_with("git://") || remote.starts_with("ssh://") || is_scp;
        if !(is_other || is_http && remote.trim_end_matches('/').ends_with(".git")) {
            return None;
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let own = |text: &str| text.to_owned();
        Some(Self { remote: own(remote), reference: own(reference), directory: own(directory) })
    }
}

/// Fetches into `directory`, which is made. `checksum` is the commit that must come of it.
///
/// # Errors
/// There is no `git` on this machine, or it failed.
pub(crate) async fn clone(
    repository: &Repository,
    directory: &Path,
    keep_git_dir: bool,
    checksum: Option<&str>,
) -> BuildResult<SourceTree> {
    let Repository { remote, reference, directory: wanted } = repository;
    std::fs::create_dir(directory).map_err(BuildError::io("create a directory for ADD"))?;
    git(directory, &["init", "--quiet", "."]).await?;
    let reference = if reference.is_empty() { "HEAD" } else { reference };
    // What begins with a dash would be an option.
    if reference.starts_with('-') || remote.starts_with('-') {
        return Err(failed(remote, "invalid reference"));
    }
    git(directory, &["remote", "add", "origin", remote]).await?;
    let shallow = git(directory, &["fetch", "--quiet", "--depth=1", "origin", reference]).await;
    if let Err(error) = shallow {
        // Not every server gives a commit by its name: then all is fetched.
        let is_commit = reference.len() >= COMMIT_LENGTH_MIN && reference.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit {
            return Err(error);
        }
        git(directory, &["fetch", "--quiet", "--tags", "origin"]).await?;
        git(directory, &["checkout", "--quiet", "--detach", reference]).await?;
    } else {
        git(directory, &["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await?;
    }
    let commit = git(directory, &["rev-parse", "HEAD"]).await?;
    if let Some(expected) = checksum
        && !(expected.len() >= COMMIT_LENGTH_MIN && commit.trim().starts_with(expected))
    {
        return Err(failed(remote, &format!("expected checksum to match {expected}, got {}", commit.trim())));
    }
    git(directory, &["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]).await?;
    let (directory, wanted, remote) = (directory.to_owned(), wanted.clone(), remote.clone());
    let finish = move || finish(&directory, &wanted, keep_git_dir, &remote);
    tokio::task::spawn_blocking(finish)
        .await
        .map_err(|error| BuildError::io("keep a repository")(std::io::Error::other(error)))?
}

fn finish(directory: &Path, wanted: &str, keep_git_dir: bool, remote: &str) -> BuildResult<SourceTree> {
    if !keep_git_dir {
        for found in walkdir::WalkDir::new(directory).into_iter().flatten().filter(|entry| entry.file_name() == ".git")
        {
            let path = found.path();
            let removed =
                if found.file_type().is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(BuildError::io("take .git out of a repository")(error));
                }
                _ => {}
            }
        }
    }
    let tree = SourceTree::open(directory, false)?;
    if wanted.trim_matches('/').is_empty() {
        return Ok(tree);
    }
    match tree.resolve(Path::new(wanted.trim_start_matches('/')))? {
        Some(inside) if directory.join(&inside).is_dir() => SourceTree::open(&directory.join(inside), false),
        _ => Err(failed(remote, &format!("no directory {wanted} in the repository"))),
    }
}

/// Runs git without the machine's own settings, and without questions.
async fn git(directory: &Path, arguments: &[&str]) -> BuildResult<String> {
    let mut command = Command::new("git");
    command
        .args(arguments)
        .current_dir(directory)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        // Neither files of this machine nor programs of the address's choice.
        .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let text = || arguments.join(" ");
    let output = match tokio::time::timeout(FETCH_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = "ADD failed: a git repository needs the program git on this machine, which is not there: \
                           install the package git";
            return Err(BuildError::Instruction(message.to_owned()));
        }
        Ok(Err(error)) => return Err(BuildError::io(format!("run git {}", text()))(error)),
        Err(_) => return Err(failed(&text(), "git took too long")),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    words.truncate(words.floor_char_boundary(ERROR_BYTES_MAX));
    Err(failed(&format!("git {}", text()), &words))
}

fn failed(what: &str, why: &str) -> BuildError {
    BuildError::Instruction(format!("ADD failed: {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: Option<(&str, &str, &str)>) {
        let expect = expect.map(|(remote, reference, directory)| Repository {
            remote: remote.into(),
            reference: reference.into(),
            directory: directory.into(),
        });
        assert_eq!(Repository::parse(source), expect, "{source}");
    }

    #[test]
    fn addresses_of_repositories_are_told_from_files() {
        check("https://a/b.git", Some(("https://a/b.git", "", "")));
        check("https://a/b.git#v1:sub", Some(("https://a/b.git", "v1", "sub")));
        check("git@a:b/c.git#main", Some(("git@a:b/c.git", "main", "")));
        check("git://a/b", Some(("git://a/b", "", "")));
        check("ssh://git@a/b", Some(("ssh://git@a/b", "", "")));
        check("https://a/b.tar.gz", None);
        check("http://a/b#c", None);
        check("file", None);
    }

    #[tokio::test]
    async fn files_of_this_machine_are_no_repositories() {
        let dir = tempfile::tempdir().unwrap();
        let repository =
            Repository { remote: "ext::sh -c true".into(), reference: String::new(), directory: String::new() };
        let error = clone(&repository, &dir.path().join("x"), false, None).await.unwrap_err();
        assert!(error.to_string().contains("not allowed") || error.to_string().contains("not there"), "{error}");
    }
}
