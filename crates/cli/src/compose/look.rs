//! Verbs that look: ps, images, top, port, events, stats, ls; and cp, which only looks
//! containers up.

use super::seen::Seen;
use super::{Context, labels};
use crate::client::{query, segment};
use crate::cmd::{container, container_tune, copy, system};
use crate::flags::compose::{Cp, Events, Images, Ls, Port, Ps, Stats};
use crate::flags::{
    container as container_flags, container_files, container_tune as tune_flags, system as system_flags,
};
use crate::format::{Listing, table, text};
use crate::{Client, Outcome, human};
use anyhow::anyhow;
use chrono::Utc;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Letters of a command in a table.
const COMMAND_LETTERS: usize = 20;

pub(super) async fn ps(context: &Context<'_>, flags: &Ps) -> Outcome {
    let mut wanted = flags.status.clone();
    if let Some(filter) = &flags.filter {
        match filter.split_once('=') {
            Some(("status", state)) => wanted.push(state.to_owned()),
            _ => return Err(anyhow!("unknown filter {filter}: only status=STATE").into()),
        }
    }
    let mut containers = context.chosen(&flags.names).await?;
    if flags.all {
        let ours = |one: &Seen| one.one_off && (flags.names.is_empty() || flags.names.contains(&one.service));
        containers.extend(context.seen().await?.into_iter().filter(ours));
    }
    containers.retain(|one| match wanted.as_slice() {
        [] => flags.all || one.runs(),
        wanted => wanted.contains(&one.state),
    });
    if flags.services {
        let keys: BTreeSet<&String> = containers.iter().map(|one| &one.service).collect();
        for key in keys {
            println!("{key}");
        }
        return Ok(());
    }
    let rows = containers.iter().map(|one| row(context.name(), one, flags.no_trunc)).collect();
    let columns = [
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("Service", "SERVICE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
    ];
    let id = if flags.quiet { "FullID" } else { "ID" };
    Listing { columns: &columns, rows, id }.print(&flags.format, flags.quiet)
}

fn row(project: &str, one: &Seen, whole: bool) -> Value {
    let command = text(&one.row["Command"]);
    let status = text(&one.row["Status"]);
    let health = ["healthy", "unhealthy", "starting"]
        .into_iter()
        .find(|word| status.ends_with(&format!("({word})")) || status.ends_with(&format!("(health: {word})")));
    let code = status.strip_prefix("Exited (").and_then(|rest| rest.split(')').next()?.parse::<i64>().ok());
    let publishers: Vec<Value> = one.row["Ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            json!({"URL": text(&port["IP"]), "TargetPort": port["PrivatePort"], "Protocol": port["Type"],
                "PublishedPort": port["PublicPort"].as_u64().unwrap_or(0)})
        })
        .collect();
    json!({
        "ID": if whole { one.id.clone() } else { human::short_id(&one.id) },
        "FullID": one.id,
        "Name": one.name,
        "Image": one.row["Image"],
        "Command": format!("\"{}\"", if whole { command } else { human::ellipsis(&command, COMMAND_LETTERS) }),
        "Project": project,
        "Service": one.service,
        "Created": one.row["Created"],
        "RunningFor": human::ago_seconds(one.row["Created"].as_i64().unwrap_or(0), Utc::now()),
        "State": one.state,
        "Status": status,
        "Health": health.unwrap_or_default(),
        "ExitCode": code.unwrap_or(0),
        "Ports": container::ports(&one.row["Ports"]),
        "Publishers": publishers,
    })
}

pub(super) async fn images(context: &Context<'_>, flags: &Images) -> Outcome {
    let containers = context.chosen(&flags.services).await?;
    let mut rows = Vec::new();
    let mut ids = BTreeSet::new();
    for one in &containers {
        let image = context.client.get(&format!("/images/{}/json", segment(&one.image_id))).await?;
        let named = image["RepoTags"].as_array().into_iter().flatten().map(text).next().unwrap_or_default();
        let (repository, tag) = named.rsplit_once(':').unwrap_or(("<none>", "<none>"));
        ids.insert(human::short_id(&one.image_id));
        rows.push(json!({
            "ContainerName": one.name,
            "Repository": repository,
            "Tag": tag,
            "ID": human::short_id(&one.image_id),
            "Size": human::size(image["Size"].as_f64().unwrap_or(0.0)),
        }));
    }
    if flags.quiet {
        for id in ids {
            println!("{id}");
        }
        return Ok(());
    }
    let columns = [
        ("ContainerName", "CONTAINER"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("Size", "SIZE"),
    ];
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.format, false)
}

pub(super) async fn top(context: &Context<'_>, named: &[String]) -> Outcome {
    let containers = context.chosen(named).await?;
    for one in containers.iter().filter(|one| one.runs()) {
        let answer = context.client.get(&format!("/containers/{}/top", one.id)).await?;
        let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = answer["Processes"].as_array().into_iter().flatten().map(words).collect();
        println!("{}\n{}", one.name, table(&words(&answer["Titles"]), &rows));
    }
    Ok(())
}

