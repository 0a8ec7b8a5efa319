//! Unlocking managers, and the key for it.

use crate::client::query;
use crate::flags::swarm::UnlockKey;
use crate::format::text;
use crate::{Client, Outcome, terminal};
use anyhow::anyhow;
use serde_json::json;
use std::io::{BufRead, Write};

/// Longest line taken for a key.
const KEY_BYTES_MAX: u64 = 1024;

pub(crate) async fn unlock(client: &Client) -> Outcome {
    let info = client.get("/info").await?;
    match info["Swarm"]["LocalNodeState"].as_str() {
        Some("locked") => {}
        Some("inactive") => return Err(anyhow!("Error: This node is not part of a swarm").into()),
        _ => return Err(anyhow!("Error: swarm is not locked").into()),
    }
    let key = tokio::task::spawn_blocking(|| ask("Enter unlock key: ")).await.map_err(anyhow::Error::from)??;
    client.post("/swarm/unlock", json!({ "UnlockKey": key })).await?;
    Ok(())
}

pub(crate) async fn unlock_key(client: &Client, flags: &UnlockKey) -> Outcome {
    if flags.rotate {
        let swarm = client.get("/swarm").await?;
        if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] != true {
            return Err(anyhow!("cannot rotate because autolock is not turned on").into());
        }
        let version = swarm["Version"]["Index"].to_string();
        let path = format!("/swarm/update{}", query(&[("version", &version), ("rotateManagerUnlockKey", "true")]));
        client.post(&path, swarm["Spec"].clone()).await?;
        if !flags.quiet {
            println!("Successfully rotated manager unlock key.\n");
        }
    }
    let key = read_key(client).await?;
    if flags.quiet {
        println!("{key}");
    } else {
        print_key(&key);
    }
    Ok(())
}

/// # Errors
/// The daemon's, or that there is none.
pub(crate) async fn read_key(client: &Client) -> Outcome<String> {
    let key = text(&client.get("/swarm/unlockkey").await?["UnlockKey"]);
    if key.is_empty() { Err(anyhow!("no unlock key is set").into()) } else { Ok(key) }
}

pub(crate) fn print_key(key: &str) {
    println!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\ncommand and provide the following \
         key:\n\n    {key}\n\nPlease remember to store this key in a password manager, since without it you\nwill \
         not be able to restart the manager."
    );
}

/// A line that a terminal does not show while it is typed.
///
/// # Errors
/// The end of standard input.
pub(crate) fn ask(prompt: &str) -> anyhow::Result<String> {
    let hidden = terminal::Hidden::enter();
    if hidden.is_some() {
        eprint!("{prompt}");
        std::io::stderr().flush()?;
    }
    let mut line = String::new();
    std::io::Read::take(std::io::stdin().lock(), KEY_BYTES_MAX).read_line(&mut line)?;
    if hidden.is_some() {
        eprintln!();
    }
    let line = line.trim_end_matches(['\n', '\r']).to_owned();
    if line.is_empty() { Err(anyhow!("nothing was given")) } else { Ok(line) }
}
