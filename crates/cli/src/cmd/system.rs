//! Verbs on the daemon and the machine.

use super::{confirm, inspect_kind};
use crate::client::{filters, query, segment};
use crate::flags::PruneFlags;
use crate::flags::system::{Events, Inspect, System, SystemPrune};
use crate::format::text;
use crate::template::Format;
use crate::{Client, Failure, Outcome, human, parse, stream};
use anyhow::anyhow;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use skep_model::image::host_architecture;

pub(crate) async fn dispatch(client: &Client, verb: System) -> Outcome {
    match verb {
        System::Df(flags) => super::disk::usage(client, &flags.format).await,
        System::Doctor(flags) => crate::doctor::run(client, &flags).await,
        System::Events(flags) => events(client, &flags).await,
        System::Info(flags) => info(client, &flags.format).await,
        System::Prune(flags) => prune(client, &flags).await,
    }
}

fn show(value: &Value, format: &str) -> Outcome {
    match format {
        "json" => println!("{value}"),
        template => println!("{}", Format::parse(template)?.render(value)?),
    }
    Ok(())
}

pub(crate) async fn version(client: &Client, format: &str) -> Outcome {
    let own = json!({
        "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": "1.50", "DefaultAPIVersion": "1.50",
        "Os": std::env::consts::OS, "Arch": host_architecture(), "Context": "default",
    });
    let server = client.get("/version").await;
    if !format.is_empty() {
        let mut server = server?;
        // The stock client renames this field for templates.
        server["APIVersion"] = server["ApiVersion"].clone();
        server["MinAPIVersion"] = server["MinAPIVersion"].clone();
        return show(&json!({"Client": own, "Server": server}), format);
    }
    println!("Client: skep\n Version:           {}\n API version:       1.50", env!("CARGO_PKG_VERSION"));
    println!(
        " OS/Arch:           {}/{}\n Host:              {}",
        std::env::consts::OS,
        host_architecture(),
        client.host()
    );
    let server = server?;
    println!("\nServer: {}", text(&server["Platform"]["Name"]));
    println!(" Engine:\n  Version:          {}", text(&server["Version"]));
    println!(
        "  API version:      {} (minimum version {})",
        text(&server["ApiVersion"]),
        text(&server["MinAPIVersion"])
    );
    println!("  OS/Arch:          {}/{}", text(&server["Os"]), text(&server["Arch"]));
    println!("  Kernel:           {}", text(&server["KernelVersion"]));
    Ok(())
}

pub(crate) async fn info(client: &Client, format: &str) -> Outcome {
    let info = client.get("/info").await?;
    if !format.is_empty() {
        return show(&info, format);
    }
    let line = |indent: usize, name: &str, value: String| println!("{}{name}: {value}", " ".repeat(indent));
    println!("Server:");
    for (name, field) in [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Server Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
    ] {
        line(1, name, text(&info[field]));
    }
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        line(2, &text(&pair[0]), text(&pair[1]));
    }
    for (name, field) in
        [("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion")]
    {
        line(1, name, text(&info[field]));
    }
    println!(" Plugins:");
    for kind in ["Volume", "Network", "Log"] {
        let names: Vec<String> = info["Plugins"][kind].as_array().into_iter().flatten().map(text).collect();
        line(2, kind, names.join(" "));
    }
    swarm_section(&info["Swarm"]);
    for (name, field) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        line(1, name, text(&info[field]));
    }
    line(1, "Total Memory", human::binary_size(info["MemTotal"].as_f64().unwrap_or(0.0)));
    for (name, field) in [
        ("Name", "Name"),
        ("ID", "ID"),
        ("Root Dir", "DockerRootDir"),
        ("Debug Mode", "Debug"),
        ("Live Restore Enabled", "LiveRestoreEnabled"),
    ] {
        line(1, name, text(&info[field]));
    }
    for (name, list) in
        [("Labels", &info["Labels"]), ("Insecure Registries", &info["RegistryConfig"]["InsecureRegistryCIDRs"])]
    {
        println!(" {name}:");
        for entry in list.as_array().into_iter().flatten() {
            println!("  {}", text(entry));
        }
    }
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        eprintln!("{}", text(warning));
    }
    Ok(())
}

