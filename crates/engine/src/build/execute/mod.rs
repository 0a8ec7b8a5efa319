//! Going through the stages and their steps.

mod describe;
mod mount_points;
mod pending;
pub(crate) mod run;
mod settings;
mod transfer;

use super::args::BuildArgs;
use super::cache::{self, Cache};
use super::copy::SourceTree;
use super::error::{BuildError, BuildResult};
use super::expand::{self, ExpandError};
use super::output::{Output, short_id};
use super::parse::{self, Dockerfile, Instruction, Step};
use super::{BuildOptions, stages};
use crate::Engine;
use crate::image::{NewImage, NewLayer, RegistryAuth};
use pending::Pending;
use skep_model::container::ContainerConfig;
use skep_model::image::{ImageInfo, Reference};
use skep_model::{ErrorKind, Timestamp};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// What an image without a PATH gets.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What runs a shell-form command unless SHELL says otherwise.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The image that is nothing.
const SCRATCH: &str = "scratch";
/// Key under which clients keep docker.io's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Progress of a pull that nobody sees.
const UNSEEN_PROGRESS_MAX: usize = 16;

/// One build under way.
pub(crate) struct Builder<'a> {
    engine: Engine,
    options: BuildOptions,
    dockerfile: Dockerfile,
    context: SourceTree,
    /// Where steps make their directories.
    directory: &'a Path,
    directories_made: usize,
    output: &'a mut Output,
    cache: Cache,
    pending: Pending,
    args: BuildArgs,
    /// Finished stages, by index.
    finished: Vec<Option<State>>,
}

/// An image on the way: what the next step builds on.
#[derive(Debug, Clone, Default)]
struct State {
    /// `None` is scratch.
    image: Option<String>,
    config: ContainerConfig,
    author: String,
    /// CMD was given in this stage, so ENTRYPOINT does not reset it.
    has_own_cmd: bool,
}

impl State {
    fn of(image: ImageInfo) -> Self {
        Self { image: Some(image.id), config: image.config, author: image.author, has_own_cmd: false }
    }

    fn image(&self) -> &str {
        self.image.as_deref().unwrap_or_default()
    }

    fn shell(&self) -> Vec<String> {
        self.config.shell.clone().unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec())
    }
}

