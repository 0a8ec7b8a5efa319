//! `COPY`, `ADD` and `WORKDIR`.

use super::cached::Candidate;
use super::stage::StageBuilder;
use super::{Change, State, container_id, describe, expand_error, remove_directory};
use crate::build::copy::{self, Origin, Outcome, Request, StepDirs, Wanted};
use crate::build::error::{BuildError, BuildResult};
use crate::build::parse::{self, CopySource, Transfer};
use crate::build::{cache, expand, fetch, git, ignore, space, stages};
use std::path::PathBuf;

/// Where `--from` leads, and its image for the cache.
pub(super) struct Source {
    pub(super) origin: Origin,
    /// Empty for the context.
    pub(super) image: String,
}

/// How the cache knows the result of a copy.
enum Known {
    Image(String),
    Candidate(Candidate),
}

impl StageBuilder<'_> {
    pub(super) async fn transfer_step(&mut self, state: &mut State, transfer: &Transfer) -> BuildResult<()> {
        let (wanted, destination) = self.wanted(state, transfer).await?;
        let chown = transfer.chown.as_deref().map(|owner| self.expand(state, owner)).transpose()?;
        let chmod = match &transfer.chmod {
            Some(text) => Some(parse::permissions(&self.expand(state, text)?).map_err(BuildError::Instruction)?),
            None => None,
        };
        let source = self.source(transfer.from.as_deref()).await?;
        let comment = Comment::new(transfer, chown.as_deref(), chmod, &destination);
        // From the very same image the very same paths give the same files: no need to hash them.
        let fast = (!source.image.is_empty()).then(|| {
            let created_by = comment.created_by(state, &format!("{} {wanted:?} {:?}", source.image, transfer.excludes));
            self.key(state, &created_by, &["unhashed"])
        });
        if let Some(key) = &fast
            && self.use_cached(state, key, None).await?
        {
            return Ok(());
        }
        let request = Request {
            keyword: transfer.keyword(),
            origin: source.origin,
            wanted,
            destination: absolute(&state.config.working_dir, &destination),
            chown,
            chmod,
            unpack: transfer.unpack,
            excludes: transfer.excludes.clone(),
            layers: self.layers(state.image.as_deref())?,
        };
        self.copy(state, request, &comment, fast).await
    }

    async fn copy(
        &mut self,
        state: &mut State,
        request: Request,
        comment: &Comment,
        fast: Option<String>,
    ) -> BuildResult<()> {
        let directory = self.build.step_directory();
        let known = (!self.build.options.no_cache).then(|| self.build.cache().known());
        let candidates = self.candidates(state)?;
        let images = self.build.engine.images().clone();
        let (key_state, key_comment, step_directory) = (state.clone(), comment.clone(), directory.clone());
        let outcome = space::run(move |space| {
            let known = |digest: &str| {
                let key = copy_key(&key_state, &key_comment, digest);
                let image = known.as_ref().and_then(|known| images.resolve(known.get(&key)?).ok());
                if let Some(image) = image {
                    return Some((key, Known::Image(image.id)));
                }
                let created_by = key_comment.created_by(&key_state, digest);
                let candidate = candidates.into_iter().find(|candidate| candidate.created_by == created_by)?;
                Some((key, Known::Candidate(candidate)))
            };
            let make_dirs = || {
                std::fs::create_dir(&step_directory).map_err(BuildError::io("create a step's directory"))?;
                StepDirs::create(&step_directory)
            };
            copy::run(space, &request, make_dirs, known)
        })
        .await?;
        match outcome {
            Outcome::Known((key, known)) => {
                match known {
                    Known::Image(image) => self.go_on(state, image).await?,
                    Known::Candidate(candidate) => self.adopt(state, &key, candidate).await?,
                }
                if let Some(key) = fast {
                    self.build.cache().learn(key, state.image().to_owned());
                }
                Ok(())
            }
            Outcome::Copied { digest } => {
                let upper = directory.join("upper");
                let layer = self.build.engine.images().commit_dir(state.image.as_deref(), &upper).await?;
                let keys = std::iter::once(copy_key(state, comment, &digest)).chain(fast).collect();
                let created_by = comment.created_by(state, &digest);
                self.commit(state, Change { created_by, layer: Some(layer), keys }).await?;
                self.build.save_cache();
                remove_directory(directory).await;
                Ok(())
            }
        }
    }

    /// Sources and destination with variables expanded.
    async fn wanted(&mut self, state: &State, transfer: &Transfer) -> BuildResult<(Vec<Wanted>, String)> {
        let mut wanted = Vec::new();
        let destination = self.expand(state, &transfer.destination)?;
        let checksum = transfer.checksum.as_deref().map(|text| self.expand(state, text)).transpose()?;
        for source in &transfer.sources {
            wanted.push(match source {
                CopySource::Path(path) => {
                    let path = self.expand(state, path)?;
                    self.path(transfer, path, &destination, checksum.as_deref()).await?
                }
                CopySource::Inline(heredoc) => {
                    let content = if heredoc.expand {
                        let lookup = self.lookup(state);
                        expand::text(&heredoc.content, self.build.escape, &lookup)
                            .map_err(expand_error(&heredoc.name))?
                    } else {
                        heredoc.content.clone()
                    };
                    Wanted::Inline { name: heredoc.name.clone(), content }
                }
            });
        }
        Ok((wanted, destination))
    }

    /// A path of the origin, or for ADD what is behind an address.
    async fn path(
        &mut self,
        transfer: &Transfer,
        path: String,
        destination: &str,
        checksum: Option<&str>,
    ) -> BuildResult<Wanted> {
        if !transfer.add {
            return match fetch::is_url(&path) {
                true => Err(BuildError::Instruction(format!("COPY failed: source can't be a URL: {path}"))),
                false => Ok(Wanted::Path(path)),
            };
        }
        if let Some(repository) = git::Repository::parse(&path) {
            let directory = self.build.step_directory();
            let tree = tokio::select! {
                cloned = git::clone(&repository, &directory, transfer.keep_git_dir, checksum) => cloned?,
                () = self.output.ended() => return Err(BuildError::Cancelled),
            };
            return Ok(Wanted::Tree { tree });
        }
        if !fetch::is_url(&path) {
            if checksum.is_some() {
                let message = "checksum can't be specified for non-HTTP(S) sources".to_owned();
                return Err(BuildError::Instruction(format!("ADD failed: {message}")));
            }
            return Ok(Wanted::Path(path));
        }
        self.fetch(&path, destination, checksum).await
    }

    async fn fetch(&mut self, url: &str, destination: &str, checksum: Option<&str>) -> BuildResult<Wanted> {
        let directory = self.build.step_directory();
        let fetched = tokio::select! {
            fetched = fetch::fetch(url, &directory, checksum) => fetched?,
            () = self.output.ended() => return Err(BuildError::Cancelled),
        };
        if fetched.name.is_empty() && (destination.ends_with('/') || destination == ".") {
            return Err(BuildError::Instruction(format!("ADD failed: cannot determine filename from url: {url}")));
        }
        let name = if fetched.name.is_empty() { fetch::CONTENT.to_owned() } else { fetched.name };
        Ok(Wanted::Other { tree: fetched.tree, path: PathBuf::from(fetch::CONTENT), name })
    }

    /// Where `--from` of a COPY or of a mount leads.
    pub(super) async fn source(&mut self, from: Option<&str>) -> BuildResult<Source> {
        let build = self.build;
        let Some(from) = from else {
            return Ok(Source { origin: Origin::Context(build.context.clone()), image: String::new() });
        };
        let stage = stages::find(&build.stages, self.index, from);
        if stage.is_none() && from.parse::<usize>().is_ok() {
            return Err(BuildError::Instruction(format!("invalid from flag value {from}: index out of bounds")));
        }
        let image = match stage.filter(|stage| build.is_built(*stage)) {
            Some(stage) => build.finished(stage).await?.image.clone(),
            None => Some(self.image(from, "", false).await?.id),
        };
        let layers = self.layers(image.as_deref())?;
        // A stage that is still scratch has no id, but is always the same.
        Ok(Source { origin: Origin::Image(layers), image: image.unwrap_or_else(|| "scratch".to_owned()) })
    }

    fn layers(&self, image: Option<&str>) -> BuildResult<Vec<PathBuf>> {
        image.map_or(Ok(Vec::new()), |image| Ok(self.build.engine.images().layer_dirs(image)?))
    }

    /// Sets the working directory and makes it.
    pub(super) async fn workdir_step(&mut self, state: &mut State, path: &str) -> BuildResult<()> {
        let path = self.expand(state, path)?;
        if path.is_empty() {
            return Err(BuildError::Instruction("cannot normalize nothing".to_owned()));
        }
        let joined = absolute(&state.config.working_dir, &path);
        state.config.working_dir = match ignore::clean(&joined).as_str() {
            "." => "/".to_owned(),
            path => format!("/{path}"),
        };
        let created_by = describe::no_operation(&state.shell(), &format!("WORKDIR {}", state.config.working_dir));
        let key = self.key(state, &created_by, &[]);
        if self.use_cached(state, &key, Some(&created_by)).await? {
            return Ok(());
        }
        let id = container_id();
        self.output.print(format!(" ---> Running in {id}\n")).await?;
        let directory = self.build.step_directory();
        let layers = self.layers(state.image.as_deref())?;
        let (step_directory, path) = (directory.clone(), state.config.working_dir.clone());
        let is_new = space::run(move |space| {
            std::fs::create_dir(&step_directory).map_err(BuildError::io("create a step's directory"))?;
            let dirs = StepDirs::create(&step_directory)?;
            copy::make_directory(space, &layers, &dirs, &path)?;
            space.leave()?;
            let mut made = std::fs::read_dir(&dirs.upper).map_err(BuildError::io("look at a step's directory"))?;
            Ok(made.next().is_some())
        })
        .await?;
        let layer = if is_new {
            let upper = directory.join("upper");
            Some(self.build.engine.images().commit_dir(state.image.as_deref(), &upper).await?)
        } else {
            None
        };
        self.commit(state, Change { created_by, layer, keys: vec![key] }).await?;
        remove_directory(directory).await;
        self.output.print(format!("Removing intermediate container {id}\n")).await
    }
}

