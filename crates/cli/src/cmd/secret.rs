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

/// More than the largest config may have.
const CONTENT_BYTES_MAX: u64 = 1 << 20;

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
    let mut body = json!({"Name": flags.name, "Labels": parse::labels(&flags.label)});
    match (&flags.driver, &flags.file) {
        (Some(_), Some(_)) => {
            return Err(anyhow!("When using secret driver secret data must be empty").into());
        }
        (Some(driver), None) => body["Driver"] = json!({ "Name": driver }),
        (None, Some(file)) => body["Data"] = STANDARD.encode(content(file)?).into(),
        (None, None) => return Err(anyhow!("a file is needed, or - for standard input").into()),
    }
    if let Some(driver) = &flags.template_driver {
        body["Templating"] = json!({ "Name": driver });
    }
    println!("{}", text(&client.post(&format!("/{kind}/create"), body).await?["ID"]));
    Ok(())
}

/// A file's bytes, or standard input's; no more than lets the daemon see that it is too large.
fn content(file: &str) -> anyhow::Result<Vec<u8>> {
    let mut data = Vec::new();
    if file == "-" {
        std::io::stdin().lock().take(CONTENT_BYTES_MAX).read_to_end(&mut data).context("standard input")?;
    } else {
        let mut open =
            || -> std::io::Result<usize> { std::fs::File::open(file)?.take(CONTENT_BYTES_MAX).read_to_end(&mut data) };
        open().with_context(|| format!("error reading content from \"{file}\""))?;
    }
    Ok(data)
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
            "Labels": labels(&object["Spec"]["Labels"]).join(","),
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
        print!("{}", pretty(&object, kind)?);
    }
    Ok(())
}

/// The two kinds are laid out as differently as docker lays them out.
fn pretty(object: &Value, kind: &str) -> anyhow::Result<String> {
    let spec = &object["Spec"];
    let (id, name) = (text(&object["ID"]), text(&spec["Name"]));
    let (created, updated) = (human::moment(&text(&object["CreatedAt"])), human::moment(&text(&object["UpdatedAt"])));
    let lines: String = labels(&spec["Labels"]).iter().map(|label| format!(" - {label}\n")).collect();
    let labels = if lines.is_empty() { lines } else { format!("Labels:\n{lines}") };
    if kind == "secrets" {
        let driver = text(&spec["Driver"]["Name"]);
        return Ok(format!(
            "ID:              {id}\nName:              {name}\n{labels}Driver:            {driver}\nCreated at:        {created}\nUpdated at:        {updated}\n"
        ));
    }
    let data = STANDARD.decode(text(&spec["Data"])).context("the config's data")?;
    Ok(format!(
        "ID:\t\t\t{id}\nName:\t\t\t{name}\n{labels}Created at:            \t{created}\nUpdated at:            \t{updated}\nData:\n{}\n",
        String::from_utf8_lossy(&data)
    ))
}

/// `key=value` in order; a key with an empty value stands alone.
fn labels(map: &Value) -> Vec<String> {
    let pair = |(key, value): (&String, &Value)| match text(value) {
        value if value.is_empty() => key.clone(),
        value => format!("{key}={value}"),
    };
    map.as_object().into_iter().flatten().map(pair).collect()
}

async fn remove(client: &Client, names: &[String], kind: &str) -> Outcome {
    for_each(names, |name| async move {
        client.delete(&format!("/{kind}/{}", segment(name))).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_docker_shows() {
        let at = "2026-11-24T04:05:32.043089871Z";
        let object = json!({"ID": "i", "CreatedAt": at, "UpdatedAt": at,
            "Spec": {"Name": "n", "Labels": {"a": "b", "c": ""}, "Data": "aGVsbG8K"}});
        assert_eq!(
            pretty(&object, "secrets").unwrap(),
            "ID:              i\nName:              n\nLabels:\n - a=b\n - c\nDriver:            \nCreated at:        2026-11-24 04:05:32.043089871 +0000 utc\nUpdated at:        2026-11-24 04:05:32.043089871 +0000 utc\n"
        );
        assert!(pretty(&object, "configs").unwrap().ends_with("Data:\nhello\n\n"));
    }
}
