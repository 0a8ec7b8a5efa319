//! Going through the stages and their steps.
//!
//! [`Build`] is what all stages share; each needed stage has a [`StageBuilder`], and all run
//! side by side on one task: a stage waits for the stages it builds on or copies from.

mod cached;
mod describe;
mod mount_points;
mod pending;
mod pull;
pub(crate) mod run;
mod run_mounts;
mod settings;
mod stage;
mod transfer;

use super::args::BuildArgs;
use super::cache::Cache;
use super::client::BuildClient;
use super::copy::SourceTree;
use super::error::{BuildError, BuildResult};
use super::expand::{self, ExpandError};
use super::output::{Printer, short_id};
use super::parse::{Dockerfile, Instruction, Stage, Step};
use super::{BuildOptions, stages};
use crate::Engine;
use crate::image::{NewImage, NewLayer};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use skep_model::Timestamp;
use skep_model::container::ContainerConfig;
use skep_model::image::{ImageInfo, Reference};
use stage::StageBuilder;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What runs a shell-form command unless SHELL says otherwise.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// One build under way, as its stages share it.
pub(crate) struct Build<'a> {
    engine: Engine,
    options: BuildOptions,
    client: Arc<dyn BuildClient>,
    escape: char,
    stages: Vec<Stage>,
    /// Base names of the stages after expansion.
    images: Vec<String>,
    /// `ARG`s before the first FROM.
    globals: Vec<Step>,
    args: BuildArgs,
    context: SourceTree,
    /// Where steps make their directories.
    directory: &'a Path,
    directories_made: AtomicUsize,
    cache: Mutex<Cache>,
    /// Images whose steps may be taken instead of running them.
    sources: Vec<ImageInfo>,
    /// Outcomes of the stages, by index; `None` for those that are not built.
    outcomes: Vec<Option<watch::Sender<Outcome>>>,
    /// A stage failed: the others end as soon as they can.
    stopped: CancellationToken,
}

/// Where a stage is.
#[derive(Debug, Clone, Default)]
enum Outcome {
    #[default]
    Pending,
    Built(Arc<State>),
    Failed,
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

impl<'a> Build<'a> {
    pub(crate) fn new(
        engine: Engine,
        options: BuildOptions,
        client: Arc<dyn BuildClient>,
        dockerfile: Dockerfile,
        context: SourceTree,
        directory: &'a Path,
    ) -> BuildResult<Self> {
        let cache = Mutex::new(Cache::load(engine.images().root()));
        let mut args = BuildArgs::new(&options.build_args, &options.platform);
        for step in &dockerfile.global_args {
            global_arg(&mut args, step, dockerfile.escape)?;
        }
        let expanded = |stage: &Stage| expand_global(&args, &stage.image, dockerfile.escape);
        let images = dockerfile.stages.iter().map(expanded).collect::<BuildResult<Vec<_>>>()?;
        let outcomes = dockerfile.stages.iter().map(|_| None).collect();
        Ok(Self {
            engine,
            options,
            client,
            escape: dockerfile.escape,
            stages: dockerfile.stages,
            images,
            globals: dockerfile.global_args,
            args,
            context,
            directory,
            directories_made: AtomicUsize::new(0),
            cache,
            sources: Vec::new(),
            outcomes,
            stopped: CancellationToken::new(),
        })
    }

    /// Builds the target, tags it and returns its id.
    pub(crate) async fn run(mut self, tags: &[Reference], printer: &mut Printer) -> BuildResult<String> {
        self.find_sources(printer).await?;
        let built = self.build(printer).await;
        // Steps that worked are worth keeping even if a later one did not.
        self.save_cache();
        let image = built?;
        printer.print(format!("Successfully built {}\n", short_id(&image))).await?;
        for tag in tags {
            let name = tag.familiar();
            self.engine.images().tag(&image, &name)?;
            printer.print(format!("Successfully tagged {name}\n")).await?;
        }
        printer.result(&image).await?;
        Ok(image)
    }

