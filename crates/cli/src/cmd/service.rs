//! Verbs on services.

use super::service_progress::converge;
use super::{for_each, inspect_kind, service_spec, service_update, task};
use crate::client::{Payload, filters, query, segment};
use crate::flags::ListFlags;
use crate::flags::service::{Convergence, Create, Ps, Rollback, Scale, Service, Update};
use crate::format::{Listing, text};
use crate::{Client, Failure, Outcome, human};
use anyhow::anyhow;
use hyper::Method;
use serde_json::{Value, json};

pub(crate) async fn dispatch(client: &Client, verb: Service) -> Outcome {
    match verb {
        Service::Create(flags) => create(client, &flags).await,
        Service::Inspect(flags) if flags.pretty => {
            for name in &flags.names {
                let service = client.get(&format!("/services/{}?insertDefaults=true", segment(name))).await?;
                super::service_pretty::print(client, &service).await?;
            }
            Ok(())
        }
        Service::Inspect(flags) => {
            inspect_kind(client, &flags.names, &flags.format, "/services/{}?insertDefaults=true").await
        }
        Service::Logs(flags) => super::service_logs::logs(client, &flags).await,
        Service::Ls(flags) => list(client, &flags).await,
        Service::Ps(flags) => tasks(client, &flags).await,
        Service::Rebalance(flags) => super::orchestrate::rebalance(client, &flags).await,
        Service::Rm(names) => {
            for_each(&names.names, |name| async move {
                client.delete(&format!("/services/{}", segment(name))).await?;
                Ok(Some(name.to_owned()))
            })
            .await
        }
        Service::Rollback(flags) => rollback(client, &flags).await,
        Service::Scale(flags) => scale(client, &flags).await,
        Service::Update(flags) => update(client, &flags).await,
        Service::Why(flags) => super::orchestrate::why(client, &flags).await,
    }
}

async fn create(client: &Client, flags: &Create) -> Outcome {
    let mut spec = service_spec::spec(flags)?;
    for (kind, field, given) in [("secret", "Secrets", &flags.secret), ("config", "Configs", &flags.config)] {
        let mut references = Vec::new();
        for text in given {
            references.push(service_spec::file_reference(client, text, kind).await?);
        }
        spec["TaskTemplate"]["ContainerSpec"][field] = references.into();
    }
    if !flags.no_resolve_image {
        pin(client, &mut spec).await?;
    }
    let headers = registry_auth(&spec, flags.with_registry_auth);
    let answer = client.value_with(Method::POST, "/services/create", &headers, Payload::Json(spec)).await?;
    warn(&answer);
    let id = text(&answer["ID"]);
    println!("{id}");
    wait(client, &id, &flags.convergence).await
}

fn image_of(spec: &Value) -> String {
    text(&spec["TaskTemplate"]["ContainerSpec"]["Image"])
}

/// Credentials that the nodes are to pull with, if they are to get any.
fn registry_auth(spec: &Value, wanted: bool) -> Vec<(&'static str, String)> {
    if wanted { super::registry::auth_header(&image_of(spec)) } else { Vec::new() }
}

