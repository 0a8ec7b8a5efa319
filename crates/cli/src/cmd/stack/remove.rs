//! `stack rm`: asks for everything to go, then waits until it is gone.

use super::{by_name, objects, stack_name};
use crate::client::segment;
use crate::flags::stack::Rm;
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::anyhow;
use serde_json::Value;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
/// Objects in the order in which they can go.
const KINDS: [(&str, &str); 4] =
    [("service", "services"), ("secret", "secrets"), ("config", "configs"), ("network", "networks")];

pub(super) async fn remove(client: &Client, flags: &Rm) -> Outcome {
    let mut failed = Vec::new();
    for name in &flags.stacks.names {
        let stack = stack_name(name)?;
        let mut found = Vec::new();
        for (word, kind) in KINDS {
            let objects = by_name(objects::list(client, kind, stack, &[]).await?);
            found.push((word, objects.into_iter().collect::<Vec<_>>()));
        }
        if found.iter().all(|(_, objects)| objects.is_empty()) {
            eprintln!("Nothing found in stack: {stack}");
            continue;
        }
        let mut refused = false;
        for (word, list) in &found {
            refused |= remove_all(client, word, list).await;
        }
        if refused {
            failed.push(stack);
        } else if !flags.detach {
            wait(client, stack).await?;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(anyhow!("Failed to remove some resources from stack: {}", failed.join(", ")).into())
}

/// Removes objects of one kind; true when one was refused.
pub(super) async fn remove_all(client: &Client, word: &str, list: &[(String, Value)]) -> bool {
    let mut refused = false;
    for (name, object) in list {
        println!("Removing {word} {name}");
        let id = match text(&object["ID"]) {
            id if id.is_empty() => text(&object["Id"]),
            id => id,
        };
        match client.delete(&format!("/{word}s/{}", segment(&id))).await {
            Ok(_) => {}
            // It is on its way out already.
            Err(Failure::Api(error)) if error.status == 404 => {}
            Err(failure) => {
                eprintln!("Failed to remove {word} {id}: {failure}");
                refused = true;
            }
        }
    }
    refused
}

/// Tasks are stopped and networks freed after their removal was accepted.
async fn wait(client: &Client, stack: &str) -> Outcome {
    let mut told = String::new();
    loop {
        let mut left = Vec::new();
        for (word, kind) in [("task", "tasks"), ("service", "services"), ("network", "networks")] {
            match objects::list(client, kind, stack, &[]).await?.len() {
                0 => {}
                1 => left.push(format!("1 {word}")),
                count => left.push(format!("{count} {word}s")),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let line = format!("Waiting for {} to go", left.join(" and "));
        if line != told {
            println!("{line}");
        }
        told = line;
        tokio::time::sleep(POLL).await;
    }
}
