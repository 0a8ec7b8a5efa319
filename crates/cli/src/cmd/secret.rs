//! Verbs on secrets and configs, which differ in little but their path.

use super::{for_each, inspect_kind};
use crate::client::{filters, query, segment};
use crate::flags::ListFlags;
use crate::flags::swarm::{Config, CreateFile, PrettyInspect, Secret, UpdateFile};
use crate::format::{Listing, text};
use crate::{Client, Outcome, human, parse};
use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use serde_json::{Value, json};
use std::io::Read;

pub(crate) async fn secrets(client: &Client, verb: Secret) -> Outcome {
    match verb {
        Secret::Create(flags) => create(client, &flags, "secrets").await,
        Secret::Inspect(flags) => inspect(client, &flags, "secrets").await,
        Secret::Ls(flags) => list(client, &flags, "secrets", true).await,
        Secret::Rm(names) => remove(client, &names.names, "secrets").await,
        Secret::Update(flags) => update(client, &flags, "secrets").await,
    }
}

pub(crate) async fn configs(client: &Client, verb: Config) -> Outcome {
    match verb {
        Config::Create(flags) => create(client, &flags, "configs").await,
        Config::Inspect(flags) => inspect(client, &flags, "configs").await,
        Config::Ls(flags) => list(client, &flags, "configs", false).await,
        Config::Rm(names) => remove(client, &names.names, "configs").await,
        Config::Update(flags) => update(client, &flags, "configs").await,
    }
}

async fn create(client: &Client, flags: &CreateFile, kind: &str) -> Outcome {
    let data = content(&flags.file)?;
    let body = json!({"Name": flags.name, "Labels": parse::labels(&flags.label), "Data": STANDARD.encode(data)});
    println!("{}", text(&client.post(&format!("/{kind}/create"), body).await?["ID"]));
    Ok(())
}

fn content(file: &str) -> anyhow::Result<Vec<u8>> {
    if file == "-" {
        let mut data = Vec::new();
        std::io::stdin().lock().read_to_end(&mut data)?;
        return Ok(data);
    }
    std::fs::read(file).with_context(|| format!("error reading content from \"{file}\""))
}

/// Reads the object, changes what is asked for and writes it back at the version that was read.
async fn update(client: &Client, flags: &UpdateFile, kind: &str) -> Outcome {
    let object = client.get(&format!("/{kind}/{}", segment(&flags.name))).await?;
    let mut labels = object["Spec"]["Labels"].as_object().cloned().unwrap_or_default();
    for key in &flags.label_rm {
        labels.remove(key);
    }
    if let Value::Object(added) = parse::labels(&flags.label_add) {
        labels.extend(added);
    }
    let mut body = json!({"Name": object["Spec"]["Name"], "Labels": labels});
    if let Some(file) = &flags.file {
        let data = content(file)?;
        if data.is_empty() {
            let word = kind.trim_end_matches('s');
            return Err(anyhow!("{word} data must be larger than 0: \"{file}\" is empty").into());
        }
        body["Data"] = STANDARD.encode(data).into();
    }
    let version = object["Version"]["Index"].to_string();
    let path = format!("/{kind}/{}/update{}", segment(&text(&object["ID"])), query(&[("version", &version)]));
    client.post(&path, body).await?;
    println!("{}", flags.name);
    Ok(())
}

async fn list(client: &Client, flags: &ListFlags, kind: &str, with_driver: bool) -> Outcome {
    let answer = client.get(&format!("/{kind}{}", query(&[("filters", &filters(&flags.filter)?)]))).await?;
    let now = Utc::now();
    let mut rows: Vec<Value> = answer.as_array().into_iter().flatten().map(|object| {
        json!({
            "ID": object["ID"], "Name": object["Spec"]["Name"], "Driver": object["Spec"]["Driver"]["Name"],
            "CreatedAt": human::ago(&text(&object["CreatedAt"]), now), "UpdatedAt": human::ago(&text(&object["UpdatedAt"]), now),
        })
    }).collect();
    rows.sort_by_key(|row| text(&row["Name"]));
    let mut columns = vec![("ID", "ID"), ("Name", "NAME"), ("CreatedAt", "CREATED"), ("UpdatedAt", "UPDATED")];
    if with_driver {
        columns.insert(2, ("Driver", "DRIVER"));
    }
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.format, flags.quiet)
}

async fn inspect(client: &Client, flags: &PrettyInspect, kind: &str) -> Outcome {
    if !flags.pretty {
        return inspect_kind(client, &flags.names, &flags.format, &format!("/{kind}/{{}}")).await;
    }
    for name in &flags.names {
        let object = client.get(&format!("/{kind}/{}", segment(name))).await?;
        println!("ID:\t\t\t{}\nName:\t\t\t{}", text(&object["ID"]), text(&object["Spec"]["Name"]));
        println!(
            "Created at:            \t{}\nUpdated at:            \t{}",
            text(&object["CreatedAt"]),
            text(&object["UpdatedAt"])
        );
        if let Some(data) = object["Spec"]["Data"].as_str() {
            let data = STANDARD.decode(data).context("the config's data")?;
            println!("Data:\n{}", String::from_utf8_lossy(&data));
        }
    }
    Ok(())
}

async fn remove(client: &Client, names: &[String], kind: &str) -> Outcome {
    for_each(names, |name| async move {
        client.delete(&format!("/{kind}/{}", segment(name))).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}
