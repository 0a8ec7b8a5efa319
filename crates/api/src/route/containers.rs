//! `/containers`: everything that answers at once. Streams are in `streams`.

use crate::backend::Backend;
use crate::error::{ApiError, Reply, json_reply, no_content, ok};
use crate::filters::Filters;
use crate::json::container::{CreateBody, Created, Inspect, UpdateBody};
use crate::json::container_list::{FILTERS, ListRequest, Summary, select};
use crate::json::now;
use crate::request::{Json, Name, Query};
use crate::version::ApiVersion;
use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use serde_json::json;
use skep_engine::container::RemoveOptions;
use skep_model::container::{ContainerInfo, ContainerStatus};
use skep_model::{Error, Result, Timestamp};

const PRUNE_FILTERS: [&str; 3] = ["until", "label", "label!"];

pub(crate) async fn list(State(backend): State<Backend>, query: Query) -> Reply {
    let limit = query.integer("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let request = ListRequest { all: query.flag("all"), limit, filters: query.filters(&FILTERS)? };
    let images = backend.engine.images();
    let chosen = select(&backend.engine.list(), &request, |name| images.resolve(name).ok())?;
    let mut summaries = Vec::with_capacity(chosen.len());
    for info in &chosen {
        // A container removed meanwhile simply has no size any more.
        let size = if query.flag("size") { backend.engine.size(info.id.as_str()).await.ok() } else { None };
        summaries.push(Summary::of(info, size, now()));
    }
    ok(&summaries)
}

pub(crate) async fn create(State(backend): State<Backend>, query: Query, Json(body): Json<CreateBody>) -> Reply {
    let (spec, mut warnings) = body.into_spec(query.get("name"))?;
    if let Some(platform) = query.nonempty("platform") {
        check_platform(platform)?;
    }
    let (id, more) = backend.engine.create(spec).await?;
    warnings.extend(more);
    Ok(json_reply(StatusCode::CREATED, &Created { id: id.to_string(), warnings }))
}

/// Only this machine's platform can run.
pub(crate) fn check_platform(platform: &str) -> Result<()> {
    let mut parts = platform.split('/');
    let os = parts.next().unwrap_or_default();
    let own = skep_model::image::host_architecture();
    let same_arch = parts.next().is_none_or(|arch| arch == own || arch == std::env::consts::ARCH);
    if os == "linux" && same_arch {
        return Ok(());
    }
    Err(Error::invalid(format!("platform {platform:?} cannot run on this machine")))
}

pub(crate) async fn inspect(
    State(backend): State<Backend>,
    Name(name): Name,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let info = backend.engine.inspect(&name)?;
    let size = if query.flag("size") { Some(backend.engine.size(&name).await?) } else { None };
    ok(&Inspect::of(&info, size, version))
}

pub(crate) async fn start(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    crate::detach::DetachKeys::parse(query.get("detachKeys"))?;
    if query.nonempty("checkpoint").is_some() {
        return Err(Error::not_implemented("checkpoints are not supported").into());
    }
    backend.engine.start(&name).await?;
    no_content()
}

pub(crate) async fn stop(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    backend.engine.stop(&name, query.integer("t")?, query.nonempty("signal")).await?;
    no_content()
}

pub(crate) async fn restart(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    backend.engine.restart(&name, query.integer("t")?, query.nonempty("signal")).await?;
    no_content()
}

pub(crate) async fn kill(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    backend.engine.kill(&name, query.nonempty("signal").unwrap_or("KILL")).await?;
    no_content()
}

pub(crate) async fn pause(State(backend): State<Backend>, Name(name): Name) -> Reply {
    backend.engine.pause(&name).await?;
    no_content()
}

pub(crate) async fn unpause(State(backend): State<Backend>, Name(name): Name) -> Reply {
    backend.engine.unpause(&name).await?;
    no_content()
}

pub(crate) async fn rename(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let new_name = query.get("name").trim_start_matches('/');
    if new_name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty").into());
    }
    backend.engine.rename(&name, new_name).await?;
    no_content()
}