pub(super) async fn port(context: &Context<'_>, flags: &Port) -> Outcome {
    if !matches!(flags.protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(anyhow!("--protocol \"{}\" is not known: tcp or udp", flags.protocol).into());
    }
    let one = context.one(&flags.service, flags.index).await?;
    let port = Some(format!("{}/{}", flags.private_port, flags.protocol));
    container::port(context.client, &container_flags::Port { container: one.name, port }).await
}

pub(super) async fn events(context: &Context<'_>, flags: Events) -> Outcome {
    let mut filter = vec!["type=container".to_owned(), format!("label={}={}", labels::PROJECT, context.name())];
    if let [only] = flags.services.as_slice() {
        filter.push(format!("label={}={only}", labels::SERVICE));
    } else if !flags.services.is_empty() {
        return Err(anyhow!("events of one service or of all, not of several").into());
    }
    let format = if flags.json { "json".to_owned() } else { String::new() };
    let flags = system_flags::Events { filter, format, since: flags.since, until: flags.until };
    system::events(context.client, &flags).await
}

pub(super) async fn stats(context: &Context<'_>, flags: Stats) -> Outcome {
    let containers = context.chosen(&flags.services).await?;
    let running: Vec<String> = containers.into_iter().filter(Seen::runs).map(|one| one.name).collect();
    if running.is_empty() {
        return Err(anyhow!("no running containers for project \"{}\"", context.name()).into());
    }
    let flags = tune_flags::Stats {
        all: false,
        format: flags.format,
        no_stream: flags.no_stream,
        no_trunc: flags.no_trunc,
        containers: running,
    };
    container_tune::stats(context.client, &flags).await
}

pub(super) async fn copy(context: &Context<'_>, flags: Cp) -> Outcome {
    let resolve = async |place: &str| match place.split_once(':') {
        Some((service, path)) if !service.contains('/') && !service.starts_with('.') => {
            let one = context.one(service, flags.index).await?;
            Ok::<String, crate::Failure>(format!("{}:{path}", one.id))
        }
        _ => Ok(place.to_owned()),
    };
    let source = resolve(&flags.source).await?;
    let destination = resolve(&flags.destination).await?;
    let flags = container_files::Cp {
        archive: flags.archive,
        follow_link: flags.follow_link,
        quiet: true,
        source,
        destination,
    };
    copy::cp(context.client, &flags).await
}

/// All projects that have containers.
pub(super) async fn projects(client: &Client, flags: &Ls) -> Outcome {
    let filters = json!({"label": [labels::PROJECT]}).to_string();
    let answer = client.get(&format!("/containers/json{}", query(&[("all", "1"), ("filters", &filters)]))).await?;
    let rows = project_rows(&answer, flags.all);
    let columns = [("Name", "NAME"), ("Status", "STATUS"), ("ConfigFiles", "CONFIG FILES")];
    Listing { columns: &columns, rows, id: "Name" }.print(&flags.format, flags.quiet)
}

fn project_rows(answer: &Value, all: bool) -> Vec<Value> {
    let mut projects: BTreeMap<String, (BTreeMap<String, usize>, String)> = BTreeMap::new();
    for container in answer.as_array().into_iter().flatten() {
        let label = |name: &str| text(&container["Labels"][name]);
        if label(labels::ONE_OFF).eq_ignore_ascii_case("true") {
            continue;
        }
        let (states, files) = projects.entry(label(labels::PROJECT)).or_default();
        *states.entry(text(&container["State"])).or_default() += 1;
        if files.is_empty() {
            *files = label(labels::CONFIG_FILES);
        }
    }
    let shown = projects.into_iter().filter(|(_, (states, _))| all || states.contains_key("running"));
    shown
        .map(|(name, (states, files))| {
            let states: Vec<String> = states.iter().map(|(state, count)| format!("{state}({count})")).collect();
            json!({"Name": name, "Status": states.join(", "), "ConfigFiles": files})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_counted_by_state() {
        let one = |project: &str, state: &str, one_off: &str| json!({"State": state, "Labels": {labels::PROJECT: project, labels::ONE_OFF: one_off, labels::CONFIG_FILES: "/c"}});
        let answer = json!([
            one("a", "running", "False"),
            one("a", "exited", "False"),
            one("b", "exited", "False"),
            one("a", "running", "True")
        ]);
        let rows = project_rows(&answer, false);
        assert_eq!(rows, [json!({"Name": "a", "Status": "exited(1), running(1)", "ConfigFiles": "/c"})]);
        assert_eq!(project_rows(&answer, true).len(), 2);
    }

    #[test]
    fn rows_tell_health_and_exit_codes() {
        let seen = |status: &str| Seen { row: json!({ "Status": status }), ..Seen::default() };
        let check = |status: &str, health: &str, code: i64| {
            let row = row("p", &seen(status), false);
            assert_eq!((&row["Health"], &row["ExitCode"]), (&json!(health), &json!(code)), "{status}");
        };
        check("Up 2 seconds (healthy)", "healthy", 0);
        check("Up 2 seconds (health: starting)", "starting", 0);
        check("Up 2 seconds (unhealthy)", "unhealthy", 0);
        check("Exited (3) 1 second ago", "", 3);
    }
}