/// The history line of a copy, but for the digest.
#[derive(Debug, Clone)]
struct Comment {
    /// `COPY --chown=x `
    start: String,
    destination: String,
}

impl Comment {
    fn new(transfer: &Transfer, chown: Option<&str>, chmod: Option<u32>, destination: &str) -> Self {
        let chown = chown.map(|owner| format!("--chown={owner} ")).unwrap_or_default();
        let chmod = chmod.map(|mode| format!("--chmod={mode:o} ")).unwrap_or_default();
        let unpack = transfer.unpack.map(|unpack| format!("--unpack={unpack} ")).unwrap_or_default();
        let start = format!("{} {chown}{chmod}{unpack}", transfer.keyword());
        Self { start, destination: destination.to_owned() }
    }

    fn created_by(&self, state: &State, digest: &str) -> String {
        let comment = format!("{}{digest} in {} ", self.start, self.destination);
        describe::no_operation(&state.shell(), &comment)
    }
}

fn copy_key(state: &State, comment: &Comment, digest: &str) -> String {
    let created_by = comment.created_by(state, digest);
    let extra = [state.author.as_str()];
    cache::Step { parent: state.image(), created_by: &created_by, config: &state.config, extra: &extra }.key()
}

/// The destination below the working directory. `.` and `x/.` mean a directory.
pub(super) fn absolute(working_dir: &str, path: &str) -> String {
    let is_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{working_dir}/{path}") };
    let mut result = match ignore::clean(&joined).as_str() {
        "." => "/".to_owned(),
        cleaned => format!("/{cleaned}"),
    };
    if is_directory && !result.ends_with('/') {
        result.push('/');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_absolute_and_keep_their_meaning() {
        for (working_dir, path, expect) in [
            ("", "x", "/x"),
            ("/src", "x", "/src/x"),
            ("/src", ".", "/src/"),
            ("/src", "./", "/src/"),
            ("/src", "/a//b/", "/a/b/"),
            ("/src", "../x", "/x"),
            ("", "/../..", "/"),
            ("", ".", "/"),
        ] {
            assert_eq!(absolute(working_dir, path), expect, "{working_dir} {path}");
        }
    }
}
