//! `POST /build`.

use crate::backend::Backend;
use crate::error::Reply;
use crate::request::{Query, parse_time, registry_config};
use crate::route::containers::check_platform;
use crate::stream::with_progress;
use crate::upload::reader;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::json;
use skep_buildkit::BuildKit;
use skep_engine::build::{BuildInput, BuildOptions, Given, PruneOptions, Style, build as run_build};
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Secrets of a build: base64 of a JSON object from id to base64 of the content.
const SECRETS_HEADER: &str = "x-skep-build-secrets";
/// SSH agents of a build on this machine: a JSON object from id to the socket's path.
const AGENTS_PARAMETER: &str = "ssh";

pub(crate) async fn build(
    State(backend): State<Backend>,
    Extension(buildkit): Extension<BuildKit>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    if query.get("version") == "2" {
        return super::buildkit::build(&buildkit, &backend, &query, body).await;
    }
    let (options, warnings) = read_options(&query)?;
    let client = Given {
        auth: registry_config(&headers)?,
        secrets: secrets(&headers)?,
        agents: json_parameter(&query, AGENTS_PARAMETER)?,
    };
    let input = BuildInput { context: Box::new(reader(body)), dockerfile: None, client: Arc::new(client) };
    let work = move |progress: tokio::sync::mpsc::Sender<_>| async move {
        for warning in warnings {
            let _ = progress.send(skep_engine::progress::Progress::Stream(warning)).await;
        }
        let (style, told) = (options.style, progress.clone());
        let id = run_build(&backend.engine, input, options, progress).await?;
        if style == Style::Events {
            // The other styles tell it among their lines.
            let _ = told.send(skep_engine::progress::Progress::ImageId(id.clone())).await;
        }
        Ok(id)
    };
    // The engine reports the image itself, in the form that a quiet build or another has.
    with_progress(work, false, |_id| vec![]).await
}

/// `POST /build/cancel`
pub(crate) async fn cancel(Extension(buildkit): Extension<BuildKit>, query: Query) -> http::StatusCode {
    buildkit.cancel(query.get("id"));
    http::StatusCode::OK
}

/// `POST /build/prune`
pub(crate) async fn prune(State(backend): State<Backend>, query: Query) -> Reply {
    let options = prune_options(&query, chrono::Utc::now())?;
    let pruned = skep_engine::build::prune(&backend.engine, options).await?;
    let ids = crate::json::list_or_null(pruned.ids);
    crate::error::ok(&json!({ "CachesDeleted": ids, "SpaceReclaimed": pruned.bytes }))
}

fn prune_options(query: &Query, now: DateTime<Utc>) -> Result<PruneOptions> {
    let filters = query.filters(&["until", "unused-for", "id"])?;
    let first = |name: &str| filters.values(name).next().map(str::to_owned);
    let unused_since = match first("until").or_else(|| first("unused-for")) {
        Some(text) => Some(point_in_time(&text, now)?),
        None => None,
    };
    let keep = match query.integer("keep-storage")? {
        Some(keep) => keep,
        None => query.integer("reserved-space")?.unwrap_or_default(),
    };
    Ok(PruneOptions {
        all: query.flag("all"),
        keep_bytes: u64::try_from(keep).map_err(|_| Error::invalid("keep-storage cannot be negative"))?,
        unused_since,
        id: first("id"),
    })
}

/// A span back from now, or a time.
fn point_in_time(text: &str, now: DateTime<Utc>) -> Result<Timestamp> {
    match go_duration(text) {
        Some(age) => Ok(Timestamp::from_chrono(now - age)),
        None => parse_time(text)
            .ok_or_else(|| Error::invalid(format!("\"until\" filter is no duration and no time: {text}"))),
    }
}

/// `24h`, `1h30m`, `10s`
fn go_duration(text: &str) -> Option<chrono::TimeDelta> {
    let mut total_s = 0_i64;
    let mut digits = String::new();
    for c in text.chars() {
        let unit_s = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return None,
        };
        total_s = total_s.checked_add(digits.parse::<i64>().ok()?.checked_mul(unit_s)?)?;
        digits.clear();
    }
    if digits.is_empty() && !text.is_empty() { chrono::TimeDelta::try_seconds(total_s) } else { None }
}

