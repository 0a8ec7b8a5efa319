//! `build`: sends a folder and shows the steps.

use super::build_progress::{Live, Plain, plain_error};
use crate::client::{Payload, query};
use crate::flags::builder::{Builder, Prune};
use crate::flags::image::Build;
use crate::{Client, Outcome, human, parse, stream};
use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tokio::io::AsyncRead;

/// Bytes of all secrets together, encoded: they travel in a header.
const SECRETS_BYTES_MAX: usize = 160 << 10;

pub(crate) async fn dispatch(client: &Client, verb: Builder) -> Outcome {
    match verb {
        Builder::Build(flags) => build(client, *flags).await,
        Builder::Prune(flags) => prune(client, &flags).await,
    }
}

/// How the steps are shown.
enum Shown {
    /// The classic builder's lines, as they come.
    Classic,
    Plain(Plain),
    Live(Box<Live>),
}

impl Shown {
    fn of(flags: &Build) -> anyhow::Result<Self> {
        let is_terminal = crate::terminal::output_is_terminal();
        Ok(match flags.progress.as_str() {
            _ if flags.quiet => Self::Classic,
            "auto" if is_terminal => Self::Live(Box::default()),
            "auto" | "classic" => Self::Classic,
            "plain" => Self::Plain(Plain::default()),
            "tty" if is_terminal => Self::Live(Box::default()),
            "tty" => return Err(anyhow!("the output is no terminal: use --progress plain")),
            other => return Err(anyhow!("invalid progress mode {other}: use auto, plain, tty or classic")),
        })
    }
}

pub(crate) async fn build(client: &Client, flags: Build) -> Outcome {
    let mut shown = Shown::of(&flags)?;
    let path = format!("/build{}", options(client, &flags, !matches!(shown, Shown::Classic))?);
    let headers = headers(&flags)?;
    let payload = Payload::Stream { reader: context_reader(&flags)?, content_type: "application/x-tar" };
    let answer = client.send(Method::POST, &path, &headers, payload).await?;
    let mut image_id = String::new();
    let told = stream::json_lines(answer, |line| {
        stream::progress_error(&line)?;
        if let Some(id) = line["aux"]["ID"].as_str() {
            id.clone_into(&mut image_id);
        }
        match &mut shown {
            Shown::Classic => classic(&line),
            Shown::Plain(plain) => print!("{}", plain.show(&line["aux"])),
            Shown::Live(live) => live.show(&line["aux"]),
        }
        Ok(())
    })
    .await;
    let failed = match &shown {
        Shown::Classic => None,
        Shown::Plain(plain) => plain_error(plain),
        Shown::Live(live) => live.end(),
    };
    if let (Err(_), Some(text)) = (&told, failed) {
        eprint!("{text}");
    }
    told?;
    if !matches!(shown, Shown::Classic) {
        println!("Successfully built {}", human::short_id(&image_id));
        flags.tag.iter().for_each(|tag| println!("Successfully tagged {tag}"));
    }
    if let Some(path) = &flags.iidfile {
        std::fs::write(path, image_id).with_context(|| path.clone())?;
    }
    Ok(())
}

fn classic(line: &Value) {
    if let Some(text) = line["stream"].as_str() {
        print!("{text}");
    } else if let Some(status) = line["status"].as_str() {
        println!("{status}");
    }
}

