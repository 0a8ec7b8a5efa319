//! Does what a plan says: networks, volumes and containers.

use super::body::{self, Origin, Purpose};
use super::plan::{Step, TEMPORARY_ID_LETTERS};
use super::seen::Seen;
use super::{Context, labels, say, stop_query};
use crate::client::{Payload, query, segment};
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::{Context as _, anyhow};
use futures_util::future::try_join_all;
use hyper::Method;
use serde_json::Value;
use skep_compose::{LocalService, PlacedFile};
use std::io::Cursor;

/// Networks that services use and that are not there.
///
/// # Errors
/// An external one is missing, or the daemon's refusal.
pub(super) async fn networks(context: &Context<'_>) -> Outcome {
    let present = context.client.get("/networks").await?;
    for network in &context.files()?.local.networks {
        let found = present.as_array().into_iter().flatten().find(|one| one["Name"] == network.name.as_str());
        match (&network.body, found) {
            (None, Some(_)) => {}
            // Those are known by names that are no objects' names.
            (None, None) if matches!(network.name.as_str(), "host" | "none" | "bridge") => {}
            (None, None) => {
                let text = format!("network {} declared as external, but could not be found", network.name);
                return Err(anyhow!("{text}").into());
            }
            (Some(_), Some(found)) => warn_of_stranger("network", &network.name, found, context.name()),
            (Some(body), None) => {
                say("Network", &network.name, "Creating");
                let mut body = body.clone();
                body["Name"] = network.name.clone().into();
                body["CheckDuplicate"] = true.into();
                labels::add(&mut body, &owned(context, labels::NETWORK, &network.key));
                let made = context.client.post("/networks/create", body).await;
                explain(made, || format!("failed to create network {}", network.name))?;
                say("Network", &network.name, "Created");
            }
        }
    }
    Ok(())
}

/// Volumes that services use and that are not there.
///
/// # Errors
/// An external one is missing, or the daemon's refusal.
pub(super) async fn volumes(context: &Context<'_>) -> Outcome {
    let present = context.client.get("/volumes").await?;
    for volume in &context.files()?.local.volumes {
        let all = present["Volumes"].as_array().into_iter().flatten();
        let found = all.into_iter().find(|one| one["Name"] == volume.name.as_str());
        match (&volume.body, found) {
            (None, Some(_)) => {}
            (None, None) => return Err(anyhow!("external volume \"{}\" not found", volume.name).into()),
            (Some(_), Some(found)) => warn_of_stranger("volume", &volume.name, found, context.name()),
            (Some(body), None) => {
                say("Volume", &format!("\"{}\"", volume.name), "Creating");
                let mut body = body.clone();
                labels::add(&mut body, &owned(context, labels::VOLUME, &volume.key));
                let made = context.client.post("/volumes/create", body).await;
                explain(made, || format!("failed to create volume {}", volume.name))?;
                say("Volume", &format!("\"{}\"", volume.name), "Created");
            }
        }
    }
    Ok(())
}

fn owned(context: &Context<'_>, kind: &'static str, key: &str) -> [(&'static str, String); 3] {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    [(labels::PROJECT, context.name().to_owned()), (kind, key.to_owned()), (labels::VERSION, version)]
}

fn warn_of_stranger(kind: &str, name: &str, found: &Value, project: &str) {
    let owner = text(&found["Labels"][labels::PROJECT]);
    if owner.is_empty() {
        eprintln!(
            "WARNING: {kind} \"{name}\" was not created by compose. Use `external: true` to use an existing {kind}"
        );
    } else if owner != project {
        eprintln!("WARNING: {kind} \"{name}\" was created for project \"{owner}\", not for \"{project}\"");
    }
}

/// What all containers of the project are told.
///
/// # Errors
/// The project's files are not known.
pub(super) fn origin(context: &Context<'_>) -> anyhow::Result<Origin> {
    let files = context.files()?;
    Ok(Origin {
        project: context.name().to_owned(),
        folder: files.folder.to_string_lossy().into_owned(),
        files: files.paths.join(","),
        variables: files.variables.join(","),
    })
}

/// How the steps of a service are done.
pub(super) struct Manner<'a> {
    pub(super) service: &'a LocalService,
    pub(super) image_id: &'a str,
    pub(super) renew_volumes: bool,
    pub(super) timeout: Option<i64>,
}

/// # Errors
/// The first step that failed.
pub(super) async fn steps(context: &Context<'_>, manner: &Manner<'_>, steps: &[Step], seen: &[Seen]) -> Outcome {
    for step in steps {
        if let Step::Rename { id, from, to } = step {
            rename(context.client, id, to).await?;
            say("Container", from, &format!("Renamed to {to}"));
        }
    }
    try_join_all(steps.iter().map(|step| one(context, manner, step, seen))).await.map(drop)
}

