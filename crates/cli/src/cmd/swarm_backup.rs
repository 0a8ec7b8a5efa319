//! The whole swarm in a file, and back.

use super::swarm_lock::ask;
use crate::client::{Payload, query};
use crate::flags::swarm::{Backup, Restore};
use crate::format::text;
use crate::{Client, Outcome};
use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Method;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const SECRET_HEADER: &str = "X-Skep-Secret";
const SECRET_BYTES_MAX: u64 = 4096;
const FILE_MODE: u32 = 0o600;

pub(crate) async fn backup(client: &Client, flags: &Backup) -> Outcome {
    let swarm = client.get("/swarm").await?;
    let is_locked = swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] == true;
    let passphrase = match &flags.passphrase_file {
        Some(path) => Some(read_secret(path)?),
        None if is_locked => None,
        None => Some(prompted("Enter a passphrase for the backup: ").await?),
    };
    let headers: Vec<(&str, String)> = passphrase.iter().map(|text| (SECRET_HEADER, STANDARD.encode(text))).collect();
    let answer = client.send(Method::POST, "/swarm/backup", &headers, Payload::Empty).await?;
    let bytes = answer.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
    write_file(&flags.file, &bytes).with_context(|| flags.file.display().to_string())?;
    let with = if passphrase.is_some() { "the passphrase" } else { "the swarm's unlock key" };
    println!(
        "Swarm {} written to {} ({} bytes, sealed with {with}).",
        text(&swarm["ID"]),
        flags.file.display(),
        bytes.len()
    );
    Ok(())
}

pub(crate) async fn restore(client: &Client, flags: &Restore) -> Outcome {
    let secret = match &flags.passphrase_file {
        Some(path) => read_secret(path)?,
        None => prompted("Enter the backup's passphrase or unlock key: ").await?,
    };
    let file = tokio::fs::File::open(&flags.file).await.with_context(|| flags.file.display().to_string())?;
    let path = format!(
        "/swarm/restore{}",
        query(&[
            ("listenAddr", &flags.listen_addr),
            ("advertiseAddr", &flags.advertise_addr),
            ("dataPathAddr", &flags.data_path_addr),
        ])
    );
    let headers = [(SECRET_HEADER, STANDARD.encode(secret))];
    let payload = Payload::Stream { reader: Box::new(file), content_type: "application/octet-stream" };
    let answer = client.send(Method::POST, &path, &headers, payload).await?;
    let bytes = answer.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
    let id: String = serde_json::from_slice(&bytes)?;
    println!("Swarm restored: current node ({id}) is its only manager.");
    println!("Other managers of before are not members any more: let them leave, and join again.");
    Ok(())
}

async fn prompted(prompt: &'static str) -> anyhow::Result<String> {
    tokio::task::spawn_blocking(move || ask(prompt)).await?
}

/// The first line.
fn read_secret(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| path.display().to_string())?;
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() { Err(anyhow!("{}: there is no passphrase in it", path.display())) } else { Ok(line) }
}

/// Whole or not at all, and for its owner's eyes only.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".tmp");
    let temp = PathBuf::from(temp);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temp, path)
}
