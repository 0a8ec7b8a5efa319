//! The builder: a Dockerfile and a context become an image.
//!
//! [`parse`], [`expand`], [`ignore`], [`pattern`], [`args`] and [`stages`] decide and are
//! pure; [`context`], [`fetch`], [`git`], [`copy`], [`layered`] and [`space`] touch files;
//! [`cache`] and [`cache_mounts`] remember; [`execute`] goes through the stages. Everything
//! temporary is one directory of the image store, removed at the end; RUN's containers are
//! removed by the step that made them.

mod args;
mod builds;
mod cache;
mod cache_mounts;
mod client;
mod context;
mod copy;
mod error;
mod event;
mod execute;
mod expand;
mod fetch;
mod forward;
mod git;
mod ignore;
mod layered;
mod output;
mod parse;
mod pattern;
mod space;
mod stages;

use crate::Engine;
use crate::image::Temporary;
use crate::progress::ProgressSender;
pub use builds::{Builds, PruneOptions, Pruned, prune};
pub use cache_mounts::CacheRecord;
pub use client::{AgentStream, BuildClient, Given, SECRET_BYTES_MAX};
use copy::SourceTree;
use error::{BuildError, BuildResult};
pub use event::BuildEvent;
pub(crate) use execute::run::remove_leftovers;
use output::Printer;
pub use output::Style;
use parse::Dockerfile;
use skep_model::image::Reference;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncRead;

/// What a build is made of.
pub struct BuildInput {
    /// A tar, possibly compressed.
    pub context: Box<dyn AsyncRead + Send + Unpin>,
    /// The Dockerfile's text if it is not in the context. The context is then taken as it
    /// is: its sender has left out what is to be ignored.
    pub dockerfile: Option<String>,
    pub client: Arc<dyn BuildClient>,
}

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Path of the Dockerfile inside the context; empty is `Dockerfile`.
    pub dockerfile: String,
    pub tags: Vec<String>,
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: String,
    pub no_cache: bool,
    /// Images whose steps may be taken instead of running them; pulled if need be.
    pub cache_from: Vec<String>,
    pub pull: bool,
    pub style: Style,
    pub network_mode: String,
    pub extra_hosts: Vec<String>,
    pub platform: String,
    pub memory_bytes: i64,
    pub cpu_shares: i64,
    pub shm_size: u64,
}

/// The rules of a `.dockerignore` as clean patterns in order, `!` before exceptions.
///
/// # Errors
/// Names the malformed pattern.
pub fn ignore_patterns(text: &str) -> Result<Vec<String>> {
    ignore::patterns(text).map_err(Error::invalid)
}

const DEFAULT_DOCKERFILE: &str = "Dockerfile";

/// Builds; progress carries Docker's step lines, or events. Returns the image id.
///
/// Dropping the receiver of the progress cancels the build: it then cleans up and ends.
///
/// # Errors
/// `InvalidArgument` for a bad Dockerfile, context or tag, `NotImplemented` for what this
/// builder cannot do, else what went wrong in the step; tags are untouched then.
pub async fn build(
    engine: &Engine,
    input: BuildInput,
    options: BuildOptions,
    progress: ProgressSender,
) -> Result<String> {
    let engine = engine.clone();
    // A task of its own: a caller that goes away must not leave a container behind.
    let task = tokio::spawn(async move {
        let mut printer = Printer::new(progress, options.style);
        let result = build_in_temporary(engine, input, options, &mut printer).await;
        if result.is_err() {
            printer.reveal().await;
        }
        result
    });
    task.await.map_err(|error| Error::internal(format!("the build broke off: {error}")))?.map_err(Error::from)
}

async fn build_in_temporary(
    engine: Engine,
    input: BuildInput,
    options: BuildOptions,
    printer: &mut Printer,
) -> BuildResult<String> {
    let tags = options.tags.iter().map(|tag| tag_name(tag)).collect::<BuildResult<Vec<_>>>()?;
    let temporary = engine.images().temporary();
    let result = receive_and_run(engine, input, options, &tags, &temporary, printer).await;
    // Many files to unlink: not on a thread that serves others.
    let removed = tokio::task::spawn_blocking(move || drop(temporary)).await;
    if let Err(error) = removed {
        tracing::warn!(%error, "the build's temporary directory may remain until the next start");
    }
    result
}

async fn receive_and_run(
    engine: Engine,
    input: BuildInput,
    options: BuildOptions,
    tags: &[Reference],
    temporary: &Temporary,
    printer: &mut Printer,
) -> BuildResult<String> {
    let directory = temporary.path();
    // Set-user-id files of a context must be out of reach for everybody else.
    std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(BuildError::io("create a build directory"))?;
    let (dockerfile, context) = receive(input.context, input.dockerfile, &options, directory).await?;
    execute::Build::new(engine, options, input.client, dockerfile, context, directory)?.run(tags, printer).await
}

async fn receive(
    stream: Box<dyn AsyncRead + Send + Unpin>,
    dockerfile: Option<String>,
    options: &BuildOptions,
    directory: &Path,
) -> BuildResult<(Dockerfile, SourceTree)> {
    let context_directory = directory.join("context");
    std::fs::create_dir(&context_directory).map_err(BuildError::io("create the context's directory"))?;
    let name = if options.dockerfile.is_empty() { DEFAULT_DOCKERFILE.to_owned() } else { options.dockerfile.clone() };
    if let Some(text) = dockerfile {
        // What cannot be built need not be sent.
        let dockerfile = parse::parse(&text, &name)?;
        return Ok((dockerfile, context::receive(stream, &context_directory).await?));
    }
    let context = context::receive(stream, &context_directory).await?;
    let read = move || {
        let text = context::read_dockerfile(&context, &name)?;
        let dockerfile = parse::parse(&text, &name)?;
        context::apply_ignore(&context, &name)?;
        BuildResult::Ok((dockerfile, context))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| BuildError::io("read the Dockerfile")(std::io::Error::other(error)))?
}

fn tag_name(tag: &str) -> BuildResult<Reference> {
    let reference = Reference::parse(tag)?;
    if reference.digest.is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference").into());
    }
    Ok(reference.with_default_tag())
}

/// All parsers of the builder, over one text.
#[cfg(fuzzing)]
pub(crate) fn fuzz(input: &str) {
    let _ = parse::parse(input, DEFAULT_DOCKERFILE);
    let (rules, path) = input.split_once('\0').unwrap_or((input, "a/b"));
    if let Ok(rules) = ignore::Ignore::parse(rules) {
        rules.excludes(path);
    }
    let lookup = |name: &str| (name.len() < 3).then(|| name.repeat(2));
    for escape in ['\\', '`'] {
        let _ = expand::word(input, escape, &lookup);
        let _ = expand::words(input, escape, &lookup);
        let _ = expand::text(input, escape, &lookup);
    }
}