fn secrets(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<u8>>> {
    let Some(header) = headers.get(SECRETS_HEADER) else { return Ok(BTreeMap::new()) };
    // Says nothing of what was in it.
    let bad = || Error::invalid(format!("malformed {SECRETS_HEADER} header"));
    let bytes = STANDARD.decode(header.as_bytes()).map_err(|_| bad())?;
    let encoded: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    encoded.into_iter().map(|(id, text)| Ok((id, STANDARD.decode(text).map_err(|_| bad())?))).collect()
}

/// Every parameter is mapped, refused, or dropped with a warning line.
pub(super) fn read_options(query: &Query) -> Result<(BuildOptions, Vec<String>)> {
    refuse_unsupported(query)?;
    let mut warnings = Vec::new();
    let mut dropped = |parameter: &str, why: &str| {
        if query.nonempty(parameter).is_some_and(|value| !matches!(value, "0" | "null" | "[]" | "{}" | "default")) {
            warnings.push(format!("[Warning] {parameter} is ignored: {why}\n"));
        }
    };
    for limit in ["cpusetcpus", "cpusetmems", "cpuperiod", "cpuquota", "memswap", "ulimits", "cgroupparent"] {
        dropped(limit, "build steps are not limited by it");
    }
    let platform = query.get("platform");
    if !platform.is_empty() {
        check_platform(platform)?;
    }
    let tags = query.all("t").into_iter().filter(|tag| !tag.is_empty());
    let tags = tags.map(|tag| Ok(skep_model::image::Reference::parse(&tag)?.with_default_tag().familiar()));
    let shm_size = query.integer("shmsize")?.unwrap_or_default();
    let options = BuildOptions {
        dockerfile: query.get("dockerfile").to_owned(),
        tags: tags.collect::<Result<_>>()?,
        build_args: json_parameter(query, "buildargs")?,
        labels: json_parameter(query, "labels")?,
        target: query.get("target").to_owned(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        cache_from: json_parameter(query, "cachefrom")?,
        style: match (query.flag("q"), query.flag("steps")) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Events,
            (false, false) => Style::Text,
        },
        network_mode: query.get("networkmode").to_owned(),
        extra_hosts: extra_hosts(query),
        platform: platform.to_owned(),
        memory_bytes: query.integer("memory")?.unwrap_or_default(),
        cpu_shares: query.integer("cpushares")?.unwrap_or_default(),
        shm_size: u64::try_from(shm_size).map_err(|_| Error::invalid("SHM size can not be less than 0"))?,
    };
    Ok((options, warnings))
}

fn refuse_unsupported(query: &Query) -> Result<()> {
    if !matches!(query.get("version"), "" | "1" | "2") {
        return Err(Error::invalid(format!("invalid version {}", query.get("version"))));
    }
    let is_remote = |remote: &str| !matches!(remote, "client-session" | "upload-request");
    crate::json::refuse(&[
        ("building from a remote URL", query.nonempty("remote").is_some_and(is_remote)),
        ("squash", query.flag("squash")),
        ("outputs", query.nonempty("outputs").is_some_and(|value| !matches!(value, "null" | "[]"))),
        ("securityopt", query.nonempty("securityopt").is_some_and(|value| !matches!(value, "null" | "[]"))),
        ("isolation", query.nonempty("isolation").is_some_and(|value| value != "default")),
    ])
}

fn json_parameter<T: DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    let Some(text) = query.nonempty(key) else { return Ok(T::default()) };
    let value: Option<T> = serde_json::from_str(text)
        .map_err(|_| Error::invalid(format!("error reading {key}: not the expected JSON")))?;
    Ok(value.unwrap_or_default())
}

/// Repeated, or a JSON list, depending on the client.
fn extra_hosts(query: &Query) -> Vec<String> {
    let split = |text: String| serde_json::from_str(&text).unwrap_or_else(|_| vec![text]);
    query.all("extrahosts").into_iter().filter(|text| !text.is_empty() && text != "null").flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cli_sends_is_mapped() {
        let query = Query::parse(
            "buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&cachefrom=%5B%5D&cgroupparent=&cpuperiod=0&cpuquota=0\
             &cpusetcpus=&cpusetmems=&cpushares=0&dockerfile=Dockerfile-new&labels=%7B%7D&memory=0&memswap=0\
             &networkmode=default&rm=1&shmsize=0&t=hello&t=hello%3A2&target=&ulimits=null&version=1",
        );
        let (options, warnings) = read_options(&query).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(options.tags, ["hello:latest", "hello:2"]);
        assert_eq!((options.build_args["A"].as_deref(), options.build_args["B"].as_deref()), (Some("1"), None));
        assert_eq!(options.dockerfile, "Dockerfile-new");
    }

    #[test]
    fn what_is_dropped_is_said_and_what_cannot_be_is_refused() {
        let (options, warnings) = read_options(&Query::parse("cpuquota=5&cachefrom=%5B%22a%22%5D")).unwrap();
        assert_eq!((warnings.len(), options.cache_from), (1, vec!["a".to_owned()]));
        for bad in [
            "version=3",
            "remote=http://x",
            "squash=1",
            "outputs=x",
            "t=UP",
            "platform=windows",
            "labels=x",
            "memory=x",
        ] {
            assert!(read_options(&Query::parse(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn prunes_spare_what_was_used_lately() {
        let now = DateTime::from_timestamp(10_000, 0).unwrap();
        let options = |text: &str| prune_options(&Query::parse(text), now);
        let found = options("all=1&keep-storage=5&filters=%7B%22until%22%3A%7B%221h30m%22%3Atrue%7D%7D").unwrap();
        assert!(found.all && found.keep_bytes == 5);
        assert_eq!(found.unused_since, Some(Timestamp(4_600_000_000_000)));
        for bad in
            ["keep-storage=-1", "filters=%7B%22until%22%3A%5B%22x%22%5D%7D", "filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"]
        {
            assert!(options(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_come_in_a_header_and_bad_ones_are_not_repeated() {
        let mut headers = HeaderMap::new();
        let encoded = STANDARD.encode(format!(r#"{{"a":"{}"}}"#, STANDARD.encode("s3cret")));
        headers.insert(SECRETS_HEADER, encoded.parse().unwrap());
        assert_eq!(secrets(&headers).unwrap()["a"], b"s3cret");
        headers.insert(SECRETS_HEADER, STANDARD.encode(r#"{"a":"s3cret!"}"#).parse().unwrap());
        assert!(!secrets(&headers).unwrap_err().message.contains("s3cret"));
    }

    #[test]
    fn extra_hosts_come_in_two_forms() {
        assert_eq!(extra_hosts(&Query::parse("extrahosts=a:1&extrahosts=b:2")), ["a:1", "b:2"]);
        assert_eq!(extra_hosts(&Query::parse("extrahosts=%5B%22a:1%22%5D")), ["a:1"]);
        assert!(extra_hosts(&Query::parse("extrahosts=null")).is_empty());
    }
}