pub(crate) async fn resize(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let (height, width) = query.terminal_size()?;
    backend.engine.resize(&name, height, width).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn top(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    let ps_args = query.nonempty("ps_args").unwrap_or("-ef");
    let (titles, processes) = backend.engine.top(&name, ps_args).await?;
    ok(&json!({ "Processes": processes, "Titles": titles }))
}

pub(crate) async fn update(State(backend): State<Backend>, Name(name): Name, Json(body): Json<UpdateBody>) -> Reply {
    let (resources, restart) = body.into_model()?;
    let warnings = backend.engine.update(&name, resources, restart).await?;
    ok(&json!({ "Warnings": crate::json::list_or_null(warnings) }))
}

pub(crate) async fn remove(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    if query.flag("link") {
        return Err(Error::not_implemented("removing a link is not supported").into());
    }
    let options = RemoveOptions { force: query.flag("force"), volumes: query.flag("v") };
    backend.engine.remove(&name, options).await?;
    no_content()
}

pub(crate) async fn prune(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let until = until(&filters)?;
    let mut deleted = Vec::new();
    let mut reclaimed = 0;
    for info in backend.engine.list() {
        if !may_prune(&info, until, &filters) {
            continue;
        }
        let bytes = backend.engine.size(info.id.as_str()).await.map_or(0, |(writable, _)| writable);
        // Started or removed since it was listed: then it is no longer ours to prune.
        if backend.engine.remove(info.id.as_str(), RemoveOptions::default()).await.is_ok() {
            deleted.push(info.id.to_string());
            reclaimed += bytes;
        }
    }
    ok(&json!({ "ContainersDeleted": crate::json::list_or_null(deleted), "SpaceReclaimed": reclaimed }))
}

fn may_prune(info: &ContainerInfo, until: Option<Timestamp>, filters: &Filters) -> bool {
    let ended = matches!(info.state.status, ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Dead);
    ended && until.is_none_or(|until| info.created < until) && filters.labels_and_not(&info.config.labels)
}

/// `until` of the prune calls: a time, or a duration before now.
pub(crate) fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    let Some(text) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("more than one until filter specified"));
    }
    let at = crate::request::parse_time(text).or_else(|| {
        let before = go_duration(text)?;
        Some(Timestamp(now().0.saturating_sub(crate::json::nanos(before))))
    });
    at.map(Some).ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))
}

/// `24h`, `1h30m`, `90s`.
fn go_duration(text: &str) -> Option<std::time::Duration> {
    let mut total = std::time::Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => number.checked_mul(3600)?,
            "m" => number.checked_mul(60)?,
            "s" => number,
            _ => return None,
        };
        total = total.checked_add(std::time::Duration::from_secs(seconds))?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

/// Answers a known path whose work the engine does not offer.
pub(crate) async fn unsupported() -> ApiError {
    Error::not_implemented("this operation is not supported yet").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_of_until() {
        for (text, seconds) in [("24h", 86400), ("1h30m", 5400), ("90s", 90)] {
            assert_eq!(go_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "5", "5d", "99999999999999999999h", "-1h", "é"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_this_platform_runs() {
        assert!(check_platform("linux").is_ok());
        assert!(check_platform(&format!("linux/{}", skep_model::image::host_architecture())).is_ok());
        assert!(check_platform("windows/amd64").is_err() && check_platform("linux/s390x").is_err());
    }

    #[test]
    fn prune_takes_what_has_ended() {
        let mut info = ContainerInfo { created: Timestamp(5), ..ContainerInfo::default() };
        let none = Filters::default();
        assert!(may_prune(&info, None, &none) && may_prune(&info, Some(Timestamp(6)), &none));
        assert!(!may_prune(&info, Some(Timestamp(5)), &none));
        info.state.status = ContainerStatus::Running;
        assert!(!may_prune(&info, None, &none));
    }
}
