//! `service inspect --pretty`.

use super::service::mode;
use super::task::capital;
use crate::client::segment;
use crate::format::text;
use crate::{Client, Outcome, human};
use chrono::Utc;
use serde_json::Value;
use std::time::Duration;

/// Prints a service for people.
///
/// # Errors
/// The daemon's, when networks are looked up.
pub(crate) async fn print(client: &Client, service: &Value) -> Outcome {
    let spec = &service["Spec"];
    println!("\nID:\t\t{}\nName:\t\t{}", text(&service["ID"]), text(&spec["Name"]));
    let labels: Vec<String> =
        spec["Labels"].as_object().into_iter().flatten().map(|(k, v)| format!(" {k}={}", text(v))).collect();
    if !labels.is_empty() {
        println!("Labels:\n{}", labels.join("\n"));
    }
    println!("Service Mode:\t{}", capital(mode(&spec["Mode"])));
    if let Some(replicas) = spec["Mode"]["Replicated"]["Replicas"].as_u64() {
        println!(" Replicas:\t{replicas}");
    }
    let job = &spec["Mode"]["ReplicatedJob"];
    if !job.is_null() {
        println!(" Max Concurrent:\t{}\n Total Completions:\t{}", job["MaxConcurrent"], job["TotalCompletions"]);
    }
    update_status(&service["UpdateStatus"]);
    println!("Placement:");
    let constraints: Vec<String> =
        spec["TaskTemplate"]["Placement"]["Constraints"].as_array().into_iter().flatten().map(text).collect();
    if !constraints.is_empty() {
        println!(" Constraints:\t[{}]", constraints.join(" "));
    }
    for (name, title, order) in [
        ("UpdateConfig", "UpdateConfig", "Update order:      "),
        ("RollbackConfig", "RollbackConfig", "Rollback order:    "),
    ] {
        config(&spec[name], title, order);
    }
    container(&spec["TaskTemplate"]["ContainerSpec"]);
    resources(&spec["TaskTemplate"]["Resources"]);
    networks(client, spec).await?;
    println!("Endpoint Mode:\t{}", text(&spec["EndpointSpec"]["Mode"]));
    let ports: Vec<&Value> = service["Endpoint"]["Ports"].as_array().into_iter().flatten().collect();
    if !ports.is_empty() {
        println!("Ports:");
    }
    for port in ports {
        println!(
            " PublishedPort = {}\n  Protocol = {}\n  TargetPort = {}\n  PublishMode = {}",
            port["PublishedPort"],
            text(&port["Protocol"]),
            port["TargetPort"],
            text(&port["PublishMode"])
        );
    }
    println!();
    Ok(())
}

fn update_status(status: &Value) {
    if status["State"].is_null() {
        return;
    }
    println!("UpdateStatus:\n State:\t\t{}", text(&status["State"]));
    for (title, field) in [("Started", "StartedAt"), ("Completed", "CompletedAt")] {
        let ago = human::ago(&text(&status[field]), Utc::now());
        if !ago.is_empty() {
            println!(" {title}:\t{ago}");
        }
    }
    println!(" Message:\t{}", text(&status["Message"]));
}

fn config(config: &Value, title: &str, order: &str) {
    if config.is_null() {
        return;
    }
    println!("{title}:\n Parallelism:\t{}", config["Parallelism"]);
    if let Some(delay) = config["Delay"].as_u64().filter(|d| *d > 0) {
        println!(" Delay:\t\t{:?}", Duration::from_nanos(delay));
    }
    println!(" On failure:\t{}", text(&config["FailureAction"]));
    println!(" Monitoring Period: {:?}", Duration::from_nanos(config["Monitor"].as_u64().unwrap_or(0)));
    println!(" Max failure ratio: {}\n {order}{}", config["MaxFailureRatio"], text(&config["Order"]));
}

fn container(spec: &Value) {
    println!("ContainerSpec:\n Image:\t\t{}", text(&spec["Image"]));
    let list = |field: &str| spec[field].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ");
    for (title, field) in [("Args", "Args"), ("Env", "Env")] {
        let words = list(field);
        if !words.is_empty() {
            println!(" {title}:\t\t{words}");
        }
    }
    println!(" Init:\t\t{}", spec["Init"] == true);
}

fn resources(resources: &Value) {
    println!("Resources:");
    for (title, section) in [("Reservations", "Reservations"), ("Limits", "Limits")] {
        let (cpus, memory) = (
            resources[section]["NanoCPUs"].as_f64().unwrap_or(0.0),
            resources[section]["MemoryBytes"].as_f64().unwrap_or(0.0),
        );
        if cpus > 0.0 || memory > 0.0 {
            println!(" {title}:");
        }
        if cpus > 0.0 {
            println!("  CPU:\t\t{}", cpus / 1e9);
        }
        if memory > 0.0 {
            println!("  Memory:\t{}", human::binary_size(memory));
        }
    }
}

async fn networks(client: &Client, spec: &Value) -> Outcome {
    let mut names = String::new();
    for network in spec["TaskTemplate"]["Networks"].as_array().into_iter().flatten() {
        let id = text(&network["Target"]);
        let found = client.get(&format!("/networks/{}", segment(&id))).await?;
        names.push_str(&format!("{} ", text(&found["Name"])));
    }
    if !names.is_empty() {
        println!("Networks: {names}");
    }
    Ok(())
}
