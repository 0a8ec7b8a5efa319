//! `skep compose`: the containers, networks and volumes of compose files on one machine, named
//! and labelled as docker compose does, so that either tool can take over the other's project.
//!
//! ```text
//! files ─ skep_compose ─► Local ─┐
//! daemon ─ seen ─► containers ───┴─ plan, order, body (pure) ─► steps ─ make ─► daemon
//! ```

mod body;
mod down;
mod files;
mod images;
mod labels;
mod logs;
mod look;
mod make;
mod order;
mod plan;
mod project;
mod run;
mod seen;
mod states;
mod up;
mod waiting;

use crate::flags::compose::{Compose, Verb};
use crate::{Client, Outcome};
use anyhow::anyhow;
use project::{FromFiles, Loaded, Need};
use seen::Seen;
use skep_compose::LocalService;

pub(crate) async fn dispatch(client: &Client, flags: Compose) -> Outcome {
    if let Verb::Ls(ls) = &flags.verb {
        return look::projects(client, ls).await;
    }
    if let Verb::Config(config) = &flags.verb {
        return files::config(&flags.files, config);
    }
    let (enabled, need) = asked(&flags.verb);
    let loaded = project::load(&flags.files, &enabled, true, need)?;
    let context = Context { client, loaded };
    let context = &context;
    match flags.verb {
        Verb::Build(flags) => images::build(context, &flags).await,
        Verb::Config(_) | Verb::Ls(_) => Ok(()),
        Verb::Cp(flags) => look::copy(context, flags).await,
        Verb::Create(flags) => up::create(context, flags).await,
        Verb::Down(flags) => down::down(context, &flags).await,
        Verb::Events(flags) => look::events(context, flags).await,
        Verb::Exec(flags) => run::exec(context, flags).await,
        Verb::Images(flags) => look::images(context, &flags).await,
        Verb::Kill(flags) => states::kill(context, &flags).await,
        Verb::Logs(flags) => logs::logs(context, &flags).await,
        Verb::Pause(flags) => states::each(context, &flags.services, "pause", ["Pausing", "Paused"]).await,
        Verb::Port(flags) => look::port(context, &flags).await,
        Verb::Ps(flags) => look::ps(context, &flags).await,
        Verb::Pull(flags) => images::pull(context, &flags).await,
        Verb::Push(flags) => images::push(context, &flags).await,
        Verb::Restart(flags) => states::restart(context, &flags).await,
        Verb::Rm(flags) => states::remove(context, &flags).await,
        Verb::Run(flags) => run::run(context, *flags).await,
        Verb::Scale(flags) => up::scale(context, flags).await,
        Verb::Start(flags) => up::start(context, &flags.services).await,
        Verb::Stats(flags) => look::stats(context, flags).await,
        Verb::Stop(flags) => states::stop(context, &flags).await,
        Verb::Top(flags) => look::top(context, &flags.services).await,
        Verb::Unpause(flags) => states::each(context, &flags.services, "unpause", ["Unpausing", "Unpaused"]).await,
        Verb::Up(flags) => up::up(context, *flags).await,
        Verb::Wait(flags) => states::wait(context, &flags.services).await,
    }
}

/// Services that a verb names, which are wanted whatever their profiles say, and whether it
/// can do without files.
fn asked(verb: &Verb) -> (Vec<String>, Need) {
    let scaled = |numbers: &[String]| numbers.iter().filter_map(|n| Some(n.split_once('=')?.0.to_owned())).collect();
    let first = |words: &[String]| words.first().cloned().into_iter().collect();
    match verb {
        Verb::Build(flags) => (flags.services.clone(), Need::Files),
        Verb::Create(flags) => (flags.services.clone(), Need::Files),
        Verb::Pull(flags) => (flags.services.clone(), Need::Files),
        Verb::Push(flags) => (flags.services.clone(), Need::Files),
        Verb::Run(flags) => (first(&flags.words), Need::Files),
        Verb::Scale(flags) => (scaled(&flags.numbers), Need::Files),
        Verb::Up(flags) => (flags.services.clone(), Need::Files),
        _ => (Vec::new(), Need::Name),
    }
}

/// A project and the daemon it is on.
struct Context<'a> {
    client: &'a Client,
    loaded: Loaded,
}

impl Context<'_> {
    fn name(&self) -> &str {
        &self.loaded.name
    }

    fn files(&self) -> anyhow::Result<&FromFiles> {
        self.loaded.files.as_ref().ok_or_else(|| anyhow!("this needs the project's files: -f FILE"))
    }

    /// Services in start order; none where only the project's name is known.
    fn services(&self) -> &[LocalService] {
        self.loaded.files.as_ref().map(|files| files.local.services.as_slice()).unwrap_or_default()
    }

    fn service(&self, key: &str) -> Option<&LocalService> {
        self.services().iter().find(|service| service.key == key)
    }

    async fn seen(&self) -> Outcome<Vec<Seen>> {
        seen::containers(self.client, self.name()).await
    }

    /// Containers of the named services, of all when none is named; one-off runs excepted.
    async fn chosen(&self, named: &[String]) -> Outcome<Vec<Seen>> {
        let seen = self.seen().await?;
        for name in named {
            let known = self.service(name).is_some() || seen.iter().any(|one| one.service == *name);
            let left_out =
                self.loaded.files.as_ref().is_some_and(|files| files.project.left_out().any(|key| key == name));
            if !known && !left_out {
                return Err(anyhow!("no such service: {name}").into());
            }
        }
        // Services that the files do not name any more are another verb's business.
        let ours = |one: &Seen| match named {
            [] => self.loaded.files.is_none() || self.known().contains(&one.service),
            named => named.contains(&one.service),
        };
        Ok(seen.into_iter().filter(|one| !one.one_off && ours(one)).collect())
    }

    /// Keys of all services the files have, left out ones too.
    fn known(&self) -> Vec<String> {
        let Some(files) = &self.loaded.files else { return Vec::new() };
        let present = files.local.services.iter().map(|service| service.key.clone());
        present.chain(files.project.left_out().map(str::to_owned)).collect()
    }

    /// One container of a service: the one with that number, or the first that runs.
    async fn one(&self, service: &str, index: u64) -> Outcome<Seen> {
        let all = self.chosen(&[service.to_owned()]).await?;
        let found = match index {
            0 => all.iter().find(|one| one.runs()).or_else(|| all.first()),
            index => all.iter().find(|one| one.number == index),
        };
        match found {
            Some(one) => Ok(one.clone()),
            None if index > 0 => Err(anyhow!("service \"{service}\" has no container #{index}").into()),
            None => Err(anyhow!("service \"{service}\" is not running").into()),
        }
    }
}

/// One line of progress, on standard error as docker compose has it.
fn say(kind: &str, name: &str, what: &str) {
    eprintln!(" {kind} {name}  {what}");
}

/// `t=10`, if a time was given.
fn stop_query(timeout: Option<i64>) -> String {
    crate::client::query(&[("t", &timeout.map(|t| t.to_string()).unwrap_or_default())])
}
