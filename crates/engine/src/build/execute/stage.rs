//! One stage, from its FROM to its last step.

use super::{Build, Change, State, announcement, changes_files, container_id, describe, expand_error, new_image};
use crate::build::args::BuildArgs;
use crate::build::cache;
use crate::build::error::{BuildError, BuildResult};
use crate::build::expand;
use crate::build::output::Output;
use crate::build::parse::{self, Instruction, Step};
use crate::build::stages;

/// What an image without a PATH gets.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The image that is nothing.
const SCRATCH: &str = "scratch";

/// One stage of a build under way.
pub(super) struct StageBuilder<'b> {
    pub(super) build: &'b Build<'b>,
    pub(super) index: usize,
    pub(super) args: BuildArgs,
    pub(super) output: Output,
    pub(super) pending: super::pending::Pending,
    /// The step under way came from the cache.
    pub(super) was_cached: bool,
    /// Given on the command line, as a last step.
    labels: Option<Step>,
    /// Steps announced so far in the text, of all.
    number: usize,
    count: usize,
    /// Steps told as events so far.
    shown: usize,
}

/// A stage's index, and its image with the arguments it declared.
pub(super) type Ended = (usize, BuildResult<(State, Vec<String>)>);

impl<'b> StageBuilder<'b> {
    pub(super) fn new(
        build: &'b Build<'b>,
        index: usize,
        labels: Option<Step>,
        output: Output,
        number: usize,
        count: usize,
    ) -> Self {
        Self {
            build,
            index,
            args: build.args.clone(),
            output,
            pending: super::pending::Pending::default(),
            was_cached: false,
            labels,
            number,
            count,
            shown: 0,
        }
    }

    /// Builds the stage. What worked before a failure is kept for the cache.
    pub(super) async fn run(mut self) -> Ended {
        let built = self.steps().await;
        if built.is_err()
            && let Err(error) = self.store_pending().await
        {
            tracing::debug!(%error, "the steps before the failed one are lost");
        }
        (self.index, built.map(|state| (state, self.args.declared())))
    }

    async fn steps(&mut self) -> BuildResult<State> {
        let build = self.build;
        let stage = &build.stages[self.index];
        let base = build.images[self.index].as_str();
        let parent = stages::by_name(&build.stages, self.index, base).filter(|stage| build.is_built(*stage));
        let parent = match parent {
            Some(parent) => Some(State::clone(&*build.finished(parent).await?)),
            None => None,
        };
        let text = self.announce(&stage.from);
        self.output.print(text).await?;
        self.begin(&format!("FROM {base}")).await?;
        let found = self.base(base, parent).await;
        let mut state = self.end(found).await?;
        self.say_image(&state).await?;
        self.triggers(&mut state).await?;
        let labels = self.labels.take();
        for step in stage.steps.iter().chain(&labels) {
            if changes_files(&step.instruction) {
                self.flush(&mut state).await?;
            }
            let text = self.announce(step);
            self.say(text).await?;
            self.step(step, &mut state).await.map_err(|error| error.at_line(step.line))?;
            self.say_image(&state).await?;
        }
        self.flush(&mut state).await?;
        if let Some(image) = &state.image {
            self.output.image(image).await?;
        }
        Ok(state)
    }

    fn announce(&mut self, step: &Step) -> String {
        self.number += 1;
        announcement(self.number, self.count, step)
    }

    /// Tells as an event that a step begins: `[builder 2/5] RUN make`.
    async fn begin(&mut self, text: &str) -> BuildResult<()> {
        let build = self.build;
        let stage = &build.stages[self.index];
        let steps = 1 + stage.steps.iter().filter(|step| changes_files(&step.instruction)).count();
        self.shown = (self.shown + 1).min(steps);
        let label = match (&stage.name, build.stages.len()) {
            (_, 1) => String::new(),
            (Some(name), _) => format!("{name} "),
            (None, _) => format!("stage-{} ", self.index),
        };
        self.was_cached = false;
        self.output.begin(format!("[{label}{}/{steps}] {text}", self.shown)).await
    }