fn swarm_section(swarm: &Value) {
    println!(" Swarm: {}", text(&swarm["LocalNodeState"]));
    if swarm["LocalNodeState"] != "active" {
        return;
    }
    println!("  NodeID: {}\n  Is Manager: {}", text(&swarm["NodeID"]), swarm["ControlAvailable"]);
    if swarm["ControlAvailable"] == true {
        println!(
            "  ClusterID: {}\n  Managers: {}\n  Nodes: {}",
            text(&swarm["Cluster"]["ID"]),
            swarm["Managers"],
            swarm["Nodes"]
        );
        println!("  Data Path Port: {}", swarm["Cluster"]["DataPathPort"]);
    }
    println!("  Node Address: {}\n  Manager Addresses:", text(&swarm["NodeAddr"]));
    for manager in swarm["RemoteManagers"].as_array().into_iter().flatten() {
        println!("   {}", text(&manager["Addr"]));
    }
}

/// A time as the API wants it: a span counts back from now; RFC 3339 and unix seconds stay points.
///
/// # Errors
/// Neither a span nor a time.
pub(crate) fn point_in_time(given: &str, now: DateTime<Utc>) -> anyhow::Result<String> {
    if given.is_empty() || given.parse::<f64>().is_ok() {
        return Ok(given.to_owned());
    }
    if let Ok(span) = parse::duration_ns(given) {
        let at = now - chrono::Duration::nanoseconds(span);
        return Ok(format!("{}.{:09}", at.timestamp(), at.timestamp_subsec_nanos()));
    }
    let at = DateTime::parse_from_rfc3339(given)
        .map_err(|_| anyhow!("invalid time \"{given}\": use a span such as 10m, RFC 3339 or unix seconds"))?;
    Ok(format!("{}.{:09}", at.timestamp(), at.timestamp_subsec_nanos()))
}

pub(crate) async fn events(client: &Client, flags: &Events) -> Outcome {
    let now = Utc::now();
    let options = query(&[
        ("since", &point_in_time(&flags.since, now)?),
        ("until", &point_in_time(&flags.until, now)?),
        ("filters", &filters(&flags.filter)?),
    ]);
    let format = match flags.format.as_str() {
        "" | "json" => None,
        template => Some(Format::parse(template)?),
    };
    let as_json = flags.format == "json";
    let answer = stream::get_stream(client, &format!("/events{options}")).await?;
    stream::json_lines(answer, |event| {
        match &format {
            Some(format) => println!("{}", format.render(&event)?),
            None if as_json => println!("{event}"),
            None => println!("{}", event_line(&event)),
        }
        Ok(())
    })
    .await
}

fn event_line(event: &Value) -> String {
    let at = DateTime::from_timestamp_nanos(event["timeNano"].as_i64().unwrap_or(0)).to_rfc3339();
    let attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", text(v)))
        .collect();
    let tail = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!("{at} {} {} {}{tail}", text(&event["Type"]), text(&event["Action"]), text(&event["Actor"]["ID"]))
}

/// Where an object of each kind is looked up, in docker's order.
const KINDS: [(&str, &str); 9] = [
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
    ("service", "/services/{}"),
    ("task", "/tasks/{}"),
    ("node", "/nodes/{}"),
    ("secret", "/secrets/{}"),
    ("config", "/configs/{}"),
];

pub(crate) async fn inspect(client: &Client, flags: &Inspect) -> Outcome {
    if !flags.kind.is_empty() {
        let path = KINDS.iter().find(|(kind, _)| *kind == flags.kind).map(|(_, path)| *path);
        let path = path.ok_or_else(|| anyhow!("\"{}\" is not a valid value for --type", flags.kind))?;
        return inspect_kind(client, &flags.names, &flags.format, path).await;
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &flags.names {
        match find(client, name, flags.size).await? {
            Some(bytes) => found.push(bytes),
            None => missing.push(name),
        }
    }
    if !found.is_empty() || flags.format.is_empty() {
        crate::format::inspect(&found, &flags.format)?;
    }
    for name in &missing {
        eprintln!("Error: No such object: {name}");
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::Code(1)) }
}

