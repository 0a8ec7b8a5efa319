//! `up`, `create`, `scale` and `start`: makes a project as its files say.

use super::make::{self, Manner};
use super::plan::{self, Recreate, Wish};
use super::seen::Seen;
use super::{Context, images, labels, logs, order, say, states, waiting};
use crate::flags::compose::{Create, Making, Scale, Up};
use crate::{Failure, Outcome};
use anyhow::anyhow;
use futures_util::future::try_join_all;
use serde_json::Value;
use skep_compose::{Condition, Dependency, LocalService};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How a project is brought about.
#[derive(Default)]
pub(super) struct Options {
    pub(super) named: Vec<String>,
    pub(super) no_deps: bool,
    /// Replace dependencies too where `making` says to replace all.
    pub(super) recreate_deps: bool,
    pub(super) renew_volumes: bool,
    pub(super) timeout: Option<i64>,
    pub(super) making: Making,
}

pub(super) async fn up(context: &Context<'_>, flags: Up) -> Outcome {
    let begin = chrono::Utc::now();
    let options = Options {
        named: flags.services.clone(),
        no_deps: flags.no_deps,
        recreate_deps: flags.always_recreate_deps,
        renew_volumes: flags.renew_anon_volumes,
        timeout: flags.timeout,
        making: flags.making,
    };
    if let Some(key) = &flags.exit_code_from
        && context.service(key).is_none()
    {
        return Err(anyhow!("no such service: {key}").into());
    }
    let chosen = bring_about(context, &options).await?;
    if flags.no_start {
        return Ok(());
    }
    start_services(context, &chosen, !flags.no_deps).await?;
    if flags.wait {
        let until = flags.wait_timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let containers = containers_of(context, &chosen).await?;
        let all = containers.iter().map(|one| waiting::container(context.client, one, goal(context, one), until));
        return try_join_all(all).await.map(drop);
    }
    if flags.detach {
        return Ok(());
    }
    let shown = |one: &Seen| {
        let wanted = flags.attach.is_empty() || flags.attach.contains(&one.service);
        wanted
            && !flags.no_attach.contains(&one.service)
            && context.service(&one.service).is_none_or(|service| service.attach)
    };
    let containers = containers_of(context, &chosen).await?;
    let watch = logs::Watch {
        since: format!("{}.{:09}", begin.timestamp(), begin.timestamp_subsec_nanos()),
        timestamps: flags.timestamps,
        prefix: !flags.no_log_prefix,
        color: !flags.no_color,
        shown: containers.iter().filter(|one| shown(one)).map(|one| one.id.clone()).collect(),
        first_end: flags.abort_on_container_exit || flags.exit_code_from.is_some(),
        exit_code_from: flags.exit_code_from,
        timeout: flags.timeout,
    };
    logs::watch(context, &containers, &watch).await
}

/// What `--wait` waits for: of a service whose end others wait for, its end.
fn goal(context: &Context<'_>, one: &Seen) -> waiting::Goal {
    let ends = |wish: &Dependency| wish.service == one.service && wish.condition == Condition::Completed;
    let awaited = context.services().iter().any(|service| service.depends_on.iter().any(ends));
    if awaited { waiting::Goal::Completed } else { waiting::Goal::Ready }
}

pub(super) async fn create(context: &Context<'_>, flags: Create) -> Outcome {
    let options = Options { named: flags.services, making: flags.making, ..Options::default() };
    bring_about(context, &options).await.map(drop)
}

pub(super) async fn scale(context: &Context<'_>, flags: Scale) -> Outcome {
    let named: Vec<String> = plan::scales(&flags.numbers)?.into_keys().collect();
    let making = Making { scale: flags.numbers, ..Making::default() };
    let options = Options { named, no_deps: flags.no_deps, making, ..Options::default() };
    let chosen = bring_about(context, &options).await?;
    start_services(context, &chosen, !flags.no_deps).await
}

/// Starts what is there and does not run.
pub(super) async fn start(context: &Context<'_>, named: &[String]) -> Outcome {
    let containers = context.chosen(named).await?;
    let without = named.iter().find(|name| !containers.iter().any(|one| one.service == **name));
    if let Some(name) = without {
        return Err(anyhow!("service \"{name}\" has no container to start").into());
    }
    let keys: BTreeSet<String> = containers.iter().map(|one| one.service.clone()).collect();
    start_services(context, &keys, true).await
}

async fn containers_of(context: &Context<'_>, chosen: &BTreeSet<String>) -> Outcome<Vec<Seen>> {
    let seen = context.seen().await?;
    Ok(seen.into_iter().filter(|one| !one.one_off && chosen.contains(&one.service)).collect())
}