    async fn build(&mut self, printer: &mut Printer) -> BuildResult<String> {
        let order = stages::needed(&self.stages, &self.images, &self.options.target)?;
        let target = *order.last().ok_or(BuildError::NoImage)?;
        for index in &order {
            self.outcomes[*index] = Some(watch::Sender::default());
        }
        let labels = self.label_step();
        let count = self.globals.len()
            + usize::from(labels.is_some())
            + order.iter().map(|index| 1 + self.stages[*index].steps.len()).sum::<usize>();
        for (number, step) in self.globals.iter().enumerate() {
            printer.print(announcement(number + 1, count, step)).await?;
        }
        let (outputs, lanes) = printer.lanes(order.len(), &self.stopped);
        let mut number = self.globals.len();
        let mut builders = Vec::new();
        for (index, output) in order.iter().zip(outputs) {
            let labels = labels.as_ref().filter(|_| *index == target);
            builders.push(StageBuilder::new(self, *index, labels.cloned(), output, number, count));
            number += 1 + self.stages[*index].steps.len();
        }
        let (built, ()) = tokio::join!(self.side_by_side(builders), printer.relay(lanes));
        let declared = built?;
        self.warn_of_unused_args(&declared, printer).await?;
        match self.outcomes[target].as_ref().map(|outcome| outcome.borrow().clone()) {
            Some(Outcome::Built(state)) => state.image.clone().ok_or(BuildError::NoImage),
            _ => Err(BuildError::NoImage),
        }
    }

    /// Runs all stages to their ends; the first error ends the others. Returns the arguments
    /// that were declared anywhere.
    async fn side_by_side(&self, builders: Vec<StageBuilder<'_>>) -> BuildResult<Vec<String>> {
        let mut running: FuturesUnordered<_> = builders.into_iter().map(StageBuilder::run).collect();
        let mut declared = Vec::new();
        let mut failure = None;
        // Every stage is waited for: one that is dropped would leave its container behind.
        while let Some((index, result)) = running.next().await {
            let outcome = match result {
                Ok((state, args)) => {
                    declared.extend(args);
                    Outcome::Built(Arc::new(state))
                }
                Err(error) => {
                    self.stopped.cancel();
                    let is_first = matches!(failure, None | Some(BuildError::Cancelled));
                    if is_first {
                        failure = Some(error);
                    }
                    Outcome::Failed
                }
            };
            if let Some(sender) = &self.outcomes[index] {
                sender.send_replace(outcome);
            }
        }
        failure.map_or(Ok(declared), Err)
    }

    /// Whether the stage is part of this build.
    fn is_built(&self, stage: usize) -> bool {
        self.outcomes.get(stage).is_some_and(Option::is_some)
    }

    /// Waits for a stage of this build.
    async fn finished(&self, stage: usize) -> BuildResult<Arc<State>> {
        let Some(sender) = self.outcomes.get(stage).and_then(Option::as_ref) else { return Err(BuildError::NoImage) };
        let mut outcome = sender.subscribe();
        let reached = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await;
        match reached.as_deref() {
            Ok(Outcome::Built(state)) => Ok(Arc::clone(state)),
            // What went wrong there is the build's error.
            Ok(Outcome::Failed | Outcome::Pending) | Err(_) => Err(BuildError::Cancelled),
        }
    }

    fn expand_global(&self, text: &str) -> BuildResult<String> {
        expand_global(&self.args, text, self.escape)
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

    async fn warn_of_unused_args(&self, declared: &[String], printer: &mut Printer) -> BuildResult<()> {
        let unused: Vec<&str> =
            self.args.unused().into_iter().filter(|name| !declared.iter().any(|known| known == name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        printer.warn(&format!("One or more build-args [{}] were not consumed", unused.join(" "))).await
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Entries are added whole.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cache that cannot be written costs time later, not this build.
    fn save_cache(&self) {
        if let Err(error) = self.cache().save() {
            tracing::warn!(%error, "the build cache is not saved");
        }
    }

    /// A directory of a step's own; not made yet.
    fn step_directory(&self) -> PathBuf {
        let number = self.directories_made.fetch_add(1, Ordering::Relaxed) + 1;
        self.directory.join(format!("step-{number}"))
    }
}

fn global_arg(args: &mut BuildArgs, step: &Step, escape: char) -> BuildResult<()> {
    let Instruction::Arg(pairs) = &step.instruction else { return Ok(()) };
    for (name, default) in pairs {
        let default = default.as_deref().map(|text| expand_global(args, text, escape)).transpose()?;
        args.declare_global(name, default);
    }
    Ok(())
}

fn expand_global(args: &BuildArgs, text: &str, escape: char) -> BuildResult<String> {
    let lookup = |name: &str| args.global_value(name);
    expand::word(text, escape, &lookup).map_err(expand_error(text))
}

fn announcement(number: usize, count: usize, step: &Step) -> String {
    format!("Step {number}/{count} : {}\n", step.text)
}

/// Whether the step needs the image so far, not only its config.
fn changes_files(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Run(_) | Instruction::Transfer(_) | Instruction::Workdir(_))
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
