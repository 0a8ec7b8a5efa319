//! Images of services: built, pulled, pushed.

use super::{Context, order};
use crate::client::segment;
use crate::cmd::{self, registry};
use crate::flags::Skep;
use crate::flags::compose::{Build as BuildFlags, Making, Pull, Push};
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::{Context as _, anyhow};
use clap::Parser;
use skep_compose::{Build, LocalService};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an image needs before containers are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Build,
    Pull,
}

/// Makes sure that the services' images are here; their ids by the services' keys.
///
/// # Errors
/// One that is missing and may not be built or pulled, or that cannot be.
pub(super) async fn ensure(
    context: &Context<'_>,
    services: &[&LocalService],
    making: &Making,
) -> Outcome<BTreeMap<String, String>> {
    let pull = making.pull.as_deref().unwrap_or_default();
    if !matches!(pull, "" | "always" | "missing" | "never" | "build") {
        return Err(anyhow!("invalid --pull option \"{pull}\": always, missing or never").into());
    }
    let mut ids = BTreeMap::new();
    // Several services may share an image, which is fetched once.
    let mut done: BTreeMap<&str, String> = BTreeMap::new();
    for service in services {
        if let Some(id) = done.get(service.image.as_str()).filter(|_| service.build.is_none()) {
            ids.insert(service.key.clone(), id.clone());
            continue;
        }
        let present = id_of(context.client, &service.image).await?;
        match action(service, pull, making, present.is_some()) {
            Action::Nothing => {}
            Action::Build => build_one(context.client, service, &BuildFlags::default()).await?,
            Action::Pull => pull_one(context.client, service, making.quiet_pull).await?,
        }
        let id = match id_of(context.client, &service.image).await? {
            Some(id) => id,
            None => return Err(anyhow!("No such image: {}", registry::with_tag(&service.image)).into()),
        };
        done.insert(&service.image, id.clone());
        ids.insert(service.key.clone(), id);
    }
    Ok(ids)
}

/// Pure: what `up` does about an image.
fn action(service: &LocalService, pull: &str, making: &Making, present: bool) -> Action {
    let policy = if pull.is_empty() { service.pull_policy.as_str() } else { pull };
    let may_build = service.build.is_some() && !making.no_build;
    match policy {
        _ if may_build && (making.build || policy == "build") => Action::Build,
        "always" if service.build.is_none() => Action::Pull,
        _ if present => Action::Nothing,
        // What only a build can make is not looked for in a registry.
        _ if may_build => Action::Build,
        "never" => Action::Nothing,
        _ if service.build.is_some() => Action::Nothing,
        _ => Action::Pull,
    }
}

