//! `RUN`: a container from the image so far, whose changes become a layer.

use super::run_mounts::{Shown, script};
use super::stage::StageBuilder;
use super::{Change, State, describe, mount_points, remove_directory, settings};
use crate::Engine;
use crate::build::error::{BuildError, BuildResult};
use crate::build::output::short_id;
use crate::build::parse::{Command, Run, with_bodies};
use crate::container::{AttachOptions, RemoveOptions, Stream, WaitCondition};
use crate::image::NewLayer;
use skep_model::container::{ContainerConfig, ContainerSpec, HealthConfig, HostConfig, Resources};
use skep_model::id::ContainerId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Marks the containers of build steps: nobody but their build wants them.
pub(crate) const STEP_ANNOTATION: &str = "skep.build.step";

/// Removes what a build left behind that was killed with its daemon. To be called at
/// start, before there are new builds.
pub(crate) async fn remove_leftovers(engine: &Engine) {
    for container in engine.list() {
        if !container.host.annotations.contains_key(STEP_ANNOTATION) {
            continue;
        }
        if let Err(error) = remove(engine, &container.id).await {
            tracing::warn!(container = %container.id, %error, "a container of a broken-off build stays");
        }
    }
}

/// What is to be executed.
enum Work {
    Words(Vec<String>),
    /// A here-document that names its own interpreter.
    Script {
        name: String,
        content: String,
    },
}

impl Work {
    fn of(state: &State, run: &Run) -> Self {
        match &run.command {
            Command::Shell(text) if !run.heredocs.is_empty() => {
                let content = with_bodies(text, &run.heredocs);
                if content.starts_with("#!") {
                    let name = run.heredocs.first().map(|heredoc| heredoc.name.clone()).unwrap_or_default();
                    return Self::Script { name, content };
                }
                Self::Words(settings::words(state, &Command::Shell(content)))
            }
            other => Self::Words(settings::words(state, other)),
        }
    }

    /// As the history tells it.
    fn described(&self) -> Vec<String> {
        match self {
            Self::Words(words) => words.clone(),
            Self::Script { content, .. } => vec![content.clone()],
        }
    }
}