/// What a step adds to the history and the file system.
struct Change {
    created_by: String,
    layer: Option<NewLayer>,
    /// Keys under which the cache finds the result again.
    keys: Vec<String>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        engine: Engine,
        options: BuildOptions,
        dockerfile: Dockerfile,
        context: SourceTree,
        directory: &'a Path,
        output: &'a mut Output,
    ) -> Self {
        let cache = Cache::load(engine.images().root());
        let args = BuildArgs::new(&options.build_args, &options.platform);
        let finished = vec![None; dockerfile.stages.len()];
        let pending = Pending::default();
        Self {
            engine,
            options,
            dockerfile,
            context,
            directory,
            directories_made: 0,
            output,
            cache,
            pending,
            args,
            finished,
        }
    }

    /// Builds the target, tags it and returns its id.
    pub(crate) async fn run(mut self, tags: &[Reference]) -> BuildResult<String> {
        let built = self.stages().await;
        if built.is_err()
            && let Err(error) = self.store_pending().await
        {
            tracing::debug!(%error, "the steps before the failed one are lost");
        }
        // Steps that worked are worth keeping even if a later one did not.
        self.save_cache();
        let image = built?;
        self.output.print(format!("Successfully built {}\n", short_id(&image))).await?;
        for tag in tags {
            let name = tag.familiar();
            self.engine.images().tag(&image, &name)?;
            self.output.print(format!("Successfully tagged {name}\n")).await?;
        }
        self.output.result(&image).await?;
        Ok(image)
    }

    async fn stages(&mut self) -> BuildResult<String> {
        let globals = std::mem::take(&mut self.dockerfile.global_args);
        for step in &globals {
            self.global_arg(step)?;
        }
        let stages = std::mem::take(&mut self.dockerfile.stages);
        let images = stages.iter().map(|stage| self.expand_global(&stage.image)).collect::<BuildResult<Vec<_>>>()?;
        let order = stages::needed(&stages, &images, &self.options.target)?;
        let target = *order.last().ok_or(BuildError::NoImage)?;
        let labels = self.label_step();
        let count = globals.len()
            + usize::from(labels.is_some())
            + order.iter().map(|index| 1 + stages[*index].steps.len()).sum::<usize>();

        let mut counter = Counter { number: 0, count };
        for step in &globals {
            self.output.print(counter.announce(step)).await?;
        }
        for index in order {
            let labels = labels.as_ref().filter(|_| index == target);
            let state = self.stage(&stages, index, &images[index], labels, &mut counter).await?;
            self.finished[index] = Some(state);
        }
        self.warn_of_unused_args().await?;
        self.finished[target].as_ref().and_then(|state| state.image.clone()).ok_or(BuildError::NoImage)
    }

    async fn stage(
        &mut self,
        stages: &[parse::Stage],
        index: usize,
        base: &str,
        labels: Option<&Step>,
        counter: &mut Counter,
    ) -> BuildResult<State> {
        let stage = &stages[index];
        self.output.print(counter.announce(&stage.from)).await?;
        let mut state = self.base(stages, index, base).await?;
        self.say_image(&state).await?;
        self.triggers(stages, index, &mut state).await?;
        for step in stage.steps.iter().chain(labels) {
            if changes_files(&step.instruction) {
                self.flush(&mut state).await?;
            }
            self.say(counter.announce(step)).await?;
            self.step(stages, index, step, &mut state).await?;
            self.say_image(&state).await?;
        }
        self.flush(&mut state).await?;
        if let Some(image) = &state.image {
            self.output.image(image).await?;
        }
        Ok(state)
    }

    fn global_arg(&mut self, step: &Step) -> BuildResult<()> {
        let Instruction::Arg(pairs) = &step.instruction else { return Ok(()) };
        for (name, default) in pairs {
            let default = default.as_deref().map(|text| self.expand_global(text)).transpose()?;
            self.args.declare_global(name, default);
        }
        Ok(())
    }

    fn expand_global(&self, text: &str) -> BuildResult<String> {
        let lookup = |name: &str| self.args.global_value(name);
        expand::word(text, self.dockerfile.escape, &lookup).map_err(expand_error(text))
    }

    /// `--label` becomes a last LABEL step of the target.
    fn label_step(&self) -> Option<Step> {
        if self.options.labels.is_empty() {
            return None;
        }
        let pairs: Vec<_> = self.options.labels.iter().map(|(k, v)| (literal(k), literal(v))).collect();
        let texts: Vec<_> = self.options.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Some(Step { line: 0, text: format!("LABEL {}", texts.join(" ")), instruction: Instruction::Label(pairs) })
    }

    async fn warn_of_unused_args(&mut self) -> BuildResult<()> {
        let unused = self.args.unused();
        if unused.is_empty() {
            return Ok(());
        }
        let text = format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" "));
        self.output.print(text).await
    }

    /// What `FROM` names.
    async fn base(&mut self, stages: &[parse::Stage], index: usize, name: &str) -> BuildResult<State> {
        self.args.start_stage();
        let stage = &stages[index];
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.image);
            return Err(BuildError::Instruction(message));
        }
        let platform = match &stage.platform {
            Some(platform) => self.expand_global(platform)?,
            None => self.options.platform.clone(),
        };
        let earlier = stages::by_name(stages, index, name).and_then(|base| self.finished[base].clone());
        let mut state = match earlier {
            Some(state) => State { has_own_cmd: false, ..state },
            None if name == SCRATCH => State::default(),
            None => State::of(self.image(name, &platform, self.options.pull).await?),
        };
        state.config.open_stdin = false;
        state.config.stdin_once = false;
        if !state.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            state.config.env.push(DEFAULT_PATH.to_owned());
        }
        Ok(state)
    }

    /// A local image, or one pulled now.
    async fn image(&mut self, name: &str, platform: &str, always_pull: bool) -> BuildResult<ImageInfo> {
        let images = self.engine.images().clone();
        if !always_pull {
            match images.resolve(name) {
                Ok(found) if fits(&found, platform) => return Ok(found),
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reference = Reference::parse(name)?.with_default_tag();
        let (auth, name) = (self.auth(&reference), reference.familiar());
        let platform = (!platform.is_empty()).then_some(platform);
        if let Some(progress) = self.output.pull_progress() {
            return Ok(images.pull(&name, platform, auth, progress).await?);
        }
        let (progress, mut unseen) = mpsc::channel(UNSEEN_PROGRESS_MAX);
        let drain = async { while unseen.recv().await.is_some() {} };
        let (pulled, ()) = tokio::join!(images.pull(&name, platform, auth, progress), drain);
        Ok(pulled?)
    }

    fn auth(&self, reference: &Reference) -> Option<RegistryAuth> {
        let auth = &self.options.auth;
        let hub = (reference.registry == "docker.io").then(|| auth.get(DOCKER_HUB_KEY)).flatten();
        hub.or_else(|| auth.get(&reference.registry)).cloned()
    }

    /// The base image's `ONBUILD` instructions, which are done with after that.
    async fn triggers(&mut self, stages: &[parse::Stage], index: usize, state: &mut State) -> BuildResult<()> {
        let triggers = std::mem::take(&mut state.config.on_build);
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() == 1 { "" } else { "s" };
        self.output.print(format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
        for trigger in &triggers {
            let step = parse::parse_trigger(trigger)?;
            if changes_files(&step.instruction) {
                self.flush(state).await?;
            }
            self.step(stages, index, &step, state).await?;
        }
        Ok(())
    }

    async fn step(&mut self, stages: &[parse::Stage], index: usize, step: &Step, state: &mut State) -> BuildResult<()> {
        match &step.instruction {
            Instruction::Run { command, heredocs, network } => {
                self.run_step(state, command, heredocs, network.as_deref()).await
            }
            Instruction::Transfer(transfer) => self.transfer_step(stages, index, state, transfer).await,
            Instruction::Workdir(path) => self.workdir_step(state, path).await,
            other => {
                let comment = self.settings(state, other)?;
                self.settings_step(state, &comment).await
            }
        }
    }

    /// A step that changes only the config.
    async fn settings_step(&mut self, state: &mut State, comment: &str) -> BuildResult<()> {
        let created_by = describe::no_operation(&state.shell(), &format!(" {comment}"));
        // On top of an image that was made just now nothing can be known.
        if self.pending.is_empty() {
            let key = self.key(state, &created_by, &[]);
            if self.use_cached(state, &key).await? {
                return Ok(());
            }
        }
        self.pending.push(new_image(state, created_by, None));
        // Docker makes a container for every step; here the id is all there is of it.
        let id = container_id();
        self.say(format!(" ---> Running in {id}\nRemoving intermediate container {id}\n")).await
    }

    fn key(&self, state: &State, created_by: &str, extra: &[&str]) -> String {
        let author = [state.author.as_str()];
        let extra: Vec<&str> = author.iter().chain(extra).copied().collect();
        cache::Step { parent: state.image(), created_by, config: &state.config, extra: &extra }.key()
    }

    /// Goes on from the cached image, if there is one.
    async fn use_cached(&mut self, state: &mut State, key: &str) -> BuildResult<bool> {
        let Some(image) = self.cached(key) else { return Ok(false) };
        self.output.print(" ---> Using cache\n").await?;
        state.image = Some(image);
        Ok(true)
    }

    fn cached(&self, key: &str) -> Option<String> {
        let image = self.cache.get(key).filter(|_| !self.options.no_cache)?;
        // An image that was removed meanwhile is no answer.
        self.engine.images().resolve(image).ok().map(|found| found.id)
    }

    async fn commit(&mut self, state: &mut State, change: Change) -> BuildResult<()> {
        let new = new_image(state, change.created_by, change.layer);
        let image = self.engine.images().commit_image(new).await?;
        for key in change.keys {
            self.cache.learn(key, image.clone());
        }
        state.image = Some(image);
        Ok(())
    }

    /// A cache that cannot be written costs time later, not this build.
    fn save_cache(&mut self) {
        if let Err(error) = self.cache.save() {
            tracing::warn!(%error, "the build cache is not saved");
        }
    }

    /// A word of an instruction with the stage's variables.
    fn expand(&self, state: &State, text: &str) -> BuildResult<String> {
        let lookup = self.lookup(state);
        expand::word(text, self.dockerfile.escape, &lookup).map_err(expand_error(text))
    }

    /// ENV first, then ARG.
    fn lookup<'s>(&self, state: &'s State) -> impl Fn(&str) -> Option<String> + 's {
        let args = self.args.visible(&state.config.env);
        move |name| {
            let entry = state.config.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
            entry.map(str::to_owned).or_else(|| args.get(name).cloned())
        }
    }

    /// A directory of a step's own; not made yet.
    fn step_directory(&mut self) -> PathBuf {
        self.directories_made += 1;
        self.directory.join(format!("step-{}", self.directories_made))
    }
}