fn options(client: &Client, flags: &Build, steps: bool) -> anyhow::Result<String> {
    let arguments: Map<String, Value> = flags
        .build_arg
        .iter()
        .map(|arg| match arg.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.into()),
            None => (arg.clone(), std::env::var(arg).map_or(Value::Null, Value::String)),
        })
        .collect();
    let memory = flags.memory.as_deref().map(parse::bytes).transpose()?.unwrap_or(0).to_string();
    let shm = flags.shm_size.as_deref().map(parse::bytes).transpose()?.unwrap_or(0).to_string();
    let dockerfile = dockerfile_in_context(flags)?;
    let one = |on: bool| if on { "1" } else { "" };
    let agents = agents(client, &flags.ssh)?;
    let mut options = query(&[
        ("dockerfile", &dockerfile),
        ("buildargs", &Value::Object(arguments).to_string()),
        ("labels", &parse::labels(&flags.label).to_string()),
        ("target", &flags.target),
        ("nocache", one(flags.no_cache)),
        ("cachefrom", &json!(cache_sources(&flags.cache_from)?).to_string()),
        ("pull", one(flags.pull)),
        ("q", one(flags.quiet)),
        ("steps", one(steps)),
        ("ssh", &agents),
        ("networkmode", &flags.network),
        ("platform", &flags.platform),
        ("memory", &memory),
        ("shmsize", &shm),
        ("rm", "1"),
    ]);
    for (key, values) in [("t", &flags.tag), ("extrahosts", &flags.add_host)] {
        for value in values {
            options.push_str(&query(&[(key, value)]).replacen('?', "&", 1));
        }
    }
    Ok(options)
}

/// `name`, or `type=registry,ref=name`.
fn cache_sources(given: &[String]) -> anyhow::Result<Vec<String>> {
    given
        .iter()
        .map(|text| {
            if !text.contains('=') {
                return Ok(text.clone());
            }
            let pairs: BTreeMap<&str, &str> = text.split(',').filter_map(|pair| pair.split_once('=')).collect();
            match (pairs.get("type"), pairs.get("ref")) {
                (Some(&"registry") | None, Some(name)) => Ok((*name).to_owned()),
                _ => Err(anyhow!("--cache-from {text}: only images are used (type=registry,ref=NAME)")),
            }
        })
        .collect()
}

/// SSH agents by id, as JSON; the daemon connects to them itself.
fn agents(client: &Client, given: &[String]) -> anyhow::Result<String> {
    if given.is_empty() {
        return Ok(String::new());
    }
    if !client.host().starts_with("unix://") {
        return Err(anyhow!("--ssh needs a daemon on this machine"));
    }
    let mut agents = Map::new();
    for text in given {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, path.to_owned()),
            None => {
                let path = std::env::var("SSH_AUTH_SOCK");
                (text.as_str(), path.map_err(|_| anyhow!("--ssh {text}: no agent runs (SSH_AUTH_SOCK is not set)"))?)
            }
        };
        let kind = std::fs::metadata(&path).with_context(|| path.clone())?.file_type();
        if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            return Err(anyhow!("--ssh {text}: {path} is no agent's socket; add the key to an agent"));
        }
        agents.insert(id.to_owned(), path.into());
    }
    Ok(Value::Object(agents).to_string())
}

fn headers(flags: &Build) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut headers = Vec::new();
    let auths = super::registry::all_credentials();
    if !auths.is_empty() {
        headers.push(("X-Registry-Config", URL_SAFE.encode(Value::Object(auths).to_string())));
    }
    if !flags.secret.is_empty() {
        let mut secrets = Map::new();
        for text in &flags.secret {
            let (id, content) = secret(text)?;
            secrets.insert(id, STANDARD.encode(content).into());
        }
        let encoded = STANDARD.encode(Value::Object(secrets).to_string());
        if encoded.len() > SECRETS_BYTES_MAX {
            return Err(anyhow!("the secrets are too large: {} KiB are allowed", SECRETS_BYTES_MAX * 9 / 16 / 1024));
        }
        headers.push(("X-Skep-Build-Secrets", encoded));
    }
    Ok(headers)
}

/// `id=x[,src=file|,env=NAME]`: without a source the variable or file called as the id.
fn secret(text: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut variable) = ("", None, None);
    for pair in text.split(',') {
        match pair.split_once('=') {
            Some(("id", value)) => id = value,
            Some(("src" | "source", value)) => file = Some(value),
            Some(("env", value)) => variable = Some(value),
            Some(("type", "file" | "env")) => {}
            _ => {
                return Err(anyhow!("--secret {text}: unexpected {pair:?} (id=NAME,src=FILE or id=NAME,env=VARIABLE)"));
            }
        }
    }
    if id.is_empty() {
        return Err(anyhow!("--secret {text}: an id is required"));
    }
    if variable.is_none() && file.is_none() && std::env::var_os(id).is_some() {
        variable = Some(id);
    }
    let content = match variable {
        Some(name) => std::env::var(name).with_context(|| format!("--secret {id}: variable {name}"))?.into_bytes(),
        None => {
            let path = file.unwrap_or(id);
            std::fs::read(path).with_context(|| format!("--secret {id}: {path}"))?
        }
    };
    Ok((id.to_owned(), content))
}