impl StageBuilder<'_> {
    pub(super) async fn run_step(&mut self, state: &mut State, run: &Run) -> BuildResult<()> {
        let work = Work::of(state, run);
        let words = work.described();
        let visible = self.args.visible(&state.config.env);
        let created_by = describe::run(&words, &self.args, &visible);
        let (mounts, identity) = self.resolve_mounts(state, run).await?;
        let network = run.network.as_deref();
        let key = self.key(state, &created_by, &["run", network.unwrap_or_default(), &identity]);
        // What mounts show is in no history.
        let told = mounts.is_empty().then_some(created_by.as_str());
        if self.use_cached(state, &key, told).await? {
            return Ok(());
        }
        let Some(image) = state.image.clone() else {
            let message =
                format!("RUN needs an image with a program to run, and nothing is in it yet: {}", words.join(" "));
            return Err(BuildError::Instruction(message));
        };
        let directory = self.build.step_directory();
        std::fs::create_dir(&directory).map_err(BuildError::io("create a step's directory"))?;
        let mut shown = self.show(mounts, &directory).await?;
        let words = match work {
            Work::Words(words) => words,
            Work::Script { name, content } => vec![script(&mut shown, &directory, &name, &content)?],
        };
        let mut host = self.host(network);
        shown.add_to(&mut host);
        let config = self.config(state, &image, &words, &visible, &shown);
        let targets = shown.targets();
        let files = std::mem::take(&mut shown.files);
        let spec = ContainerSpec { config, host, files, ..ContainerSpec::default() };
        let (id, warnings) = self.build.engine.create(spec).await?;
        let ran = self.run_container(&id, &image, &words.join(" "), warnings, targets).await;
        let done = match ran {
            Ok(layer) => self.commit(state, Change { created_by, layer: Some(layer), keys: vec![key] }).await,
            Err(error) => Err(error),
        };
        let removed = remove(&self.build.engine, &id).await;
        // Caches and sockets are needed until the container is gone.
        drop(shown);
        remove_directory(directory).await;
        done?;
        removed?;
        self.build.save_cache();
        self.output.print(format!("Removing intermediate container {}\n", short_id(id.as_str()))).await
    }

    fn config(
        &self,
        state: &State,
        image: &str,
        words: &[String],
        visible: &BTreeMap<String, String>,
        shown: &Shown,
    ) -> ContainerConfig {
        let mut config = ContainerConfig {
            image: image.to_owned(),
            cmd: Some(words.to_vec()),
            // Given and empty: the image's entrypoint does not wrap the command.
            entrypoint: Some(Vec::new()),
            env: state.config.env.clone(),
            user: state.config.user.clone(),
            working_dir: state.config.working_dir.clone(),
            attach_stdout: true,
            attach_stderr: true,
            healthcheck: Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }),
            ..ContainerConfig::default()
        };
        for (name, value) in visible.iter().chain(shown.env.iter().map(|(name, value)| (name, value))) {
            settings::set_env(&mut config, name, value);
        }
        config
    }

    fn host(&self, network: Option<&str>) -> HostConfig {
        let options = &self.build.options;
        let chosen = network.unwrap_or(&options.network_mode);
        HostConfig {
            network_mode: if chosen.is_empty() { "default".to_owned() } else { chosen.to_owned() },
            extra_hosts: options.extra_hosts.clone(),
            shm_size: options.shm_size,
            annotations: [(STEP_ANNOTATION.to_owned(), String::new())].into(),
            resources: Resources {
                memory_bytes: options.memory_bytes,
                cpu_shares: options.cpu_shares,
                ..Resources::default()
            },
            ..HostConfig::default()
        }
    }

    /// Runs it to its end and takes its changes as a layer.
    async fn run_container(
        &mut self,
        id: &ContainerId,
        image: &str,
        command: &str,
        warnings: Vec<String>,
        targets: Vec<String>,
    ) -> BuildResult<NewLayer> {
        for warning in warnings {
            self.output.log(format!("[Warning] {warning}\n"), true).await?;
        }
        self.output.print(format!(" ---> Running in {}\n", short_id(id.as_str()))).await?;
        self.run_to_end(id, command).await?;
        let engine = &self.build.engine;
        let info = engine.inspect(id.as_str())?;
        let upper = PathBuf::from(&info.upper_dir);
        let layers = engine.images().layer_dirs(image)?;
        let mounts: Vec<String> = info.mounts.iter().map(|mount| mount.destination.clone()).chain(targets).collect();
        clean(upper.clone(), layers, mounts).await?;
        Ok(engine.images().commit_dir(Some(image), &upper).await?)
    }

    async fn run_to_end(&mut self, id: &ContainerId, command: &str) -> BuildResult<()> {
        let engine = self.build.engine.clone();
        let options = AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
        let mut attached = engine.attach(id.as_str(), options).await?;
        let ended = engine.wait(id.as_str(), WaitCondition::NextExit)?;
        engine.start(id.as_str()).await?;
        let mut text = [Utf8Pieces::default(), Utf8Pieces::default()];
        loop {
            tokio::select! {
                chunk = attached.output.recv() => match chunk {
                    Some(chunk) => {
                        let is_error = chunk.stream == Stream::Stderr;
                        let piece = text[usize::from(is_error)].push(&chunk.data);
                        if !piece.is_empty() {
                            self.output.log(piece, is_error).await?;
                        }
                    }
                    None => break,
                },
                () = self.output.ended() => return Err(BuildError::Cancelled),
            }
        }
        for (rest, is_error) in text.into_iter().zip([false, true]) {
            let rest = rest.finish();
            if !rest.is_empty() {
                self.output.log(rest, is_error).await?;
            }
        }
        let ended = tokio::select! {
            ended = ended => ended,
            () = self.output.ended() => return Err(BuildError::Cancelled),
        };
        if ended.exit_code != 0 {
            return Err(BuildError::Command { command: command.to_owned(), code: ended.exit_code });
        }
        Ok(())
    }
}

async fn clean(upper: PathBuf, layers: Vec<PathBuf>, mounts: Vec<String>) -> BuildResult<()> {
    let cleaning = tokio::task::spawn_blocking(move || mount_points::remove(Path::new(&upper), &layers, &mounts));
    cleaning.await.map_err(|error| BuildError::io("look at a step's changes")(std::io::Error::other(error)))?
}

async fn remove(engine: &Engine, id: &ContainerId) -> BuildResult<()> {
    let options = RemoveOptions { force: true, volumes: true };
    Ok(engine.remove(id.as_str(), options).await?)
}

/// Bytes to text, without cutting a character that came in two pieces.
#[derive(Debug, Default)]
struct Utf8Pieces {
    held: Vec<u8>,
}

impl Utf8Pieces {
    fn push(&mut self, data: &[u8]) -> String {
        self.held.extend_from_slice(data);
        let whole = match std::str::from_utf8(&self.held) {
            Ok(_) => self.held.len(),
            // An unfinished character at the very end waits for its rest.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.held.len(),
        };
        let rest = self.held.split_off(whole);
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held = rest;
        text
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let mut text = Utf8Pieces::default();
        let bytes = "aé".as_bytes();
        assert_eq!(text.push(&bytes[..2]), "a");
        assert_eq!(text.push(&bytes[2..]), "é");
        assert_eq!(text.push(b"\xffx"), "\u{fffd}x");
        assert_eq!(text.finish(), "");
    }
}