async fn find(client: &Client, name: &str, size: bool) -> Outcome<Option<bytes::Bytes>> {
    for (kind, path) in KINDS {
        let size = if size && kind == "container" { "?size=1" } else { "" };
        match client.get_raw(&format!("{}{size}", path.replace("{}", &segment(name)))).await {
            Ok(bytes) => return Ok(Some(bytes)),
            // Not there, or not a manager: the next kind may have it.
            Err(Failure::Api(error)) if matches!(error.status, 404 | 503 | 400) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// `prune` of one kind.
pub(crate) async fn prune_kind(client: &Client, kind: &str, flags: &PruneFlags, warning: &str) -> Outcome {
    if !confirm(flags.force, warning) {
        return Ok(());
    }
    let mut given = flags.filter.clone();
    match kind {
        "images" => given.push(format!("dangling={}", !flags.all)),
        "volumes" if flags.all => given.push("all=true".into()),
        _ => {}
    }
    let answer =
        client.post(&format!("/{kind}/prune{}", query(&[("filters", &filters(&given)?)])), Value::Null).await?;
    report(&answer);
    println!("Total reclaimed space: {}", human::size(answer["SpaceReclaimed"].as_f64().unwrap_or(0.0)));
    Ok(())
}

fn report(answer: &Value) {
    for (field, title) in [
        ("ContainersDeleted", "Deleted Containers:"),
        ("NetworksDeleted", "Deleted Networks:"),
        ("VolumesDeleted", "Deleted Volumes:"),
        ("ImagesDeleted", "Deleted Images:"),
        ("CachesDeleted", "Deleted build cache objects:"),
    ] {
        let lines: Vec<String> = answer[field]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| match entry.as_str() {
                Some(text) => text.to_owned(),
                None => ["Untagged", "Deleted"]
                    .iter()
                    .filter_map(|kind| entry[*kind].as_str().map(|what| format!("{}: {what}", kind.to_lowercase())))
                    .collect::<Vec<_>>()
                    .join("\n"),
            })
            .collect();
        if !lines.is_empty() {
            println!("{title}\n{}\n", lines.join("\n"));
        }
    }
}

async fn prune(client: &Client, flags: &SystemPrune) -> Outcome {
    if flags.volumes && flags.filter.iter().any(|filter| filter.starts_with("until=")) {
        return Err(anyhow!("The \"until\" filter is not supported with \"--volumes\"").into());
    }
    let images =
        if flags.all { "all images without at least one container associated to them" } else { "all dangling images" };
    let volumes = if flags.volumes { "\n  - all anonymous volumes not used by at least one container" } else { "" };
    let warning = format!(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container{volumes}\n  - {images}\n  - unused build cache\n"
    );
    if !confirm(flags.force, &warning) {
        return Ok(());
    }
    let given = query(&[("filters", &filters(&flags.filter)?)]);
    let mut for_images = flags.filter.clone();
    for_images.push(format!("dangling={}", !flags.all));
    let for_images = query(&[("filters", &filters(&for_images)?)]);
    let mut kinds = vec![("containers", given.clone()), ("networks", given.clone()), ("images", for_images)];
    if flags.volumes {
        kinds.insert(2, ("volumes", given));
    }
    // Caches have no labels.
    let ages: Vec<String> = flags.filter.iter().filter(|filter| filter.starts_with("until=")).cloned().collect();
    if ages.len() == flags.filter.len() {
        let all = if flags.all { "1" } else { "" };
        kinds.push(("build", query(&[("all", all), ("filters", &filters(&ages)?)])));
    }
    let mut reclaimed = 0.0;
    for (kind, options) in kinds {
        let answer = client.post(&format!("/{kind}/prune{options}"), Value::Null).await?;
        report(&answer);
        reclaimed += answer["SpaceReclaimed"].as_f64().unwrap_or(0.0);
    }
    println!("Total reclaimed space: {}", human::size(reclaimed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_count_back_from_now() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        assert_eq!(point_in_time("10m", now).unwrap(), "999400.000000000");
        assert_eq!(point_in_time("1234.5", now).unwrap(), "1234.5");
        assert_eq!(point_in_time("1970-01-01T00:00:01Z", now).unwrap(), "1.000000000");
        assert!(point_in_time("yesterday", now).is_err());
    }
}
