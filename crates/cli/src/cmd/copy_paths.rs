//! Where a copy lands. Pure; the rules are cp's.

use std::path::Path;

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Nothing,
    File,
    Folder,
}

/// Where the archive is unpacked, and the name its topmost entry gets there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Landing {
    pub(super) folder: String,
    pub(super) rename: Option<String>,
}

/// Why a copy has no place to go.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Misfit {
    #[error("cannot copy directory")]
    FolderOverFile,
    #[error("no such directory")]
    NoSuchFolder,
}

impl From<Misfit> for crate::Failure {
    fn from(misfit: Misfit) -> Self {
        Self::Other(misfit.into())
    }
}

/// `CONTAINER:PATH`, or a path of this machine: absolute, relative, or `-`.
pub(super) fn split(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        // A container's name has no slash and begins no relative path.
        Some((name, path)) if !text.starts_with(['/', '.']) && !name.is_empty() => {
            (Some(name), if path.is_empty() { "/" } else { path })
        }
        _ => (None, text),
    }
}

/// # Errors
/// A folder cannot replace a file; a file cannot become a folder that is not there.
pub(super) fn land(source: &str, is_folder: bool, target: &str, there: Target) -> Result<Landing, Misfit> {
    // `folder/.` means what is in the folder, not the folder itself.
    let content_only = source == "." || source.ends_with("/.");
    let parent = |path: &str| {
        let trimmed = path.trim_end_matches('/');
        let parent = Path::new(trimmed).parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or_else(
            || if path.starts_with('/') { "/".to_owned() } else { ".".to_owned() },
            |p| p.to_string_lossy().into_owned(),
        )
    };
    let name =
        |path: &str| Path::new(path.trim_end_matches('/')).file_name().map(|name| name.to_string_lossy().into_owned());
    match (there, is_folder) {
        (Target::Folder, true) if content_only => {
            Ok(Landing { folder: target.to_owned(), rename: Some(".".to_owned()) })
        }
        (Target::Folder, _) => Ok(Landing { folder: target.to_owned(), rename: None }),
        (Target::File, true) => Err(Misfit::FolderOverFile),
        (Target::File, false) => Ok(Landing { folder: parent(target), rename: name(target) }),
        (Target::Nothing, false) if target.ends_with('/') => Err(Misfit::NoSuchFolder),
        (Target::Nothing, _) => Ok(Landing { folder: parent(target), rename: name(target) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_paths_are_told_apart() {
        assert_eq!(split("box:/etc"), (Some("box"), "/etc"));
        assert_eq!(split("box:"), (Some("box"), "/"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("-"), (None, "-"));
    }

    #[test]
    fn cps_rules() {
        let check = |source: &str,
                     is_folder: bool,
                     target: &str,
                     there: Target,
                     expect: Result<(&str, Option<&str>), Misfit>| {
            let expect =
                expect.map(|(folder, rename)| Landing { folder: folder.into(), rename: rename.map(Into::into) });
            assert_eq!(land(source, is_folder, target, there), expect, "{source} to {target}");
        };
        check("/a/f", false, "/t", Target::Folder, Ok(("/t", None)));
        check("/a/f", false, "/t/g", Target::File, Ok(("/t", Some("g"))));
        check("/a/f", false, "g", Target::Nothing, Ok((".", Some("g"))));
        check("/a/f", false, "/g", Target::Nothing, Ok(("/", Some("g"))));
        check("/a/f", false, "/t/none/", Target::Nothing, Err(Misfit::NoSuchFolder));
        check("/a", true, "/t", Target::Folder, Ok(("/t", None)));
        check("/a/.", true, "/t", Target::Folder, Ok(("/t", Some("."))));
        check("/a", true, "/t/b", Target::Nothing, Ok(("/t", Some("b"))));
        check("/a/.", true, "/t/b", Target::Nothing, Ok(("/t", Some("b"))));
        check("/a", true, "/t/b", Target::File, Err(Misfit::FolderOverFile));
    }
}
