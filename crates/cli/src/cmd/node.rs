//! Verbs on nodes.

use super::{for_each, inspect_kind, task};
use crate::client::{filters, query, segment};
use crate::flags::ListFlags;
use crate::flags::swarm::{Node, NodePs, NodeUpdate};
use crate::format::{Listing, text};
use crate::{Client, Outcome, human};
use anyhow::anyhow;
use serde_json::{Value, json};

pub(crate) async fn dispatch(client: &Client, verb: Node) -> Outcome {
    match verb {
        Node::Demote(names) => change_role(client, &names.names, "worker").await,
        Node::Promote(names) => change_role(client, &names.names, "manager").await,
        Node::Inspect(flags) if flags.pretty => {
            for name in &flags.names {
                pretty(&client.get(&format!("/nodes/{}", segment(name))).await?);
            }
            Ok(())
        }
        Node::Inspect(flags) => inspect_kind(client, &flags.names, &flags.format, "/nodes/{}").await,
        Node::Ls(flags) => list(client, &flags).await,
        Node::Ps(flags) => tasks(client, flags).await,
        Node::Rm(flags) => {
            let force = query(&[("force", if flags.force { "1" } else { "" })]);
            let force = &force;
            for_each(&flags.names, |name| async move {
                client.delete(&format!("/nodes/{}{force}", segment(name))).await?;
                Ok(Some(name.to_owned()))
            })
            .await
        }
        Node::Update(flags) => update(client, &flags).await,
    }
}

async fn list(client: &Client, flags: &ListFlags) -> Outcome {
    let answer = client.get(&format!("/nodes{}", query(&[("filters", &filters(&flags.filter)?)]))).await?;
    let swarm = client.get("/info").await?["Swarm"].clone();
    let me = text(&swarm["NodeID"]);
    let mut nodes: Vec<&Value> = answer.as_array().into_iter().flatten().collect();
    nodes.sort_by(|a, b| task::natural(&text(&a["Description"]["Hostname"]), &text(&b["Description"]["Hostname"])));
    let rows = nodes.into_iter().map(|node| row(node, &me, &swarm["Cluster"]["TLSInfo"], flags)).collect();
    let columns = [
        ("ID", "ID"),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
    ];
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.format, flags.quiet)
}

fn row(node: &Value, me: &str, trust: &Value, flags: &ListFlags) -> Value {
    let id = text(&node["ID"]);
    let is_self = id == me;
    let manager = &node["ManagerStatus"];
    let manager_status = match manager["Leader"] == true {
        true => "Leader".to_owned(),
        false => task::capital(&text(&manager["Reachability"])),
    };
    let shown = if flags.quiet {
        id
    } else if is_self {
        format!("{id} *")
    } else {
        format!("{id}  ")
    };
    json!({
        "ID": shown, "Self": is_self,
        "Hostname": node["Description"]["Hostname"],
        "Status": task::capital(&text(&node["Status"]["State"])),
        "Availability": task::capital(&text(&node["Spec"]["Availability"])),
        "ManagerStatus": manager_status,
        "EngineVersion": node["Description"]["Engine"]["EngineVersion"],
        "TLSStatus": tls_status(&node["Description"]["TLSInfo"], trust),
    })
}

/// Whether a node's certificate and trust are what the swarm's are to be.
fn tls_status(told: &Value, wanted: &Value) -> &'static str {
    let is_known = |info: &Value| info.as_object().is_some_and(|fields| !fields.is_empty());
    match (is_known(told) && is_known(wanted), told == wanted) {
        (false, _) => "Unknown",
        (true, true) => "Ready",
        (true, false) => "Needs Rotation",
    }
}

async fn own_id(client: &Client, name: &str) -> Outcome<String> {
    if name != "self" {
        return Ok(name.to_owned());
    }
    Ok(text(&client.get("/info").await?["Swarm"]["NodeID"]))
}