/// The id of an image that is here.
async fn id_of(client: &Client, image: &str) -> Outcome<Option<String>> {
    match client.get(&format!("/images/{}/json", segment(image))).await {
        Ok(found) => Ok(Some(text(&found["Id"]))),
        Err(Failure::Api(error)) if error.status == 404 => Ok(None),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn build(context: &Context<'_>, flags: &BuildFlags) -> Outcome {
    let files = context.files()?;
    let chosen = order::select(&files.local.services, &flags.services, flags.with_dependencies)?;
    let buildable = |service: &&LocalService| chosen.contains(&service.key) && service.build.is_some();
    let services: Vec<&LocalService> = context.services().iter().filter(buildable).collect();
    if services.is_empty() {
        eprintln!("No services to build");
    }
    for service in &services {
        build_one(context.client, service, flags).await?;
    }
    if flags.push {
        for service in services {
            push_one(context.client, service, flags.quiet).await?;
        }
    }
    Ok(())
}

async fn build_one(client: &Client, service: &LocalService, flags: &BuildFlags) -> Outcome {
    let Some(wish) = &service.build else { return Ok(()) };
    if wish.is_remote {
        let text = "building from an address is not supported yet: clone it and build from the folder";
        return Err(anyhow!("service {}: {text}", service.key).into());
    }
    super::say("Image", &service.image, "Building");
    let copied = Copied::of(wish)?;
    let mut words = words(client, wish, flags);
    if let Some(copied) = &copied {
        words.push(format!("--file={}", copied.path.display()));
    } else if !wish.dockerfile.is_empty() {
        words.push(format!("--file={}", wish.dockerfile));
    }
    words.push(wish.context.clone());
    let built = type_in(words).await;
    built.map_err(|failure| match failure {
        Failure::Code(code) => Failure::Code(code),
        other => Failure::Other(anyhow!("service {}: {other}", service.key)),
    })?;
    super::say("Image", &service.image, "Built");
    Ok(())
}

/// Runs another verb as if it had been typed.
async fn type_in(words: Vec<String>) -> Outcome {
    let parsed = Skep::try_parse_from(words).map_err(|error| anyhow!("{error}"))?;
    Box::pin(cmd::dispatch(parsed)).await
}

/// The build as `skep build` takes it, but for the Dockerfile of the compose file and the context.
fn words(client: &Client, wish: &Build, flags: &BuildFlags) -> Vec<String> {
    let mut words: Vec<String> = vec!["skep".into(), "--host".into(), client.host().into(), "build".into()];
    let mut add = |flag: &str, values: &[String]| {
        for value in values.iter().filter(|value| !value.is_empty()) {
            words.extend([format!("--{flag}={value}")]);
        }
    };
    add("tag", &wish.tags);
    // Of two values of one argument the later counts.
    add("build-arg", &wish.arguments);
    add("build-arg", &flags.build_arg);
    add("label", &wish.labels);
    add("target", std::slice::from_ref(&wish.target));
    add("network", std::slice::from_ref(&wish.network));
    add("add-host", &wish.extra_hosts);
    add("platform", std::slice::from_ref(&wish.platform));
    add("shm-size", &wish.shm_bytes.map(|bytes| bytes.to_string()).into_iter().collect::<Vec<_>>());
    for (flag, on) in
        [("--no-cache", wish.no_cache || flags.no_cache), ("--pull", wish.pull || flags.pull), ("--quiet", flags.quiet)]
    {
        if on {
            words.push(flag.into());
        }
    }
    words
}

/// A Dockerfile that is not in the context: written in the compose file, or elsewhere on disk.
/// While the image is built a copy lies in the context.
struct Copied {
    path: PathBuf,
}

impl Copied {
    fn of(wish: &Build) -> anyhow::Result<Option<Self>> {
        let context = Path::new(&wish.context);
        let text = match &wish.inline {
            Some(text) => text.clone(),
            None if wish.dockerfile.is_empty() || is_inside(Path::new(&wish.dockerfile), context) => return Ok(None),
            None => std::fs::read_to_string(&wish.dockerfile).with_context(|| wish.dockerfile.clone())?,
        };
        let path = context.join(format!(".dockerfile-{}", std::process::id()));
        std::fs::write(&path, text).with_context(|| format!("the Dockerfile must lie in {}", context.display()))?;
        Ok(Some(Self { path }))
    }
}

/// What is not there is left to the build to complain about.
fn is_inside(dockerfile: &Path, context: &Path) -> bool {
    match (dockerfile.canonicalize(), context.canonicalize()) {
        (Ok(dockerfile), Ok(context)) => dockerfile.starts_with(context),
        _ => true,
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // It was ours, and nobody else needs it.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn pull(context: &Context<'_>, flags: &Pull) -> Outcome {
    if !matches!(flags.policy.as_str(), "always" | "missing") {
        return Err(anyhow!("invalid --policy \"{}\": missing or always", flags.policy).into());
    }
    let files = context.files()?;
    let chosen = order::select(&files.local.services, &flags.services, flags.include_deps)?;
    let mut failed = false;
    let mut done = Vec::new();
    for service in context.services().iter().filter(|service| chosen.contains(&service.key)) {
        if done.contains(&&service.image) {
            continue;
        }
        done.push(&service.image);
        let built = service.build.is_some();
        if built && (flags.ignore_buildable || service.image == format!("{}-{}", context.name(), service.key)) {
            super::say("Service", &service.key, "Skipped - No image to be pulled");
            continue;
        }
        if flags.policy == "missing" && id_of(context.client, &service.image).await?.is_some() {
            super::say("Service", &service.key, "Skipped - Image is already present locally");
            continue;
        }
        match pull_one(context.client, service, flags.quiet).await {
            Ok(()) => {}
            Err(failure) if built => {
                super::say("Service", &service.key, "Warning - some service image(s) must be built from source");
                eprintln!("WARNING: {failure}");
            }
            Err(failure) if flags.ignore_pull_failures => {
                eprintln!("WARNING: {failure}");
            }
            Err(failure) => {
                eprintln!("{failure}");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::Code(1)) } else { Ok(()) }
}

async fn pull_one(client: &Client, service: &LocalService, quiet: bool) -> Outcome {
    super::say("Image", &service.image, "Pulling");
    let quiet = quiet || !crate::terminal::output_is_terminal();
    registry::pull_to_stderr(client, &service.image, &service.platform, quiet).await?;
    super::say("Image", &service.image, "Pulled");
    Ok(())
}

pub(super) async fn push(context: &Context<'_>, flags: &Push) -> Outcome {
    let files = context.files()?;
    let chosen = order::select(&files.local.services, &flags.services, flags.include_deps)?;
    for service in context.services().iter().filter(|service| chosen.contains(&service.key)) {
        // Images of others are not ours to push.
        if service.build.is_none() {
            continue;
        }
        match push_one(context.client, service, flags.quiet).await {
            Err(failure) if flags.ignore_push_failures => eprintln!("WARNING: {failure}"),
            other => other?,
        }
    }
    Ok(())
}

async fn push_one(client: &Client, service: &LocalService, quiet: bool) -> Outcome {
    super::say("Image", &service.image, "Pushing");
    let quiet = quiet || !crate::terminal::output_is_terminal();
    let words = ["skep", "--host", client.host(), "push", &service.image].into_iter().chain(quiet.then_some("--quiet"));
    type_in(words.map(str::to_owned).collect()).await?;
    super::say("Image", &service.image, "Pushed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(built: bool, pull_policy: &str) -> LocalService {
        LocalService {
            key: "web".into(),
            image: "web".into(),
            build: built.then(Build::default),
            pull_policy: pull_policy.into(),
            platform: String::new(),
            scale: 1,
            container_name: None,
            body: serde_json::Value::Null,
            depends_on: vec![],
            has_health_check: false,
            files: vec![],
            attach: true,
            definition: String::new(),
        }
    }

    #[test]
    fn what_can_be_built_is_built_and_the_rest_pulled() {
        let check = |built: bool, policy: &str, pull: &str, build: bool, present: bool, expect: Action| {
            let making = Making { build, ..Making::default() };
            assert_eq!(
                action(&service(built, policy), pull, &making, present),
                expect,
                "{built} {policy} {pull} {build} {present}"
            );
        };
        check(true, "", "", false, false, Action::Build);
        check(true, "", "", false, true, Action::Nothing);
        check(true, "", "", true, true, Action::Build);
        check(true, "build", "", false, true, Action::Build);
        check(true, "", "always", false, true, Action::Nothing);
        check(false, "", "", false, false, Action::Pull);
        check(false, "", "", false, true, Action::Nothing);
        check(false, "always", "", false, true, Action::Pull);
        check(false, "", "always", true, true, Action::Pull);
        check(false, "never", "", false, false, Action::Nothing);
        check(false, "always", "never", false, true, Action::Nothing);
    }

    #[test]
    fn a_build_becomes_a_command_line() {
        let wish = Build {
            tags: vec!["shop-web".into()],
            arguments: vec!["A=b c".into()],
            target: "last".into(),
            no_cache: true,
            ..Build::default()
        };
        let flags = BuildFlags { build_arg: vec!["A=d".into()], ..BuildFlags::default() };
        let client = Client::new(Some("unix:///x")).unwrap();
        let found = words(&client, &wish, &flags);
        let expect = [
            "skep",
            "--host",
            "unix:///x",
            "build",
            "--tag=shop-web",
            "--build-arg=A=b c",
            "--build-arg=A=d",
            "--target=last",
            "--no-cache",
        ];
        assert_eq!(found, expect);
        let parsed = Skep::try_parse_from(found.iter().map(String::as_str).chain(["."])).unwrap();
        assert!(matches!(parsed.verb, crate::flags::Verb::Build(_)));
    }
}