/// Makes networks, volumes, images and containers; starts nothing. Gives the keys of the
/// services that were meant.
///
/// # Errors
/// What failed first; what was made before stays.
pub(super) async fn bring_about(context: &Context<'_>, options: &Options) -> Outcome<BTreeSet<String>> {
    let files = context.files()?;
    let chosen = order::select(&files.local.services, &options.named, !options.no_deps)?;
    let scales = plan::scales(&options.making.scale)?;
    if let Some(unknown) = scales.keys().find(|key| context.service(key).is_none()) {
        return Err(anyhow!("no such service: {unknown}").into());
    }
    let services: Vec<&LocalService> = context.services().iter().filter(|one| chosen.contains(&one.key)).collect();
    let image_ids = images::ensure(context, &services, &options.making).await?;
    make::networks(context).await?;
    make::volumes(context).await?;
    let seen = context.seen().await?;
    orphans(context, &seen, options).await?;
    let mut needs = order::needs_of_services(&files.local.services);
    needs.retain(|key, _| chosen.contains(key));
    let mut replaced = BTreeSet::new();
    for wave in order::waves(&needs) {
        // Ids of what was just made may be needed by what follows.
        let seen = context.seen().await?;
        let plans = wave.iter().filter_map(|key| context.service(key)).map(|service| {
            let wish = wish(context, service, options, &image_ids, &scales);
            (service, plan::service(&wish, &seen))
        });
        let plans: Vec<(&LocalService, Vec<plan::Step>)> = plans.collect();
        for (service, steps) in &plans {
            if steps.iter().any(|step| matches!(step, plan::Step::Replace { .. })) {
                replaced.insert(service.key.clone());
            }
        }
        try_join_all(plans.iter().map(|(service, steps)| {
            let image_id = image_ids.get(&service.key).map(String::as_str).unwrap_or_default();
            let renew_volumes = options.renew_volumes;
            let manner = Manner { service, image_id, renew_volumes, timeout: options.timeout };
            let seen = &seen;
            async move { make::steps(context, &manner, steps, seen).await }
        }))
        .await?;
    }
    stop_dependents(context, &chosen, &replaced, options.timeout).await?;
    Ok(chosen)
}

fn wish(
    context: &Context<'_>,
    service: &LocalService,
    options: &Options,
    image_ids: &BTreeMap<String, String>,
    scales: &BTreeMap<String, u64>,
) -> Wish {
    let named = options.named.is_empty() || options.named.contains(&service.key);
    let recreate = match (&options.making, named) {
        (making, true) if making.force_recreate => Recreate::Always,
        (making, _) if making.no_recreate => Recreate::Never,
        (_, false) if options.recreate_deps => Recreate::Always,
        _ => Recreate::Changed,
    };
    Wish {
        project: context.name().to_owned(),
        service: service.key.clone(),
        container_name: service.container_name.clone(),
        hash: labels::hash(service),
        image_id: image_ids.get(&service.key).cloned().unwrap_or_default(),
        scale: scales.get(&service.key).copied().unwrap_or(service.scale),
        recreate,
    }
}

async fn orphans(context: &Context<'_>, seen: &[Seen], options: &Options) -> Outcome {
    let orphans = plan::orphans(&context.known(), seen);
    if orphans.is_empty() {
        return Ok(());
    }
    if options.making.remove_orphans {
        return states::stop_and_remove(context, &orphans, options.timeout, false).await;
    }
    let names: Vec<&str> = orphans.iter().map(|one| one.name.as_str()).collect();
    eprintln!(
        "WARNING: Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
        names.join(" ")
    );
    Ok(())
}

/// What wants to restart with its dependency is stopped when that was replaced; it is started
/// again with everything else.
async fn stop_dependents(
    context: &Context<'_>,
    chosen: &BTreeSet<String>,
    replaced: &BTreeSet<String>,
    timeout: Option<i64>,
) -> Outcome {
    let follows = |wish: &Dependency| wish.restart && replaced.contains(&wish.service);
    let services = context.services().iter().filter(|service| chosen.contains(&service.key));
    let keys: Vec<String> =
        services.filter(|service| service.depends_on.iter().any(follows)).map(|service| service.key.clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let containers = context.chosen(&keys).await?;
    let running = containers.iter().filter(|one| one.runs());
    try_join_all(running.map(|one| make::stop(context.client, &one.id, &one.name, timeout))).await.map(drop)
}

/// Starts services in order, each once what it depends on is as far as it asks.
pub(super) async fn start_services(context: &Context<'_>, chosen: &BTreeSet<String>, wait: bool) -> Outcome {
    let mut needs = order::needs_of_services(context.services());
    if context.loaded.files.is_none() {
        needs = order::needs_of_containers(&context.seen().await?);
    }
    needs.retain(|key, _| chosen.contains(key));
    for wave in order::waves(&needs) {
        try_join_all(wave.iter().map(|key| start_service(context, key, wait))).await?;
    }
    Ok(())
}

async fn start_service(context: &Context<'_>, key: &str, wait: bool) -> Outcome {
    let containers = context.chosen(&[key.to_owned()]).await?;
    if containers.iter().all(Seen::runs) {
        for one in &containers {
            say("Container", &one.name, "Running");
        }
        return Ok(());
    }
    if let Some(service) = context.service(key).filter(|_| wait) {
        waiting::dependencies(context, &service.depends_on).await?;
    }
    try_join_all(containers.iter().filter(|one| !one.runs()).map(|one| async move {
        say("Container", &one.name, "Starting");
        let started = context.client.post(&format!("/containers/{}/start", one.id), Value::Null).await;
        match started {
            Ok(_) => say("Container", &one.name, "Started"),
            Err(failure) => {
                say("Container", &one.name, "Error");
                return Err(failure);
            }
        }
        Ok::<(), Failure>(())
    }))
    .await
    .map(drop)
}
