//! `RUN`: a container from the image so far, whose changes become a layer.

use super::{Builder, Change, State, describe, mount_points, settings};
use crate::Engine;
use crate::build::error::{BuildError, BuildResult};
use crate::build::output::short_id;
use crate::build::parse::{Command, Heredoc, with_bodies};
use crate::container::{AttachOptions, RemoveOptions, WaitCondition};
use skep_model::container::{ContainerConfig, ContainerSpec, HealthConfig, HostConfig, Resources};
use skep_model::id::ContainerId;
use std::path::PathBuf;

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

impl Builder<'_> {
    pub(super) async fn run_step(
        &mut self,
        state: &mut State,
        command: &Command,
        heredocs: &[Heredoc],
        network: Option<&str>,
    ) -> BuildResult<()> {
        let command = with_heredocs(command, heredocs)?;
        let words = settings::words(state, &command);
        let visible = self.args.visible(&state.config.env);
        let created_by = describe::run(&words, &self.args, &visible);
        let key = self.key(state, &created_by, &["run", network.unwrap_or_default()]);
        if self.use_cached(state, &key).await? {
            return Ok(());
        }
        let Some(image) = state.image.clone() else {
            let message =
                format!("RUN needs an image with a program to run, and nothing is in it yet: {}", words.join(" "));
            return Err(BuildError::Instruction(message));
        };
        let mut config = ContainerConfig {
            image: image.clone(),
            cmd: Some(words.clone()),
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
        for (name, value) in &visible {
            settings::set_env(&mut config, name, value);
        }
        let spec = ContainerSpec { config, host: self.host(network), ..ContainerSpec::default() };
        let (id, warnings) = self.engine.create(spec).await?;
        let ran = self.run_container(&id, &image, &words.join(" "), warnings).await;
        let done = match ran {
            Ok(layer) => self.commit(state, Change { created_by, layer: Some(layer), keys: vec![key] }).await,
            Err(error) => Err(error),
        };
        let removed = remove(&self.engine, &id).await;
        done?;
        removed?;
        self.save_cache();
        self.output.print(format!("Removing intermediate container {}\n", short_id(id.as_str()))).await
    }

    fn host(&self, network: Option<&str>) -> HostConfig {
        let options = &self.options;
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
    ) -> BuildResult<crate::image::NewLayer> {
        for warning in warnings {
            self.output.print(format!("[Warning] {warning}\n")).await?;
        }
        self.output.print(format!(" ---> Running in {}\n", short_id(id.as_str()))).await?;
        let engine = self.engine.clone();
        let options = AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
        let mut attached = engine.attach(id.as_str(), options).await?;
        let ended = engine.wait(id.as_str(), WaitCondition::NextExit)?;
        engine.start(id.as_str()).await?;
        let mut text = Utf8Pieces::default();
        loop {
            tokio::select! {
                chunk = attached.output.recv() => match chunk {
                    Some(chunk) => {
                        let piece = text.push(&chunk.data);
                        if !piece.is_empty() {
                            self.output.print(piece).await?;
                        }
                    }
                    None => break,
                },
                () = self.output.closed() => return Err(BuildError::Cancelled),
            }
        }
        let rest = text.finish();
        if !rest.is_empty() {
            self.output.print(rest).await?;
        }
        let ended = tokio::select! {
            ended = ended => ended,
            () = self.output.closed() => return Err(BuildError::Cancelled),
        };
        if ended.exit_code != 0 {
            return Err(BuildError::Command { command: command.to_owned(), code: ended.exit_code });
        }
        let info = engine.inspect(id.as_str())?;
        let upper = PathBuf::from(&info.upper_dir);
        let layers = engine.images().layer_dirs(image)?;
        let mounts: Vec<String> = info.mounts.iter().map(|mount| mount.destination.clone()).collect();
        let clean = {
            let upper = upper.clone();
            move || mount_points::remove(&upper, &layers, &mounts)
        };
        tokio::task::spawn_blocking(clean)
            .await
            .map_err(|error| BuildError::io("look at a step's changes")(std::io::Error::other(error)))??;
        Ok(engine.images().commit_dir(Some(image), &upper).await?)
    }
}

fn with_heredocs(command: &Command, heredocs: &[Heredoc]) -> BuildResult<Command> {
    match command {
        Command::Shell(text) if !heredocs.is_empty() => {
            let script = with_bodies(text, heredocs);
            if script.starts_with("#!") {
                let message = "RUN with a here-document that names its own interpreter (#!) is not supported yet";
                return Err(BuildError::Unsupported(message.to_owned()));
            }
            Ok(Command::Shell(script))
        }
        other => Ok(other.clone()),
    }
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