/// Replaces the image's tag by the digest its registry knows, so that all nodes run the same.
pub(crate) async fn pin(client: &Client, spec: &mut Value) -> Outcome {
    let image = super::registry::with_tag(&image_of(spec));
    if image.contains('@') {
        return Ok(());
    }
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = image.clone().into();
    let path = format!("/distribution/{}/json", image.split('/').map(segment).collect::<Vec<_>>().join("/"));
    match client.value_with(Method::GET, &path, &super::registry::auth_header(&image), Payload::Empty).await {
        Ok(answer) => {
            let digest = text(&answer["Descriptor"]["digest"]);
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = format!("{image}@{digest}").into();
            let platforms = platforms(&answer);
            if !platforms.is_empty() {
                spec["TaskTemplate"]["Placement"]["Platforms"] = platforms.into();
            }
        }
        Err(Failure::Api(_)) => eprintln!(
            "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} independently,\npossibly leading to different nodes running different\nversions of the image.\n"
        ),
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// Where an image can run, for the scheduler. Nodes name the many kinds of arm differently,
/// so arm means any, as in the reference.
fn platforms(answer: &Value) -> Vec<Value> {
    let wire = |platform: &Value| {
        let architecture = text(&platform["architecture"]);
        json!({"Architecture": if architecture == "arm" { String::new() } else { architecture }, "OS": text(&platform["os"])})
    };
    answer["Platforms"].as_array().into_iter().flatten().map(wire).collect()
}

pub(crate) fn warn(answer: &Value) {
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        eprintln!("{}", text(warning));
    }
}

async fn wait(client: &Client, id: &str, convergence: &Convergence) -> Outcome {
    if convergence.detach { Ok(()) } else { converge(client, id, convergence.quiet).await }
}

async fn read(client: &Client, name: &str) -> Outcome<(String, String, Value)> {
    let service = client.get(&format!("/services/{}", segment(name))).await?;
    Ok((text(&service["ID"]), service["Version"]["Index"].to_string(), service["Spec"].clone()))
}

async fn update(client: &Client, flags: &Update) -> Outcome {
    let (id, version, mut spec) = read(client, &flags.service).await?;
    service_update::edit(client, &mut spec, flags).await?;
    if flags.image.is_some() && !flags.no_resolve_image {
        pin(client, &mut spec).await?;
    }
    let rollback = if flags.rollback { "previous" } else { "" };
    let path = format!("/services/{id}/update{}", query(&[("version", &version), ("rollback", rollback)]));
    let headers = registry_auth(&spec, flags.with_registry_auth);
    warn(&client.value_with(Method::POST, &path, &headers, Payload::Json(spec)).await?);
    println!("{}", flags.service);
    wait(client, &id, &flags.convergence).await
}

async fn rollback(client: &Client, flags: &Rollback) -> Outcome {
    let (id, version, spec) = read(client, &flags.service).await?;
    let path = format!("/services/{id}/update{}", query(&[("version", &version), ("rollback", "previous")]));
    warn(&client.post(&path, spec).await?);
    println!("{}", flags.service);
    wait(client, &id, &flags.convergence).await
}

async fn scale(client: &Client, flags: &Scale) -> Outcome {
    let mut scaled = Vec::new();
    for target in &flags.targets {
        let (name, replicas) = target
            .split_once('=')
            .ok_or_else(|| anyhow!("invalid scale specifier '{target}'. See 'skep service scale --help'."))?;
        let count: u64 = replicas
            .parse()
            .map_err(|_| anyhow!("{name}: invalid replicas value {replicas}: it must be a whole number"))?;
        let (id, version, mut spec) = read(client, name).await?;
        service_update::set_count(&mut spec, count)
            .ok_or_else(|| anyhow!("{name}: scale can only be used with replicated or replicated-job mode"))?;
        warn(&client.post(&format!("/services/{id}/update{}", query(&[("version", &version)])), spec).await?);
        println!("{name} scaled to {count}");
        scaled.push(id);
    }
    if !flags.detach {
        for id in scaled {
            converge(client, &id, false).await?;
        }
    }
    Ok(())
}

async fn list(client: &Client, flags: &ListFlags) -> Outcome {
    let options = query(&[("status", "true"), ("filters", &filters(&flags.filter)?)]);
    let answer = client.get(&format!("/services{options}")).await?;
    print(answer.as_array().cloned().unwrap_or_default(), flags)
}

/// Prints services by name, for `service ls` and `stack services`.
///
/// # Errors
/// A malformed template.
pub(crate) fn print(mut services: Vec<Value>, flags: &ListFlags) -> Outcome {
    services.sort_by(|a, b| task::natural(&text(&a["Spec"]["Name"]), &text(&b["Spec"]["Name"])));
    let rows = services.iter().map(|service| row(service, flags.no_trunc)).collect();
    let columns = [
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
    ];
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.format, flags.quiet)
}

