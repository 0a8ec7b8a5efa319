//! `down`: takes a project away, dependents first.

use super::{Context, labels, order, say, states};
use crate::client::{query, segment};
use crate::flags::compose::Down;
use crate::format::text;
use crate::{Failure, Outcome};
use anyhow::anyhow;
use serde_json::{Value, json};

pub(super) async fn down(context: &Context<'_>, flags: &Down) -> Outcome {
    if let Some(which) = flags.rmi.as_deref().filter(|which| !matches!(*which, "all" | "local")) {
        return Err(anyhow!("invalid value for --rmi: \"{which}\": all or local").into());
    }
    let all = context.seen().await?;
    let known = context.known();
    for name in &flags.services {
        if !known.contains(name) && !all.iter().any(|one| one.service == *name) {
            return Err(anyhow!("no such service: {name}").into());
        }
    }
    let ours = |service: &String| match flags.services.as_slice() {
        [] => context.loaded.files.is_none() || flags.remove_orphans || known.contains(service),
        named => named.contains(service),
    };
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| ours(&one.service));
    states::stop_and_remove(context, &gone, flags.timeout, flags.volumes).await?;
    if !flags.services.is_empty() {
        return Ok(());
    }
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|one| one.name.as_str()).collect();
        eprintln!(
            "WARNING: Found orphan containers ([{}]) for this project; --remove-orphans removes them too",
            names.join(" ")
        );
    }
    let networks = remove_labelled(context, "networks").await?;
    let volumes = if flags.volumes { remove_labelled(context, "volumes").await? } else { 0 };
    let images = images(context, flags).await?;
    if gone.is_empty() && networks + volumes + images == 0 {
        eprintln!("Warning: No resource found to remove for project \"{}\".", context.name());
    }
    Ok(())
}

/// Networks or volumes that bear the project's label; how many there were.
async fn remove_labelled(context: &Context<'_>, section: &str) -> Outcome<usize> {
    let filters = json!({"label": [format!("{}={}", labels::PROJECT, context.name())]}).to_string();
    let answer = context.client.get(&format!("/{section}{}", query(&[("filters", &filters)]))).await?;
    let list = if section == "volumes" { &answer["Volumes"] } else { &answer };
    let mut count = 0;
    for object in list.as_array().into_iter().flatten() {
        let name = text(&object["Name"]);
        let kind = if section == "volumes" { "Volume" } else { "Network" };
        say(kind, &name, "Removing");
        let id = if section == "volumes" { name.clone() } else { text(&object["Id"]) };
        count += 1;
        match context.client.delete(&format!("/{section}/{}", segment(&id))).await {
            Ok(_) => say(kind, &name, "Removed"),
            Err(Failure::Api(error)) if error.status == 404 => say(kind, &name, "Removed"),
            // Others that use it have the last word.
            Err(Failure::Api(error)) if matches!(error.status, 403 | 409) => {
                say(kind, &name, "Resource is still in use");
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(count)
}

async fn images(context: &Context<'_>, flags: &Down) -> Outcome<usize> {
    let Some(which) = &flags.rmi else { return Ok(0) };
    let mut count = 0;
    let mut done: Vec<&str> = Vec::new();
    for service in context.services() {
        let own = own_name(context.name(), &service.key) == service.image;
        if (which == "local" && !own) || done.contains(&service.image.as_str()) {
            continue;
        }
        done.push(&service.image);
        match context.client.delete(&format!("/images/{}", segment(&service.image))).await {
            Ok(Value::Array(_)) => {
                say("Image", &service.image, "Removed");
                count += 1;
            }
            Ok(_) => {}
            Err(Failure::Api(error)) if error.status == 404 => {}
            Err(Failure::Api(error)) if error.status == 409 => say("Image", &service.image, "Resource is still in use"),
            Err(failure) => return Err(failure),
        }
    }
    Ok(count)
}

/// The name of an image that the files do not name.
fn own_name(project: &str, key: &str) -> String {
    format!("{project}-{key}")
}

/// What containers depend on, from the files where they are known, from labels otherwise.
pub(super) fn needs(context: &Context<'_>, seen: &[super::Seen]) -> order::Needs {
    let mut needs = order::needs_of_containers(seen);
    for (key, needed) in order::needs_of_services(context.services()) {
        needs.entry(key).or_default().extend(needed);
    }
    needs
}
