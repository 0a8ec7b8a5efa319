//! Verbs on containers that need no attached terminal.

use super::{container_files, container_tune, copy, for_each, inspect_kind, process};
use crate::client::{filters, query, segment};
use crate::flags::container::{Container, Kill, Logs, Port, Ps, Rename, Rm, Stop, Top};
use crate::format::{Listing, table, text};
use crate::{Client, Failure, Outcome, human, stream};
use anyhow::anyhow;
use chrono::Utc;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(crate) async fn dispatch(client: &Client, verb: Container) -> Outcome {
    match verb {
        Container::Attach(flags) => process::attach(client, &flags).await,
        Container::Commit(flags) => container_files::commit(client, &flags).await,
        Container::Cp(flags) => copy::cp(client, &flags).await,
        Container::Diff(flags) => container_files::diff(client, &flags).await,
        Container::Export(flags) => container_files::export(client, &flags).await,
        Container::Stats(flags) => container_tune::stats(client, &flags).await,
        Container::Update(flags) => container_tune::update(client, &flags).await,
        Container::Create(flags) => process::create(client, *flags).await,
        Container::Exec(flags) => process::exec(client, flags).await,
        Container::Inspect(flags) => inspect_kind(client, &flags.names, &flags.format, "/containers/{}/json").await,
        Container::Kill(flags) => kill(client, &flags).await,
        Container::Logs(flags) => logs(client, &flags).await,
        Container::Ls(flags) => list(client, &flags).await,
        Container::Pause(names) => each(client, &names.names, "pause").await,
        Container::Port(flags) => port(client, &flags).await,
        Container::Prune(flags) => {
            super::system::prune_kind(client, "containers", &flags, "This will remove all stopped containers.").await
        }
        Container::Rename(flags) => rename(client, &flags).await,
        Container::Restart(flags) => stop(client, &flags, "restart").await,
        Container::Rm(flags) => remove(client, &flags).await,
        Container::Run(flags) => process::run(client, *flags).await,
        Container::Start(flags) => process::start(client, &flags).await,
        Container::Stop(flags) => stop(client, &flags, "stop").await,
        Container::Top(flags) => top(client, &flags).await,
        Container::Unpause(names) => each(client, &names.names, "unpause").await,
        Container::Wait(names) => wait(client, &names.names).await,
    }
}

const COLUMNS: [(&str, &str); 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];

pub(crate) async fn list(client: &Client, flags: &Ps) -> Outcome {
    let limit = if flags.latest { 1 } else { flags.last.max(0) };
    let path = query(&[
        ("all", if flags.all { "1" } else { "" }),
        ("limit", &if limit > 0 { limit.to_string() } else { String::new() }),
        ("size", if flags.size { "1" } else { "" }),
        ("filters", &filters(&flags.list.filter)?),
    ]);
    let answer = client.get(&format!("/containers/json{path}")).await?;
    let rows = answer.as_array().into_iter().flatten().map(|c| row(c, flags.list.no_trunc)).collect();
    let mut columns = COLUMNS.to_vec();
    if flags.size {
        columns.push(("Size", "SIZE"));
    }
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.list.format, flags.list.quiet)
}

fn row(container: &Value, whole: bool) -> Value {
    let id = text(&container["Id"]);
    let command = text(&container["Command"]);
    let names: Vec<&str> = container["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|n| n.trim_start_matches('/'))
        .collect();
    let join = |value: &Value| {
        let pairs = value.as_object().into_iter().flatten();
        pairs.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
    };
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    let mounts: Vec<String> = mounts
        .map(|m| text(m.get("Name").filter(|n| n.as_str() != Some("")).unwrap_or_else(|| &m["Source"])))
        .collect();
    let networks: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let sizes = (container["SizeRw"].as_f64().unwrap_or(0.0), container["SizeRootFs"].as_f64().unwrap_or(0.0));
    json!({
        "ID": if whole { id } else { human::short_id(&id) },
        "Image": container["Image"],
        "Command": format!("\"{}\"", if whole { command } else { human::ellipsis(&command, 20) }),
        "CreatedAt": container["Created"],
        "RunningFor": human::ago_seconds(container["Created"].as_i64().unwrap_or(0), Utc::now()),
        "Status": container["Status"],
        "State": container["State"],
        "Ports": ports(&container["Ports"]),
        "Names": names.join(","),
        "Labels": join(&container["Labels"]),
        "Mounts": mounts.join(","),
        "LocalVolumes": mounts.len().to_string(),
        "Networks": networks.join(","),
        "Size": format!("{} (virtual {})", human::size(sizes.0), human::size(sizes.1)),
    })
}

/// `0.0.0.0:8080->80/tcp, 81/tcp`
pub(crate) fn ports(list: &Value) -> String {
    let mut shown: Vec<(u64, String)> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let (private, kind) = (port["PrivatePort"].as_u64().unwrap_or(0), text(&port["Type"]));
            let line = match (port["PublicPort"].as_u64(), port["IP"].as_str()) {
                (Some(public), Some(ip)) if ip.contains(':') => format!("[{ip}]:{public}->{private}/{kind}"),
                (Some(public), ip) => format!("{}:{public}->{private}/{kind}", ip.unwrap_or("0.0.0.0")),
                _ => format!("{private}/{kind}"),
            };
            (private, line)
        })
        .collect();
    shown.sort();
    shown.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join(", ")
}

