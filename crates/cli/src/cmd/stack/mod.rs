//! Verbs on stacks. A stack is a label on services, networks, secrets and configs; the
//! daemon knows no such object.

mod converge;
mod dependencies;
mod deploy;
pub(crate) mod files;
mod objects;
mod remove;
mod same;

use super::{service, task};
use crate::client::{filters, query};
use crate::flags::stack::{Config, Ls, Ps, Services, Stack};
use crate::format::{Listing, text};
use crate::{Client, Outcome};
use anyhow::anyhow;
use serde_json::{Value, json};
use skep_compose::NAMESPACE_LABEL;
use std::collections::BTreeMap;

pub(crate) async fn dispatch(client: &Client, verb: Stack) -> Outcome {
    match verb {
        Stack::Config(flags) => config(&flags),
        Stack::Deploy(flags) => deploy::deploy(client, &flags).await,
        Stack::Ls(flags) => list(client, &flags).await,
        Stack::Ps(flags) => tasks(client, &flags).await,
        Stack::Rm(flags) => remove::remove(client, &flags).await,
        Stack::Services(flags) => services(client, &flags).await,
    }
}

fn config(flags: &Config) -> Outcome {
    let project = files::load(&flags.files, !flags.skip_interpolation)?;
    print!("{}", project.to_yaml());
    Ok(())
}

async fn list(client: &Client, flags: &Ls) -> Outcome {
    let given = [format!("label={NAMESPACE_LABEL}")];
    let answer = client.get(&format!("/services{}", query(&[("filters", &filters(&given)?)]))).await?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for service in answer.as_array().into_iter().flatten() {
        *counts.entry(text(&service["Spec"]["Labels"][NAMESPACE_LABEL])).or_default() += 1;
    }
    let mut names: Vec<(String, u64)> = counts.into_iter().collect();
    names.sort_by(|a, b| task::natural(&a.0, &b.0));
    let row =
        |(name, count): (String, u64)| json!({"Name": name, "Services": count.to_string(), "Orchestrator": "Swarm"});
    let rows = names.into_iter().map(row).collect();
    Listing { columns: &[("Name", "NAME"), ("Services", "SERVICES")], rows, id: "Name" }.print(&flags.format, false)
}

async fn tasks(client: &Client, flags: &Ps) -> Outcome {
    let stack = stack_name(&flags.stack)?;
    let found = objects::list(client, "tasks", stack, &flags.list.filter).await?;
    if found.is_empty() {
        return Err(anyhow!("nothing found in stack: {stack}").into());
    }
    task::print(client, found, &flags.list, !flags.no_resolve).await
}

async fn services(client: &Client, flags: &Services) -> Outcome {
    let stack = stack_name(&flags.stack)?;
    let found = objects::list(client, "services", stack, &flags.list.filter).await?;
    if found.is_empty() {
        eprintln!("Nothing found in stack: {stack}");
        return Ok(());
    }
    service::print(found, &flags.list)
}

/// # Errors
/// A name that is empty or blank.
fn stack_name(name: &str) -> anyhow::Result<&str> {
    if name.trim_matches(['\'', '"', ' ', '\t']).is_empty() {
        return Err(anyhow!("invalid stack name: \"{name}\""));
    }
    Ok(name)
}

/// A list's objects by name.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        let own = text(&object["Spec"]["Name"]);
        if own.is_empty() { text(&object["Name"]) } else { own }
    };
    objects.into_iter().map(|object| (name(&object), object)).collect()
}
