//! The classic builder: a Dockerfile and a context become an image.
//!
//! [`parse`], [`expand`], [`ignore`], [`pattern`], [`args`] and [`stages`] decide and are
//! pure; [`context`], [`fetch`], [`copy`] and [`space`] touch files; [`cache`] remembers; [`execute`]
//! goes through the steps. Everything temporary is one directory of the image store,
//! removed at the end; RUN's containers are removed by the step that made them.

mod args;
mod cache;
mod context;
mod copy;
mod error;
mod execute;
mod expand;
mod fetch;
mod ignore;
mod output;
mod parse;
mod pattern;
mod space;
mod stages;

use crate::Engine;
use crate::image::{RegistryAuth, Temporary};
use crate::progress::ProgressSender;
use error::{BuildError, BuildResult};
pub(crate) use execute::run::remove_leftovers;
use output::Output;
use skep_model::image::Reference;
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use tokio::io::AsyncRead;

/// Options of `POST /build`.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Path of the Dockerfile inside the context; empty is `Dockerfile`.
    pub dockerfile: String,
    pub tags: Vec<String>,
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: String,
    pub no_cache: bool,
    pub pull: bool,
    pub quiet: bool,
    pub network_mode: String,
    pub extra_hosts: Vec<String>,
    pub platform: String,
    /// Registry host to its credentials.
    pub auth: BTreeMap<String, RegistryAuth>,
    pub memory_bytes: i64,
    pub cpu_shares: i64,
    pub shm_size: u64,
}

const DEFAULT_DOCKERFILE: &str = "Dockerfile";

/// Builds; progress carries Docker's step lines. Returns the image id.
///
/// Dropping the receiver of the progress cancels the build: it then cleans up and ends.
///
/// # Errors
/// `InvalidArgument` for a bad Dockerfile, context or tag, `NotImplemented` for what this
/// builder cannot do, else what went wrong in the step; tags are untouched then.
pub async fn build(
    engine: &Engine,
    context: impl AsyncRead + Send + Unpin + 'static,
    options: BuildOptions,
    progress: ProgressSender,
) -> Result<String> {
    let engine = engine.clone();
    // A task of its own: a caller that goes away must not leave a container behind.
    let task = tokio::spawn(async move {
        let mut output = Output::new(progress, options.quiet);
        let result = build_in_temporary(engine, context, options, &mut output).await;
        if result.is_err() {
            output.reveal().await;
        }
        result
    });
    task.await.map_err(|error| Error::internal(format!("the build broke off: {error}")))?.map_err(Error::from)
}

async fn build_in_temporary(
    engine: Engine,
    stream: impl AsyncRead + Send + Unpin + 'static,
    options: BuildOptions,
    output: &mut Output,
) -> BuildResult<String> {
    let tags = options.tags.iter().map(|tag| tag_name(tag)).collect::<BuildResult<Vec<_>>>()?;
    let temporary = engine.images().temporary();
    let result = receive_and_run(engine, stream, options, &tags, &temporary, output).await;
    // Many files to unlink: not on a thread that serves others.
    let removed = tokio::task::spawn_blocking(move || drop(temporary)).await;
    if let Err(error) = removed {
        tracing::warn!(%error, "the build's temporary directory may remain until the next start");
    }
    result
}

async fn receive_and_run(
    engine: Engine,
    stream: impl AsyncRead + Send + Unpin + 'static,
    options: BuildOptions,
    tags: &[Reference],
    temporary: &Temporary,
    output: &mut Output,
) -> BuildResult<String> {
    let directory = temporary.path();
    let context_directory = directory.join("context");
    // Set-user-id files of a context must be out of reach for everybody else.
    std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(BuildError::io("create a build directory"))?;
    std::fs::create_dir(&context_directory).map_err(BuildError::io("create the context's directory"))?;
    let context = context::receive(stream, &context_directory).await?;
    let (dockerfile, context) = tokio::task::spawn_blocking({
        let name =
            if options.dockerfile.is_empty() { DEFAULT_DOCKERFILE.to_owned() } else { options.dockerfile.clone() };
        move || {
            let text = context::read_dockerfile(&context, &name)?;
            let dockerfile = parse::parse(&text, &name)?;
            context::apply_ignore(&context, &name)?;
            BuildResult::Ok((dockerfile, context))
        }
    })
    .await
    .map_err(|error| BuildError::io("read the Dockerfile")(std::io::Error::other(error)))??;
    execute::Builder::new(engine, options, dockerfile, context, directory, output).run(tags).await
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