async fn one(context: &Context<'_>, manner: &Manner<'_>, step: &Step, seen: &[Seen]) -> Outcome {
    match step {
        Step::Rename { .. } => Ok(()),
        Step::Remove { id, name, runs } => {
            if *runs {
                stop(context.client, id, name, manner.timeout).await?;
            }
            remove(context.client, id, name, false).await
        }
        Step::Create { number, name, .. } => {
            say("Container", name, "Creating");
            let body = container(context, manner, *number, seen)?;
            create(context.client, name, body, manner.service).await?;
            say("Container", name, "Created");
            Ok(())
        }
        Step::Replace { number, name, old, old_name, .. } => {
            say("Container", old_name, "Recreate");
            let mut body = container(context, manner, *number, seen)?;
            if !manner.renew_volumes {
                body::inherit(&mut body, &context.client.get(&format!("/containers/{old}/json")).await?);
            }
            let short: String = old.chars().take(TEMPORARY_ID_LETTERS).collect();
            let id = create(context.client, &format!("{short}_{name}"), body, manner.service).await?;
            context.client.post(&format!("/containers/{old}/stop{}", stop_query(manner.timeout)), Value::Null).await?;
            let volumes = query(&[("v", if manner.renew_volumes { "1" } else { "" })]);
            context.client.delete(&format!("/containers/{old}{volumes}")).await?;
            rename(context.client, &id, name).await?;
            say("Container", name, "Recreated");
            Ok(())
        }
    }
}

fn container(context: &Context<'_>, manner: &Manner<'_>, number: u64, seen: &[Seen]) -> anyhow::Result<Value> {
    body::build(manner.service, &origin(context)?, Purpose::Number(number), manner.image_id, seen)
}

/// Makes a container with its files in it; one that lacks them is not left behind.
///
/// # Errors
/// The daemon's refusal.
pub(super) async fn create(client: &Client, name: &str, body: Value, service: &LocalService) -> Outcome<String> {
    let path = format!("/containers/create{}", query(&[("name", name), ("platform", &service.platform)]));
    let created = explain(client.post(&path, body).await, || format!("failed to create container {name}"))?;
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("WARNING: {warning}");
    }
    let id = created["Id"].as_str().context("the daemon gave no container id")?.to_owned();
    if let Err(failure) = place(client, &id, &service.files).await {
        client.delete(&format!("/containers/{id}?v=1&force=1")).await?;
        return Err(failure);
    }
    Ok(id)
}

async fn place(client: &Client, id: &str, files: &[PlacedFile]) -> Outcome {
    if files.is_empty() {
        return Ok(());
    }
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(file.user);
        header.set_gid(file.group);
        archive.append_data(&mut header, file.path.trim_start_matches('/'), file.content.as_slice())?;
    }
    let reader = Box::new(Cursor::new(archive.into_inner()?));
    let payload = Payload::Stream { reader, content_type: "application/x-tar" };
    client.send(Method::PUT, &format!("/containers/{id}/archive?path=%2F"), &[], payload).await.map(drop)
}

async fn rename(client: &Client, id: &str, name: &str) -> Outcome {
    client.post(&format!("/containers/{id}/rename{}", query(&[("name", name)])), Value::Null).await.map(drop)
}

/// # Errors
/// The daemon's refusal; one that is gone already is none.
pub(super) async fn stop(client: &Client, id: &str, name: &str, timeout: Option<i64>) -> Outcome {
    say("Container", name, "Stopping");
    absent_is_fine(
        client.post(&format!("/containers/{}/stop{}", segment(id), stop_query(timeout)), Value::Null).await,
    )?;
    say("Container", name, "Stopped");
    Ok(())
}

/// # Errors
/// The daemon's refusal; one that is gone already is none.
pub(super) async fn remove(client: &Client, id: &str, name: &str, volumes: bool) -> Outcome {
    say("Container", name, "Removing");
    let options = query(&[("v", if volumes { "1" } else { "" }), ("force", "1")]);
    absent_is_fine(client.delete(&format!("/containers/{}{options}", segment(id))).await)?;
    say("Container", name, "Removed");
    Ok(())
}

fn absent_is_fine(result: Outcome<Value>) -> Outcome {
    match result {
        Err(Failure::Api(error)) if error.status == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// Says what was being done when the daemon refused.
pub(super) fn explain<T>(result: Outcome<T>, doing: impl FnOnce() -> String) -> Outcome<T> {
    result.map_err(|failure| match failure {
        Failure::Api(error) => Failure::Other(anyhow::Error::from(error).context(doing())),
        other => other,
    })
}