async fn tasks(client: &Client, flags: NodePs) -> Outcome {
    let names = if flags.nodes.is_empty() { vec!["self".to_owned()] } else { flags.nodes };
    let mut found = Vec::new();
    for name in names {
        let id = own_id(client, &name).await?;
        let node = text(&client.get(&format!("/nodes/{}", segment(&id))).await?["ID"]);
        let mut given = flags.list.filter.clone();
        given.push(format!("node={node}"));
        let answer = client.get(&format!("/tasks{}", query(&[("filters", &filters(&given)?)]))).await?;
        found.extend(answer.as_array().cloned().unwrap_or_default());
    }
    task::print(client, found, &flags.list, true).await
}

/// Reads a node, changes its spec and writes it back at the version that was read.
async fn change(client: &Client, name: &str, edit: impl FnOnce(&mut Value)) -> Outcome<()> {
    let node = client.get(&format!("/nodes/{}", segment(name))).await?;
    let mut spec = node["Spec"].clone();
    edit(&mut spec);
    let path = format!(
        "/nodes/{}/update{}",
        segment(&text(&node["ID"])),
        query(&[("version", &node["Version"]["Index"].to_string())])
    );
    client.post(&path, spec).await.map(drop)
}

async fn change_role(client: &Client, names: &[String], role: &str) -> Outcome {
    for_each(names, |name| async move {
        let node = client.get(&format!("/nodes/{}", segment(name))).await?;
        if text(&node["Spec"]["Role"]) == role {
            return Ok(Some(format!("Node {name} is already a {role}.")));
        }
        change(client, name, |spec| spec["Role"] = role.into()).await?;
        Ok(Some(match role {
            "manager" => format!("Node {name} promoted to a manager in the swarm."),
            _ => format!("Manager {name} demoted in the swarm."),
        }))
    })
    .await
}

async fn update(client: &Client, flags: &NodeUpdate) -> Outcome {
    let mut missing = None;
    change(client, &flags.node, |spec| {
        if let Some(availability) = &flags.availability {
            spec["Availability"] = availability.clone().into();
        }
        if let Some(role) = &flags.role {
            spec["Role"] = role.clone().into();
        }
        for label in &flags.label_add {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            spec["Labels"][key] = value.into();
        }
        for key in &flags.label_rm {
            let removed = spec["Labels"].as_object_mut().and_then(|labels| labels.remove(key));
            if removed.is_none() {
                missing = Some(key.clone());
            }
        }
    })
    .await?;
    if let Some(key) = missing {
        return Err(anyhow!("key {key} doesn't exist in node's labels").into());
    }
    println!("{}", flags.node);
    Ok(())
}

fn pretty(node: &Value) {
    let (description, status) = (&node["Description"], &node["Status"]);
    println!("ID:\t\t\t{}", text(&node["ID"]));
    for (key, value) in node["Spec"]["Labels"].as_object().into_iter().flatten() {
        println!(" - {key}={}", text(value));
    }
    println!("Hostname:              \t{}", text(&description["Hostname"]));
    println!("Joined at:             \t{}", text(&node["CreatedAt"]));
    println!("Status:\n State:\t\t\t{}", task::capital(&text(&status["State"])));
    println!(" Availability:         \t{}", task::capital(&text(&node["Spec"]["Availability"])));
    println!(" Address:\t\t{}", text(&status["Addr"]));
    if let Some(manager) = node["ManagerStatus"].as_object() {
        println!("Manager Status:\n Address:\t\t{}", text(&manager["Addr"]));
        println!(" Raft Status:\t\t{}", task::capital(&text(&manager["Reachability"])));
        println!(" Leader:\t\t{}", if manager.get("Leader") == Some(&Value::Bool(true)) { "Yes" } else { "No" });
    }
    let platform = &description["Platform"];
    println!(
        "Platform:\n Operating System:\t{}\n Architecture:\t\t{}",
        text(&platform["OS"]),
        text(&platform["Architecture"])
    );
    let resources = &description["Resources"];
    println!("Resources:\n CPUs:\t\t\t{}", resources["NanoCPUs"].as_i64().unwrap_or(0) / 1_000_000_000);
    println!(" Memory:\t\t{}", human::binary_size(resources["MemoryBytes"].as_f64().unwrap_or(0.0)));
    println!("Engine Version:\t\t{}", text(&description["Engine"]["EngineVersion"]));
}
