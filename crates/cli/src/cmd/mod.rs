//! What the verbs do: one file a noun. Each builds a request, shows the answer, decides nothing.

mod build;
mod build_progress;
pub(crate) mod container;
mod container_files;
pub(crate) mod container_tune;
pub(crate) mod copy;
mod copy_paths;
mod create;
mod disk;
mod image;
mod login;
mod manual;
mod network;
mod network_trace;
mod node;
mod orchestrate;
pub(crate) mod process;
pub(crate) mod registry;
mod secret;
mod service;
mod service_logs;
mod service_pretty;
mod service_progress;
mod service_spec;
mod service_update;
pub(crate) mod stack;
mod swarm;
mod swarm_backup;
mod swarm_ca;
mod swarm_lock;
pub(crate) mod system;
mod task;

use crate::flags::{Skep, Verb};
use crate::{Client, Failure, Outcome};

/// Sends a parsed command line to its verb.
pub(crate) async fn dispatch(parsed: Skep) -> Outcome {
    let client = Client::new(parsed.host.as_deref())?;
    let client = &client;
    match parsed.verb {
        Verb::Run(flags) => process::run(client, *flags).await,
        Verb::Exec(flags) => process::exec(client, flags).await,
        Verb::Attach(flags) => process::attach(client, &flags).await,
        Verb::Start(flags) => process::start(client, &flags).await,
        Verb::Create(flags) => process::create(client, *flags).await,
        Verb::Commit(flags) => container_files::commit(client, &flags).await,
        Verb::Cp(flags) => copy::cp(client, &flags).await,
        Verb::Diff(flags) => container_files::diff(client, &flags).await,
        Verb::Export(flags) => container_files::export(client, &flags).await,
        Verb::Stats(flags) => container_tune::stats(client, &flags).await,
        Verb::Update(flags) => container_tune::update(client, &flags).await,
        Verb::Ps(flags) => container::list(client, &flags).await,
        Verb::Kill(flags) => container::kill(client, &flags).await,
        Verb::Logs(flags) => container::logs(client, &flags).await,
        Verb::Pause(names) => container::each(client, &names.names, "pause").await,
        Verb::Unpause(names) => container::each(client, &names.names, "unpause").await,
        Verb::Port(flags) => container::port(client, &flags).await,
        Verb::Rename(flags) => container::rename(client, &flags).await,
        Verb::Restart(flags) => container::stop(client, &flags, "restart").await,
        Verb::Stop(flags) => container::stop(client, &flags, "stop").await,
        Verb::Rm(flags) => container::remove(client, &flags).await,
        Verb::Top(flags) => container::top(client, &flags).await,
        Verb::Wait(names) => container::wait(client, &names.names).await,
        Verb::Compose(flags) => crate::compose::dispatch(client, *flags).await,
        Verb::Container(verb) => container::dispatch(client, verb).await,
        Verb::Build(flags) => build::build(client, *flags).await,
        Verb::Builder(verb) => build::dispatch(client, verb).await,
        Verb::Pull(flags) => registry::pull(client, &flags).await,
        Verb::Push(flags) => registry::push(client, &flags).await,
        Verb::Login(flags) => login::login(client, &flags).await,
        Verb::Logout(flags) => login::logout(&flags),
        Verb::Images(flags) => image::list(client, &flags).await,
        Verb::History(flags) => image::history(client, &flags).await,
        Verb::Import(flags) => image::import(client, flags).await,
        Verb::Load(flags) => image::load(client, &flags).await,
        Verb::Save(flags) => image::save(client, &flags).await,
        Verb::Search(flags) => registry::search(client, &flags).await,
        Verb::Rmi(flags) => image::remove(client, &flags).await,
        Verb::Tag(flags) => image::tag(client, &flags).await,
        Verb::Image(verb) => image::dispatch(client, verb).await,
        Verb::Network(verb) => network::networks(client, verb).await,
        Verb::Volume(verb) => network::volumes(client, verb).await,
        Verb::Swarm(verb) => swarm::dispatch(client, verb).await,
        Verb::Node(verb) => node::dispatch(client, verb).await,
        Verb::Service(verb) => service::dispatch(client, verb).await,
        Verb::Stack(verb) => stack::dispatch(client, verb).await,
        Verb::Secret(verb) => secret::secrets(client, verb).await,
        Verb::Config(verb) => secret::configs(client, verb).await,
        Verb::System(verb) => system::dispatch(client, verb).await,
        Verb::Version(flags) => system::version(client, &flags.format).await,
        Verb::Info(flags) => system::info(client, &flags.format).await,
        Verb::Events(flags) => system::events(client, &flags).await,
        Verb::Inspect(flags) => system::inspect(client, &flags).await,
        Verb::Completion(flags) => {
            manual::completion(flags.shell);
            Ok(())
        }
        Verb::Man(flags) => manual::man(&flags.folder),
    }
}

/// Does one thing per name, goes on after a failure, and fails at the end if any did.
pub(crate) async fn for_each<'a, F, Fut>(names: &'a [String], mut action: F) -> Outcome
where
    F: FnMut(&'a str) -> Fut,
    Fut: Future<Output = Outcome<Option<String>>>,
{
    let mut failed = false;
    for name in names {
        match action(name).await {
            Ok(Some(line)) => println!("{line}"),
            Ok(None) => {}
            Err(failure) => {
                eprintln!("{failure}");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::Code(1)) } else { Ok(()) }
}

/// `inspect` of one kind: prints what was found, then fails if any was missing.
pub(crate) async fn inspect_kind(client: &Client, names: &[String], format: &str, path: &str) -> Outcome {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        let name = crate::client::segment(name);
        match client.get_raw(&path.replace("{}", &name)).await {
            Ok(bytes) => found.push(bytes),
            Err(failure @ Failure::Api(_)) => missing.push(failure),
            Err(failure) => return Err(failure),
        }
    }
    if !found.is_empty() || format.is_empty() {
        crate::format::inspect(&found, format)?;
    }
    for failure in &missing {
        eprintln!("{failure}");
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::Code(1)) }
}

/// Asks before something is destroyed; `force` answers yes.
pub(crate) fn confirm(force: bool, warning: &str) -> bool {
    if force {
        return true;
    }
    print!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    let read = std::io::Write::flush(&mut std::io::stdout()).and_then(|()| std::io::stdin().read_line(&mut answer));
    read.is_ok() && answer.trim().eq_ignore_ascii_case("y")
}
