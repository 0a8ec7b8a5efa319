//! `pull` and `push`, with progress bars.

use crate::client::{Payload, query, segment};
use crate::flags::image::{Pull, Push, Search};
use crate::{Client, Outcome, stream, terminal};
use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::collections::HashMap;

pub(crate) async fn pull(client: &Client, flags: &Pull) -> Outcome {
    if flags.all_tags && flags.image.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        return Err(anyhow!("tag can't be used with --all-tags/-a").into());
    }
    let image = if flags.all_tags { flags.image.clone() } else { with_tag(&flags.image) };
    if image != flags.image && !flags.quiet {
        println!("Using default tag: latest");
    }
    fetch(client, &image, &flags.platform, flags.quiet, false).await?;
    println!("{}", canonical(&image));
    Ok(())
}

/// Pulls for `run`, which keeps standard output for the container.
pub(crate) async fn pull_to_stderr(client: &Client, image: &str, platform: &str, quiet: bool) -> Outcome {
    fetch(client, &with_tag(image), platform, quiet, true).await
}

async fn fetch(client: &Client, image: &str, platform: &str, quiet: bool, to_stderr: bool) -> Outcome {
    let (name, tag) = split_tag(image);
    let path = format!("/images/create{}", query(&[("fromImage", name), ("tag", tag), ("platform", platform)]));
    let answer = client.send(Method::POST, &path, &auth_header(image), Payload::Empty).await?;
    let mut progress = Progress::new(quiet, to_stderr);
    stream::json_lines(answer, |line| progress.show(&line)).await
}

pub(crate) async fn push(client: &Client, flags: &Push) -> Outcome {
    if flags.all_tags {
        return Err(anyhow!("--all-tags is not supported yet; push each tag by its name").into());
    }
    let image = with_tag(&flags.image);
    if image != flags.image && !flags.quiet {
        println!("Using default tag: latest");
    }
    let (name, tag) = split_tag(&image);
    let path = format!(
        "/images/{}/push{}",
        name.split('/').map(segment).collect::<Vec<_>>().join("/"),
        query(&[("tag", tag)])
    );
    // The reference insists on the header, even for anonymous pushes.
    let auth = credentials(&image).unwrap_or_else(|| URL_SAFE.encode("{}"));
    let answer = client.send(Method::POST, &path, &[("X-Registry-Auth", auth)], Payload::Empty).await?;
    let mut progress = Progress::new(flags.quiet, false);
    stream::json_lines(answer, |line| progress.show(&line)).await?;
    if flags.quiet {
        println!("{}", canonical(&image));
    }
    Ok(())
}

/// Registries have no common way to be searched; the daemon says so.
pub(crate) async fn search(client: &Client, flags: &Search) -> Outcome {
    let path = format!("/images/search{}", query(&[("term", &flags.term), ("limit", &flags.limit.to_string())]));
    let found = client.get(&path).await?;
    for image in found.as_array().into_iter().flatten() {
        println!("{}", image["name"].as_str().unwrap_or_default());
    }
    Ok(())
}

/// `busybox` becomes `busybox:latest`; a tag or digest stays.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

fn split_tag(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, ""),
    }
}

/// The name with its registry: `docker.io/library/busybox:latest`.
fn canonical(image: &str) -> String {
    match skep_model::image::Reference::parse(image) {
        Ok(reference) if reference.registry == "docker.io" => format!("docker.io/{}", image_path(&reference)),
        _ => image.to_owned(),
    }
}

fn image_path(reference: &skep_model::image::Reference) -> String {
    let tag = reference.tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
    let digest = reference.digest.as_ref().map(|d| format!("@{d}")).unwrap_or_default();
    format!("{}{tag}{digest}", reference.repository)
}

/// The header with which a request about an image brings what `login` stored.
pub(crate) fn auth_header(image: &str) -> Vec<(&'static str, String)> {
    credentials(image).into_iter().map(|auth| ("X-Registry-Auth", auth)).collect()
}

/// What `login` stored for the image's registry, as the header wants it.
pub(crate) fn credentials(image: &str) -> Option<String> {
    let reference = skep_model::image::Reference::parse(image).ok()?;
    let registry =
        if reference.registry == "docker.io" { "https://index.docker.io/v1/" } else { reference.registry.as_str() };
    let mut auth = all_credentials().remove(registry)?;
    auth["serveraddress"] = registry.into();
    Some(URL_SAFE.encode(auth.to_string()))
}

/// All that `login` stored, by registry, as a build wants them.
pub(crate) fn all_credentials() -> serde_json::Map<String, Value> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".docker")));
    let config = folder.and_then(|folder| std::fs::read(folder.join("config.json")).ok()).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let entries = config["auths"].as_object().into_iter().flatten();
    let decoded = entries.filter_map(|(registry, entry)| {
        let text = String::from_utf8(STANDARD.decode(entry["auth"].as_str()?).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some((registry.clone(), json!({"username": username, "password": password})))
    });
    decoded.collect()
}

/// Shows progress lines: bars on a terminal, one line per change of status elsewhere.
pub(crate) struct Progress {
    quiet: bool,
    to_stderr: bool,
    bars: Option<MultiProgress>,
    by_id: HashMap<String, ProgressBar>,
}

impl Progress {
    pub(crate) fn new(quiet: bool, to_stderr: bool) -> Self {
        let live = !quiet && terminal::output_is_terminal();
        let target = if to_stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        Self { quiet, to_stderr, bars: live.then(|| MultiProgress::with_draw_target(target)), by_id: HashMap::new() }
    }

    /// # Errors
    /// The line tells of one.
    pub(crate) fn show(&mut self, line: &Value) -> Outcome {
        stream::progress_error(line)?;
        if self.quiet {
            return Ok(());
        }
        let status = line["status"].as_str().unwrap_or_default();
        let detail = &line["progressDetail"];
        match (line["id"].as_str(), &self.bars) {
            (Some(id), Some(bars)) if !status.starts_with("Pulling from") => {
                let bar = self.by_id.entry(id.to_owned()).or_insert_with(|| bars.add(new_bar(id)));
                let total = detail["total"].as_u64().unwrap_or(0);
                bar.set_style(style(total > 0));
                bar.set_length(total);
                bar.set_position(detail["current"].as_u64().unwrap_or(0));
                bar.set_message(status.to_owned());
            }
            (Some(id), _) if detail["total"].as_u64().unwrap_or(0) == 0 => self.line(&format!("{id}: {status}")),
            (Some(_), _) => {}
            (None, _) => self.line(status),
        }
        Ok(())
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None if self.to_stderr => eprintln!("{text}"),
            None => println!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for bar in self.by_id.values() {
            bar.abandon();
        }
    }
}

fn new_bar(id: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_prefix(id.to_owned());
    bar
}

fn style(with_bar: bool) -> ProgressStyle {
    let template =
        if with_bar { "{prefix}: {msg} [{bar:50}] {decimal_bytes}/{decimal_total_bytes}" } else { "{prefix}: {msg}" };
    ProgressStyle::with_template(template)
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_added_and_split() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("127.0.0.1:5000/a"), "127.0.0.1:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(split_tag("127.0.0.1:5000/a:1"), ("127.0.0.1:5000/a", "1"));
        assert_eq!(split_tag("127.0.0.1:5000/a"), ("127.0.0.1:5000/a", ""));
        assert_eq!(canonical("busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(canonical("quay.io/a/b:1"), "quay.io/a/b:1");
    }
}