    async fn end<T>(&mut self, result: BuildResult<T>) -> BuildResult<T> {
        self.output.finish(self.was_cached, result.as_ref().err()).await?;
        result
    }

    /// What `FROM` names: an earlier stage, which is given, nothing, or an image.
    async fn base(&mut self, name: &str, parent: Option<State>) -> BuildResult<State> {
        let build = self.build;
        let stage = &build.stages[self.index];
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.image);
            return Err(BuildError::Instruction(message));
        }
        let platform = match &stage.platform {
            Some(platform) => build.expand_global(platform)?,
            None => build.options.platform.clone(),
        };
        let mut state = match parent {
            Some(state) => State { has_own_cmd: false, ..state },
            None if name == SCRATCH => State::default(),
            None => State::of(self.image(name, &platform, build.options.pull).await?),
        };
        state.config.open_stdin = false;
        state.config.stdin_once = false;
        if !state.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            state.config.env.push(DEFAULT_PATH.to_owned());
        }
        Ok(state)
    }

    /// The base image's `ONBUILD` instructions, which are done with after that.
    async fn triggers(&mut self, state: &mut State) -> BuildResult<()> {
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
            self.step(&step, state).await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step, state: &mut State) -> BuildResult<()> {
        if !changes_files(&step.instruction) {
            let comment = self.settings(state, &step.instruction)?;
            return self.settings_step(state, &comment).await;
        }
        self.begin(&step.text).await?;
        let done = match &step.instruction {
            Instruction::Run(run) => self.run_step(state, run).await,
            Instruction::Transfer(transfer) => self.transfer_step(state, transfer).await,
            Instruction::Workdir(path) => self.workdir_step(state, path).await,
            _ => Ok(()),
        };
        self.end(done).await
    }

    /// A step that changes only the config.
    async fn settings_step(&mut self, state: &mut State, comment: &str) -> BuildResult<()> {
        let created_by = describe::no_operation(&state.shell(), &format!(" {comment}"));
        // On top of an image that was made just now nothing can be known.
        if self.pending.is_empty() {
            let key = self.key(state, &created_by, &[]);
            if self.use_cached(state, &key, Some(&created_by)).await? {
                return Ok(());
            }
        }
        self.pending.push(new_image(state, created_by, None));
        // Docker makes a container for every step; here the id is all there is of it.
        let id = container_id();
        self.say(format!(" ---> Running in {id}\nRemoving intermediate container {id}\n")).await
    }

    pub(super) fn key(&self, state: &State, created_by: &str, extra: &[&str]) -> String {
        let author = [state.author.as_str()];
        let extra: Vec<&str> = author.iter().chain(extra).copied().collect();
        cache::Step { parent: state.image(), created_by, config: &state.config, extra: &extra }.key()
    }

    pub(super) async fn commit(&mut self, state: &mut State, change: Change) -> BuildResult<()> {
        let new = new_image(state, change.created_by, change.layer);
        let image = self.build.engine.images().commit_image(new).await?;
        for key in change.keys {
            self.build.cache().learn(key, image.clone());
        }
        state.image = Some(image);
        Ok(())
    }

    /// A word of an instruction with the stage's variables.
    pub(super) fn expand(&self, state: &State, text: &str) -> BuildResult<String> {
        let lookup = self.lookup(state);
        expand::word(text, self.build.escape, &lookup).map_err(expand_error(text))
    }

    /// ENV first, then ARG.
    pub(super) fn lookup<'s>(&self, state: &'s State) -> impl Fn(&str) -> Option<String> + 's {
        let args = self.args.visible(&state.config.env);
        move |name| {
            let entry = state.config.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
            entry.map(str::to_owned).or_else(|| args.get(name).cloned())
        }
    }
}