fn row(service: &Value, whole: bool) -> Value {
    let (spec, status) = (&service["Spec"], &service["ServiceStatus"]);
    let mode = mode(&spec["Mode"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let (desired, completed) = (count("DesiredTasks"), count("CompletedTasks"));
    let mut replicas = format!("{}/{desired}", count("RunningTasks"));
    if let Some(total) = spec["Mode"]["ReplicatedJob"]["TotalCompletions"].as_u64() {
        replicas.push_str(&format!(" ({completed}/{total} completed)"));
    } else if mode == "global job" {
        replicas.push_str(&format!(" ({completed}/{} completed)", desired + completed));
    } else if let Some(limit) = spec["TaskTemplate"]["Placement"]["MaxReplicas"].as_u64().filter(|n| *n > 0) {
        replicas.push_str(&format!(" (max {limit} per node)"));
    }
    let image = text(&spec["TaskTemplate"]["ContainerSpec"]["Image"]);
    let image = image.split('@').next().unwrap_or_default();
    let ports = service["Endpoint"]["Ports"].as_array().into_iter().flatten().filter(|p| p["PublishMode"] != "host");
    let ports: Vec<String> =
        ports.map(|p| format!("*:{}->{}/{}", p["PublishedPort"], p["TargetPort"], text(&p["Protocol"]))).collect();
    let id = text(&service["ID"]);
    json!({
        "ID": if whole { id } else { human::short_id(&id) },
        "Name": spec["Name"], "Mode": mode, "Replicas": replicas, "Image": image, "Ports": ports.join(", "),
    })
}

pub(crate) fn mode(mode: &Value) -> &'static str {
    match mode.as_object().and_then(|m| m.iter().find(|(_, value)| !value.is_null())).map(|(name, _)| name.as_str()) {
        Some("Global") => "global",
        Some("ReplicatedJob") => "replicated job",
        Some("GlobalJob") => "global job",
        _ => "replicated",
    }
}

async fn tasks(client: &Client, flags: &Ps) -> Outcome {
    let mut found = Vec::new();
    for name in &flags.services {
        let service = client.get(&format!("/services/{}", segment(name))).await?;
        let mut given = flags.list.filter.clone();
        given.push(format!("service={}", text(&service["ID"])));
        let answer = client.get(&format!("/tasks{}", query(&[("filters", &filters(&given)?)]))).await?;
        found.extend(answer.as_array().cloned().unwrap_or_default());
    }
    task::print(client, found, &flags.list, !flags.no_resolve).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_mode_replicas_and_ports() {
        let service = json!({"ID": "0123456789abcdef", "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 3}},
            "TaskTemplate": {"ContainerSpec": {"Image": "whoami:latest@sha256:1"}}}, "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3},
            "Endpoint": {"Ports": [{"PublishedPort": 8080, "TargetPort": 80, "Protocol": "tcp", "PublishMode": "ingress"}]}});
        let row = row(&service, false);
        assert_eq!(
            (&row["Replicas"], &row["Ports"], &row["Image"]),
            (&json!("2/3"), &json!("*:8080->80/tcp"), &json!("whoami:latest"))
        );
        assert_eq!(mode(&json!({"Global": {}})), "global");
    }

    #[test]
    fn a_jobs_row_shows_what_is_completed() {
        let service = |mode: Value| {
            json!({"Spec": {"Mode": mode, "TaskTemplate": {"Placement": {"MaxReplicas": 1}}},
                   "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 3}})
        };
        let job = service(json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}));
        assert_eq!(row(&job, false)["Replicas"], "1/2 (3/5 completed)");
        assert_eq!(row(&service(json!({"GlobalJob": {}})), false)["Replicas"], "1/2 (3/5 completed)");
    }
}
