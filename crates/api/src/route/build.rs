//! `POST /build`.

use crate::backend::Backend;
use crate::error::Reply;
use crate::request::{Query, registry_config};
use crate::route::containers::check_platform;
use crate::stream::with_progress;
use crate::upload::reader;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use serde::de::DeserializeOwned;
use skep_engine::build::{BuildOptions, build as run_build};
use skep_model::{Error, Result};

pub(crate) async fn build(State(backend): State<Backend>, query: Query, headers: HeaderMap, body: Body) -> Reply {
    let (mut options, warnings) = read_options(&query)?;
    options.auth = registry_config(&headers)?;
    let work = move |progress: tokio::sync::mpsc::Sender<_>| async move {
        for warning in warnings {
            let _ = progress.send(skep_engine::progress::Progress::Stream(warning)).await;
        }
        run_build(&backend.engine, reader(body), options, progress).await
    };
    // The engine reports the image itself, in the form that a quiet build or another has.
    with_progress(work, false, |_id| vec![]).await
}

/// Every parameter is mapped, refused, or dropped with a warning line.
fn read_options(query: &Query) -> Result<(BuildOptions, Vec<String>)> {
    refuse_unsupported(query)?;
    let mut warnings = Vec::new();
    let mut dropped = |parameter: &str, why: &str| {
        if query.nonempty(parameter).is_some_and(|value| !matches!(value, "0" | "null" | "[]" | "{}" | "default")) {
            warnings.push(format!("[Warning] {parameter} is ignored: {why}\n"));
        }
    };
    dropped("cachefrom", "only the local cache is used");
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
        quiet: query.flag("q"),
        network_mode: query.get("networkmode").to_owned(),
        extra_hosts: extra_hosts(query),
        platform: platform.to_owned(),
        auth: std::collections::BTreeMap::new(),
        memory_bytes: query.integer("memory")?.unwrap_or_default(),
        cpu_shares: query.integer("cpushares")?.unwrap_or_default(),
        shm_size: u64::try_from(shm_size).map_err(|_| Error::invalid("SHM size can not be less than 0"))?,
    };
    Ok((options, warnings))
}

fn refuse_unsupported(query: &Query) -> Result<()> {
    match query.get("version") {
        "" | "1" => {}
        _ => return Err(Error::not_implemented("BuildKit is not supported: set DOCKER_BUILDKIT=0")),
    }
    crate::json::refuse(&[
        ("building from a remote URL", query.nonempty("remote").is_some_and(|remote| remote != "client-session")),
        ("squash", query.flag("squash")),
        ("outputs", query.nonempty("outputs").is_some()),
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
        assert_eq!(read_options(&Query::parse("cpuquota=5&cachefrom=%5B%22a%22%5D")).unwrap().1.len(), 2);
        for bad in [
            "version=2",
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
    fn extra_hosts_come_in_two_forms() {
        assert_eq!(extra_hosts(&Query::parse("extrahosts=a:1&extrahosts=b:2")), ["a:1", "b:2"]);
        assert_eq!(extra_hosts(&Query::parse("extrahosts=%5B%22a:1%22%5D")), ["a:1"]);
        assert!(extra_hosts(&Query::parse("extrahosts=null")).is_empty());
    }
}