pub(crate) async fn prune(client: &Client, flags: &Prune) -> Outcome {
    let warning = match flags.all {
        true => "This will remove all build cache.",
        false => "This will remove all build caches that no build uses.",
    };
    if !super::confirm(flags.force, warning) {
        return Ok(());
    }
    let keep = flags.keep_storage.as_deref().map(parse::bytes).transpose()?.map_or(String::new(), |n| n.to_string());
    let options = query(&[
        ("all", if flags.all { "1" } else { "" }),
        ("keep-storage", &keep),
        ("filters", &crate::client::filters(&flags.filter)?),
    ]);
    let answer = client.post(&format!("/build/prune{options}"), Value::Null).await?;
    for id in answer["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("{id}");
    }
    println!("Total reclaimed space: {}", human::size(answer["SpaceReclaimed"].as_f64().unwrap_or(0.0)));
    Ok(())
}

/// The Dockerfile's path inside the context.
fn dockerfile_in_context(flags: &Build) -> anyhow::Result<String> {
    let Some(file) = &flags.file else { return Ok(String::new()) };
    if flags.context == "-" {
        return Ok(file.clone());
    }
    let context = Path::new(&flags.context)
        .canonicalize()
        .with_context(|| format!("unable to prepare context: path \"{}\" not found", flags.context))?;
    let path = Path::new(file).canonicalize().or_else(|_| context.join(file).canonicalize());
    let path = path.with_context(|| {
        format!("unable to prepare context: unable to evaluate symlinks in Dockerfile path: {file}")
    })?;
    let inside =
        path.strip_prefix(&context).map_err(|_| anyhow!("the Dockerfile ({file}) must be within the build context"))?;
    Ok(inside.to_string_lossy().into_owned())
}

/// The context as a tar stream, written by a thread while it is sent.
fn context_reader(flags: &Build) -> anyhow::Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
    if flags.context == "-" {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let folder = Path::new(&flags.context)
        .canonicalize()
        .with_context(|| format!("unable to prepare context: path \"{}\" not found", flags.context))?;
    if !folder.is_dir() {
        return Err(anyhow!("unable to prepare context: context must be a directory: {}", folder.display()));
    }
    let (reader, writer) = std::io::pipe().context("a pipe for the build context")?;
    // The daemon applies .dockerignore; the file itself and the Dockerfile always travel.
    std::thread::spawn(move || {
        let mut archive = tar::Builder::new(writer);
        archive.follow_symlinks(false);
        match archive.append_dir_all(".", &folder).and_then(|()| archive.finish()) {
            // The daemon stopped reading: it has told why, or will.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => eprintln!("the build context could not be sent: {error}"),
            Ok(()) => {}
        }
    });
    let reader = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    Ok(Box::new(tokio::fs::File::from_std(reader)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = std::env::temp_dir().join(format!("skep-cli-secret-{}", std::process::id()));
        std::fs::write(&dir, "content").unwrap();
        let path = dir.to_string_lossy();
        assert_eq!(secret(&format!("id=a,src={path}")).unwrap(), ("a".into(), b"content".to_vec()));
        std::fs::remove_file(&dir).unwrap();
        assert!(!secret("id=PATH").unwrap().1.is_empty());
        assert!(secret("src=x").is_err() && secret("id=a,nope=b").is_err() && secret("id=a,src=/nope/x").is_err());
    }

    #[test]
    fn cache_sources_are_images() {
        let given = ["a:1".to_owned(), "type=registry,ref=b".to_owned()];
        assert_eq!(cache_sources(&given).unwrap(), ["a:1", "b"]);
        assert!(cache_sources(&["type=gha".to_owned()]).is_err());
    }
}
