//! `COPY`, `ADD` and the directory of `WORKDIR`: from a source tree into an image's tree.
//!
//! [`source`] finds and hashes what is to be copied, [`target`] writes it, [`owner`]
//! turns names into numbers. The hash decides about the cache before anything is written.

mod owner;
mod source;
mod target;

pub(crate) use source::SourceTree;

use super::error::{BuildError, BuildResult};
use super::space::Space;
use source::Item;
use std::path::{Path, PathBuf};

/// Directories of one build step: `upper` becomes the layer.
#[derive(Debug, Clone)]
pub(crate) struct StepDirs {
    pub(crate) upper: PathBuf,
    work: PathBuf,
    tree: PathBuf,
    from: PathBuf,
    inline: PathBuf,
}

impl StepDirs {
    /// Makes them below `parent`.
    pub(crate) fn create(parent: &Path) -> BuildResult<Self> {
        let dirs = Self {
            upper: parent.join("upper"),
            work: parent.join("work"),
            tree: parent.join("tree"),
            from: parent.join("from"),
            inline: parent.join("inline"),
        };
        for dir in [&dirs.upper, &dirs.work, &dirs.tree, &dirs.from, &dirs.inline] {
            std::fs::create_dir(dir).map_err(BuildError::io(format!("create {}", dir.display())))?;
        }
        Ok(dirs)
    }
}

/// Where sources come from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The build context.
    Context(SourceTree),
    /// Layers of an image or an earlier stage, topmost first.
    Image(Vec<PathBuf>),
}

/// One source, expanded.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// A path or pattern below the origin.
    Path(String),
    /// A file given in the Dockerfile itself.
    Inline { name: String, content: String },
    /// A file in a tree of its own, to be called `name`.
    Other { tree: SourceTree, path: PathBuf, name: String },
    /// The content of a tree of its own.
    Tree { tree: SourceTree },
}

/// A whole `COPY` or `ADD`, ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `COPY` or `ADD`, for messages.
    pub(crate) keyword: &'static str,
    pub(crate) origin: Origin,
    pub(crate) wanted: Vec<Wanted>,
    /// Absolute; a trailing slash means a directory.
    pub(crate) destination: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<u32>,
    /// Whether archives are unpacked; `None` is the keyword's habit: ADD unpacks the context's.
    pub(crate) unpack: Option<bool>,
    /// Patterns of what is left out, below each source.
    pub(crate) excludes: Vec<String>,
    /// Layers of the image copied into, topmost first.
    pub(crate) layers: Vec<PathBuf>,
}

/// How it went.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// The cache knew the digest.
    Known(T),
    /// The layer is in the upper directory; the source's digest (`file:…`, `dir:…`, `multi:…`).
    Copied { digest: String },
}

/// Hashes the sources, asks `known` about the digest, and copies if it does not know.
pub(crate) fn run<T>(
    space: &mut Space,
    request: &Request,
    make_dirs: impl FnOnce() -> BuildResult<StepDirs>,
    known: impl FnOnce(&str) -> Option<T>,
) -> BuildResult<Outcome<T>> {
    let failed = |error: BuildError| match error {
        BuildError::Instruction(message) => BuildError::Instruction(format!("{} failed: {message}", request.keyword)),
        other => other,
    };
    // The context is hashed in place; only what needs a mount or a layer needs directories.
    match &request.origin {
        Origin::Context(tree) => {
            let items = source::find(tree, request).map_err(failed)?;
            finish(space, request, tree, items, make_dirs, known).map_err(failed)
        }
        Origin::Image(layers) => {
            let dirs = make_dirs()?;
            let path = space.mount_read_only(layers, &dirs.from)?;
            let tree = SourceTree::open(&path, false)?;
            let items = source::find(&tree, request).map_err(failed)?;
            finish(space, request, &tree, items, || Ok(dirs), known).map_err(failed)
        }
    }
}

fn finish<T>(
    space: &mut Space,
    request: &Request,
    tree: &SourceTree,
    items: Vec<Item>,
    make_dirs: impl FnOnce() -> BuildResult<StepDirs>,
    known: impl FnOnce(&str) -> Option<T>,
) -> BuildResult<Outcome<T>> {
    if items.len() > 1 && !request.destination.ends_with('/') {
        return Err(BuildError::Instruction(format!(
            "When using {} with more than one source file, the destination must be a directory and end with a /",
            request.keyword
        )));
    }
    let digest = source::digest(tree, &items)?;
    if let Some(known) = known(&digest) {
        return Ok(Outcome::Known(known));
    }
    let dirs = make_dirs()?;
    let root = space.mount_writable(&request.layers, &dirs.upper, &dirs.work, &dirs.tree)?;
    space.enter(&root)?;
    let owner = request.chown.as_deref().map_or(Ok(owner::ROOT), owner::resolve)?;
    target::write(tree, &items, request, owner)?;
    Ok(Outcome::Copied { digest })
}

/// The digest of what a path of a tree is, and where it really is. Blocking: reads it all.
pub(crate) fn digest_of(tree: &SourceTree, path: &str) -> BuildResult<(String, PathBuf)> {
    let item = source::one(tree, path)?;
    let real = tree.path().join(item.source());
    Ok((source::digest(tree, &[item])?, real))
}

/// Makes `path` a directory of the image. Nothing is in the upper directory if it was one.
pub(crate) fn make_directory(space: &mut Space, layers: &[PathBuf], dirs: &StepDirs, path: &str) -> BuildResult<()> {
    let root = space.mount_writable(layers, &dirs.upper, &dirs.work, &dirs.tree)?;
    space.enter(&root)?;
    target::make_directories(Path::new(path), owner::ROOT)
}

#[cfg(test)]
mod tests;
