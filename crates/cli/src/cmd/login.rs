//! `login` and `logout`: credentials for registries, kept where docker keeps them.

use crate::flags::image::{Login, Logout};
use crate::format::text;
use crate::{Client, Outcome};
use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// Docker's own registry, as its clients call it.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

pub(crate) async fn login(client: &Client, flags: &Login) -> Outcome {
    let password = if flags.password_stdin {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        text.trim_end_matches(['\n', '\r']).to_owned()
    } else {
        flags.password.clone().unwrap_or_default()
    };
    let username = flags.username.clone().unwrap_or_default();
    if username.is_empty() || password.is_empty() {
        return Err(anyhow!("a username and a password are needed: give --username and --password-stdin").into());
    }
    let server = server(&flags.server);
    let body = json!({"username": username, "password": password, "serveraddress": server});
    let answer = client.post("/auth", body).await?;
    let mut config = read()?;
    let auth = json!({ "auth": STANDARD.encode(format!("{username}:{password}")) });
    config.as_object_mut().context("the client's configuration is not an object")?;
    config["auths"][server] = auth;
    write(&config)?;
    println!("{}", text(&answer["Status"]));
    Ok(())
}

pub(crate) fn logout(flags: &Logout) -> Outcome {
    let server = server(&flags.server);
    let mut config = read()?;
    let known = config["auths"].as_object_mut().and_then(|auths| auths.remove(server));
    if known.is_none() {
        println!("Not logged in to {server}");
        return Ok(());
    }
    write(&config)?;
    println!("Removing login credentials for {server}");
    Ok(())
}

fn server(given: &str) -> &str {
    if matches!(given, "" | "docker.io" | "index.docker.io") { DOCKER_HUB } else { given }
}

fn directory() -> anyhow::Result<PathBuf> {
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    own.or_else(home).context("neither DOCKER_CONFIG nor HOME says where the client's configuration is")
}

fn read() -> anyhow::Result<Value> {
    let path = directory()?.join("config.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(json!({})),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// All or nothing, and for the user's eyes only.
fn write(config: &Value) -> anyhow::Result<()> {
    let directory = directory()?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let temporary = directory.join(format!(".config.json.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(serde_json::to_string_pretty(config)?.as_bytes())?;
    file.sync_all()?;
    Ok(std::fs::rename(&temporary, directory.join("config.json"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_registry_has_a_name_of_its_own() {
        assert_eq!(server(""), DOCKER_HUB);
        assert_eq!(server("docker.io"), DOCKER_HUB);
        assert_eq!(server("127.0.0.1:5000"), "127.0.0.1:5000");
    }
}