/// A verb without options, for each name.
pub(crate) async fn each(client: &Client, names: &[String], verb: &str) -> Outcome {
    for_each(names, |name| async move {
        client.post(&format!("/containers/{}/{verb}", segment(name)), Value::Null).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

pub(crate) async fn stop(client: &Client, flags: &Stop, verb: &str) -> Outcome {
    let time = flags.time.map(|t| t.to_string()).unwrap_or_default();
    let options = query(&[("t", &time), ("signal", &flags.signal)]);
    let options = &options;
    for_each(&flags.names, |name| async move {
        client.post(&format!("/containers/{}/{verb}{options}", segment(name)), Value::Null).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

pub(crate) async fn kill(client: &Client, flags: &Kill) -> Outcome {
    for_each(&flags.names, |name| async move {
        client
            .post(&format!("/containers/{}/kill{}", segment(name), query(&[("signal", &flags.signal)])), Value::Null)
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

pub(crate) async fn remove(client: &Client, flags: &Rm) -> Outcome {
    if flags.link {
        return Err(anyhow!("--link: legacy links are not supported; use a network of your own").into());
    }
    let one = |on: bool| if on { "1" } else { "" };
    for_each(&flags.names, |name| async move {
        let options = query(&[("force", one(flags.force)), ("v", one(flags.volumes))]);
        match client.delete(&format!("/containers/{}{options}", segment(name))).await {
            // `rm -f` of what is gone already says so and is no failure, as in docker.
            Err(Failure::Api(error)) if flags.force && error.status == 404 => {
                eprintln!("{error}");
                Ok(None)
            }
            other => other.map(|_| Some(name.to_owned())),
        }
    })
    .await
}

pub(crate) async fn rename(client: &Client, flags: &Rename) -> Outcome {
    let path = format!("/containers/{}/rename{}", segment(&flags.container), query(&[("name", &flags.new_name)]));
    client.post(&path, Value::Null).await.map(drop)
}

pub(crate) async fn wait(client: &Client, names: &[String]) -> Outcome {
    for_each(names, |name| async move {
        let answer = client.post(&format!("/containers/{}/wait", segment(name)), Value::Null).await?;
        Ok(Some(answer["StatusCode"].to_string()))
    })
    .await
}

pub(crate) async fn logs(client: &Client, flags: &Logs) -> Outcome {
    let seen = client.get(&format!("/containers/{}/json", segment(&flags.container))).await?;
    let now = Utc::now();
    let one = |on: bool| if on { "1" } else { "" };
    let options = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", one(flags.follow)),
        ("timestamps", one(flags.timestamps)),
        ("details", one(flags.details)),
        ("tail", &flags.tail),
        ("since", &super::system::point_in_time(&flags.since, now)?),
        ("until", &super::system::point_in_time(&flags.until, now)?),
    ]);
    let answer =
        stream::get_stream(client, &format!("/containers/{}/logs{options}", segment(&flags.container))).await?;
    let multiplexed = seen["Config"]["Tty"] != true;
    stream::copy_output(stream::body_reader(answer), multiplexed).await
}

pub(crate) async fn port(client: &Client, flags: &Port) -> Outcome {
    let seen = client.get(&format!("/containers/{}/json", segment(&flags.container))).await?;
    let wanted = flags.port.as_ref().map(|p| if p.contains('/') { p.clone() } else { format!("{p}/tcp") });
    let mut lines = String::new();
    for (port, bindings) in seen["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
        if wanted.as_ref().is_some_and(|w| w != port) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            let (ip, host) = (text(&binding["HostIp"]), text(&binding["HostPort"]));
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
            let _ = match &wanted {
                Some(_) => writeln!(lines, "{ip}:{host}"),
                None => writeln!(lines, "{port} -> {ip}:{host}"),
            };
        }
    }
    if lines.is_empty()
        && let Some(wanted) = wanted
    {
        return Err(anyhow!("no public port '{wanted}' published for {}", flags.container).into());
    }
    print!("{lines}");
    Ok(())
}

pub(crate) async fn top(client: &Client, flags: &Top) -> Outcome {
    let options = query(&[("ps_args", &flags.options.join(" "))]);
    let answer = client.get(&format!("/containers/{}/top{options}", segment(&flags.container))).await?;
    let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = answer["Processes"].as_array().into_iter().flatten().map(words).collect();
    print!("{}", table(&words(&answer["Titles"]), &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_like_dockers() {
        let list = json!([
            {"PrivatePort": 81, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        ]);
        assert_eq!(ports(&list), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 81/tcp");
    }
}
