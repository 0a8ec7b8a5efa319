//! Verbs that change the state of containers that are there.

use super::seen::Seen;
use super::{Context, body, down, make, order, say, stop_query};
use crate::client::query;
use crate::cmd::confirm;
use crate::flags::compose::{Kill, Restart, Rm, Stop};
use crate::format::text;
use crate::{Failure, Outcome};
use anyhow::anyhow;
use futures_util::future::{select_all, try_join_all};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) async fn stop(context: &Context<'_>, flags: &Stop) -> Outcome {
    let containers = context.chosen(&flags.services).await?;
    stop_all(context, &containers, flags.timeout).await
}

/// Stops containers, those of dependents first.
pub(super) async fn stop_all(context: &Context<'_>, containers: &[Seen], timeout: Option<i64>) -> Outcome {
    for wave in order::last_first(&down::needs(context, containers), containers) {
        let running = wave.into_iter().filter(|one| one.runs());
        try_join_all(running.map(|one| make::stop(context.client, &one.id, &one.name, timeout))).await?;
    }
    Ok(())
}

/// Stops and removes containers, those of dependents first.
pub(super) async fn stop_and_remove(
    context: &Context<'_>,
    containers: &[Seen],
    timeout: Option<i64>,
    volumes: bool,
) -> Outcome {
    for wave in order::last_first(&down::needs(context, containers), containers) {
        try_join_all(wave.into_iter().map(|one| async move {
            if one.runs() {
                make::stop(context.client, &one.id, &one.name, timeout).await?;
            }
            make::remove(context.client, &one.id, &one.name, volumes).await?;
            if volumes { remove_anonymous(context, one).await } else { Ok(()) }
        }))
        .await?;
    }
    Ok(())
}

/// Volumes that nobody named go with the container that has them, also when it took them over
/// from the one before, which made them named ones for the daemon.
async fn remove_anonymous(context: &Context<'_>, one: &Seen) -> Outcome {
    for mount in one.row["Mounts"].as_array().into_iter().flatten() {
        let name = text(&mount["Name"]);
        if mount["Type"] != "volume" || !body::is_anonymous(&name) {
            continue;
        }
        match context.client.delete(&format!("/volumes/{name}")).await {
            // Gone with the container, or in use by another.
            Err(Failure::Api(error)) if matches!(error.status, 404 | 409) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

pub(super) async fn restart(context: &Context<'_>, flags: &Restart) -> Outcome {
    let mut named = flags.services.clone();
    if !named.is_empty() && !flags.no_deps {
        // Dependents that asked for it restart as well.
        let follows = |key: &str| {
            let all = context.services().iter();
            let wishes = all.filter(|one| one.depends_on.iter().any(|wish| wish.restart && wish.service == key));
            wishes.map(|one| one.key.clone()).collect::<Vec<_>>()
        };
        let more: BTreeSet<String> = named.iter().flat_map(|key| follows(key)).collect();
        named.extend(more.into_iter().filter(|key| !flags.services.contains(key)));
    }
    let containers = context.chosen(&named).await?;
    let mut waves = order::last_first(&down::needs(context, &containers), &containers);
    waves.reverse();
    for wave in waves {
        try_join_all(wave.into_iter().map(|one| async move {
            say("Container", &one.name, "Restarting");
            let path = format!("/containers/{}/restart{}", one.id, stop_query(flags.timeout));
            context.client.post(&path, Value::Null).await?;
            say("Container", &one.name, "Started");
            Ok::<(), Failure>(())
        }))
        .await?;
    }
    Ok(())
}

pub(super) async fn kill(context: &Context<'_>, flags: &Kill) -> Outcome {
    let mut containers = context.chosen(&flags.services).await?;
    if flags.remove_orphans {
        let orphans = super::plan::orphans(&context.known(), &context.seen().await?);
        stop_and_remove(context, &orphans, Some(0), false).await?;
    }
    containers.retain(Seen::runs);
    if containers.is_empty() {
        return Err(anyhow!("no container to kill").into());
    }
    try_join_all(containers.iter().map(|one| async move {
        say("Container", &one.name, "Killing");
        let path = format!("/containers/{}/kill{}", one.id, query(&[("signal", &flags.signal)]));
        context.client.post(&path, Value::Null).await?;
        say("Container", &one.name, "Killed");
        Ok::<(), Failure>(())
    }))
    .await
    .map(drop)
}

/// A verb without options for every running container.
pub(super) async fn each(context: &Context<'_>, named: &[String], verb: &str, words: [&str; 2]) -> Outcome {
    let containers = context.chosen(named).await?;
    try_join_all(containers.iter().filter(|one| one.runs()).map(|one| async move {
        say("Container", &one.name, words[0]);
        context.client.post(&format!("/containers/{}/{verb}", one.id), Value::Null).await?;
        say("Container", &one.name, words[1]);
        Ok::<(), Failure>(())
    }))
    .await
    .map(drop)
}

pub(super) async fn remove(context: &Context<'_>, flags: &Rm) -> Outcome {
    let mut containers = context.chosen(&flags.services).await?;
    if flags.stop {
        stop_all(context, &containers, None).await?;
    } else {
        containers.retain(|one| !one.runs());
    }
    if containers.is_empty() {
        eprintln!("No stopped containers");
        return Ok(());
    }
    let names: Vec<&str> = containers.iter().map(|one| one.name.as_str()).collect();
    if !confirm(flags.force, &format!("This will remove {}.", names.join(", "))) {
        return Ok(());
    }
    let all = containers.iter().map(|one| make::remove(context.client, &one.id, &one.name, flags.volumes));
    try_join_all(all).await.map(drop)
}

/// Ends with the code of the first container that stops.
pub(super) async fn wait(context: &Context<'_>, named: &[String]) -> Outcome {
    if named.is_empty() {
        return Err(anyhow!("\"skep compose wait\" needs a service").into());
    }
    let containers = context.chosen(named).await?;
    if containers.is_empty() {
        return Err(anyhow!("no containers for project \"{}\"", context.name()).into());
    }
    let waits = containers.iter().map(|one| {
        Box::pin(async move {
            let answer = context.client.post(&format!("/containers/{}/wait", one.id), Value::Null).await?;
            Ok::<_, Failure>((one.name.clone(), answer["StatusCode"].as_i64().unwrap_or(0)))
        })
    });
    let (name, code) = select_all(waits).await.0?;
    println!("container \"{name}\" exited with status code {code}");
    if code == 0 { Ok(()) } else { Err(Failure::Code(i32::try_from(code).unwrap_or(1))) }
}