/// Numbers the steps.
struct Counter {
    number: usize,
    count: usize,
}

impl Counter {
    fn announce(&mut self, step: &Step) -> String {
        self.number += 1;
        format!("Step {}/{} : {}\n", self.number, self.count, step.text)
    }
}

/// Whether the step needs the image so far, not only its config.
fn changes_files(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Run { .. } | Instruction::Transfer(_) | Instruction::Workdir(_))
}

fn new_image(state: &State, created_by: String, layer: Option<NewLayer>) -> NewImage {
    NewImage {
        parent: state.image.clone(),
        layer,
        config: state.config.clone(),
        created: now(),
        created_by,
        comment: String::new(),
        author: state.author.clone(),
    }
}

fn expand_error(text: &str) -> impl FnOnce(ExpandError) -> BuildError {
    let word = text.to_owned();
    move |source| BuildError::Expand { word, source }
}

/// Quoted so that expansion gives the text back.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

fn fits(image: &ImageInfo, platform: &str) -> bool {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (os.is_empty() || os == image.os) && (architecture.is_empty() || architecture == image.architecture)
}

fn container_id() -> String {
    hex::encode(rand::random::<[u8; 6]>())
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

/// Removes a step's directory in the background of the next ones; the build's end removes the rest.
async fn remove_directory(path: PathBuf) {
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::debug!(?removed, "a build step's directory is left to the end of the build");
    }
}
