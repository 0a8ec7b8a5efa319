//! `/images`, `/commit`, `/distribution`. Image names contain slashes, so what follows
//! the name is found from the end of the path.

use crate::backend::Backend;
use crate::changes;
use crate::error::{ApiError, Reply, json_reply, ok};
use crate::json::config::Config;
use crate::json::image::{FILTERS, History, Inspect, Summary, distribution, layer_sizes, layer_usage, removed, select};
use crate::json::now;
use crate::request::{Name, OptionalJson, Query, registry_auth};
use crate::route::containers::{check_platform, until};
use crate::stream::{json_line, with_progress};
use crate::upload::reader;
use crate::version::ApiVersion;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use skep_engine::image::NewImage;
use skep_model::container::ContainerConfig;
use skep_model::image::{ImageInfo, Reference};
use skep_model::{Error, Result};
use tokio_util::io::ReaderStream;

const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];
/// Bytes read from an archive at a time.
const ARCHIVE_CHUNK: usize = 64 << 10;

pub(crate) async fn list(
    State(backend): State<Backend>,
    query: Query,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let images = backend.engine.images();
    let chosen = select(images.list(), query.flag("all"), &filters, until(&filters)?, |name| images.resolve(name))?;
    ok(&chosen.iter().map(|image| Summary::of(image, version)).collect::<Vec<_>>())
}

/// `GET /images/NAME/{json,history,get}`.
pub(crate) async fn get(
    State(backend): State<Backend>,
    Name(path): Name,
    Extension(version): Extension<ApiVersion>,
) -> Reply {
    let (name, what) = split_suffix(&path)?;
    let images = backend.engine.images();
    match what {
        "json" => {
            let image = images.resolve(name)?;
            let layers = images.layer_dirs(&image.id)?;
            ok(&Inspect::of(&image, &layers, version))
        }
        "history" => ok(&images.history(name)?.iter().map(History::of).collect::<Vec<_>>()),
        "get" => save(&backend, &[name.to_owned()]).await,
        _ => Ok(crate::version::page_not_found().await),
    }
}

/// `POST /images/NAME/{push,tag}`.
pub(crate) async fn post(State(backend): State<Backend>, Name(path): Name, query: Query, headers: HeaderMap) -> Reply {
    let (name, what) = split_suffix(&path)?;
    match what {
        "push" => push(backend.clone(), name, &query, &headers).await,
        "tag" => {
            let target = with_tag(query.get("repo"), query.get("tag"))?;
            backend.engine.images().tag(name, &target)?;
            Ok(StatusCode::CREATED.into_response())
        }
        _ => Ok(crate::version::page_not_found().await),
    }
}

/// The name and the last word of a path.
fn split_suffix(path: &str) -> Result<(&str, &str)> {
    path.rsplit_once('/').filter(|(name, _)| !name.is_empty()).ok_or_else(|| Error::not_found("page not found"))
}

/// `repository[:tag]` out of two parameters; the second may be a digest.
fn with_tag(repository: &str, tag: &str) -> Result<String> {
    let mut reference = Reference::parse(repository.trim_end_matches(':'))?;
    if tag.starts_with("sha256:") {
        reference.digest = Some(tag.to_owned());
    } else if !tag.is_empty() {
        reference.tag = Some(tag.to_owned());
    }
    // Once more, for what the second parameter brought.
    let text = reference.familiar();
    Reference::parse(&text)?;
    Ok(text)
}

/// `POST /images/create`: pull, or import of the body.
pub(crate) async fn create(State(backend): State<Backend>, query: Query, headers: HeaderMap, body: Body) -> Reply {
    match (query.nonempty("fromImage"), query.nonempty("fromSrc")) {
        (Some(image), _) => pull(backend, image, &query, &headers).await,
        (None, Some("-")) => import(backend, &query, body).await,
        (None, Some(_)) => {
            Err(Error::not_implemented("importing from a URL is not supported: send the archive").into())
        }
        (None, None) => Err(Error::invalid("either fromImage or fromSrc is needed").into()),
    }
}

async fn pull(backend: Backend, image: &str, query: &Query, headers: &HeaderMap) -> Reply {
    let reference = with_tag(image, query.get("tag"))?;
    let parsed = Reference::parse(&reference)?;
    if parsed.tag.is_none() && parsed.digest.is_none() {
        return Err(Error::not_implemented("pulling all tags of a repository is not supported: name a tag").into());
    }
    let platform = query.nonempty("platform").map(str::to_owned);
    let auth = registry_auth(headers)?;
    let work = move |progress| async move {
        backend.engine.images().pull(&reference, platform.as_deref(), auth, progress).await
    };
    with_progress(work, false, |_| vec![]).await
}

async fn import(backend: Backend, query: &Query, body: Body) -> Reply {
    let target = query.nonempty("repo").map(|repo| with_tag(repo, query.get("tag"))).transpose()?;
    if let Some(platform) = query.nonempty("platform") {
        check_platform(platform)?;
    }
    let mut config = ContainerConfig::default();
    changes::apply(&mut config, &query.all("changes"))?;
    let message = query.nonempty("message").unwrap_or("Imported from -").to_owned();
    let id = backend.engine.images().import(reader(body), target.as_deref(), &message, config, now()).await?;
    let line = json_line(&json!({ "status": id }));
    Ok(([(header::CONTENT_TYPE, "application/json")], line).into_response())
}

async fn push(backend: Backend, name: &str, query: &Query, headers: &HeaderMap) -> Reply {
    let references = push_references(&backend, name, query.get("tag"))?;
    let auth = registry_auth(headers)?;
    let work = move |progress| async move {
        for reference in references {
            backend.engine.images().push(&reference, auth.clone(), tokio::sync::mpsc::Sender::clone(&progress)).await?;
        }
        Ok(())
    };
    with_progress(work, false, |()| vec![]).await
}

/// One tag, or without one all tags of the repository that are here.
fn push_references(backend: &Backend, name: &str, tag: &str) -> Result<Vec<String>> {
    let reference = with_tag(name, tag)?;
    let wanted = Reference::parse(&reference)?;
    if wanted.tag.is_some() {
        return Ok(vec![reference]);
    }
    let tags = backend.engine.images().list().into_iter().flat_map(|image| image.repo_tags);
    let same = |tag: &String| Reference::parse(tag).is_ok_and(|tag| tag.familiar_name() == wanted.familiar_name());
    let references: Vec<String> = tags.filter(same).collect();
    if references.is_empty() {
        let name = wanted.familiar_name();
        return Err(Error::not_found(format!("An image does not exist locally with the tag: {name}")));
    }
    Ok(references)
}

pub(crate) async fn remove(State(backend): State<Backend>, Name(name): Name, query: Query) -> Reply {
    if query.flag("noprune") {
        return Err(Error::not_implemented("noprune is not supported").into());
    }
    ok(&removed(&backend.engine.image_remove(&name, query.flag("force"))?))
}

pub(crate) async fn prune(State(backend): State<Backend>, query: Query) -> Reply {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let until = until(&filters)?;
    let only_dangling = filters.boolean("dangling")?.unwrap_or(true);
    let in_use: Vec<String> = backend.engine.list().iter().map(|info| info.image_id.clone()).collect();
    let images = backend.engine.images();
    let mut done = Vec::new();
    let before = layer_bytes(&backend);
    for image in select(images.list(), true, &crate::filters::Filters::default(), until, |name| images.resolve(name))? {
        let spared = in_use.contains(&image.id)
            || (only_dangling && !image.repo_tags.is_empty())
            || !filters.labels_and_not(&image.config.labels);
        if spared {
            continue;
        }
        let names = if image.repo_tags.is_empty() { vec![image.id.clone()] } else { image.repo_tags.clone() };
        for name in names {
            // What others build on stays, and is no failure of the prune.
            if let Ok(more) = backend.engine.image_remove(&name, false) {
                done.extend(more);
            }
        }
    }
    let reclaimed = before.saturating_sub(layer_bytes(&backend));
    ok(&json!({ "ImagesDeleted": crate::json::list_or_null(removed(&done)), "SpaceReclaimed": reclaimed }))
}

/// Bytes of all layers: what images share counts once.
fn layer_bytes(backend: &Backend) -> u64 {
    layer_usage(&sized_images(backend)).total
}

/// All images with the sizes of their layers.
pub(crate) fn sized_images(backend: &Backend) -> Vec<(ImageInfo, Vec<u64>)> {
    let store = backend.engine.images();
    let sizes = |image: &ImageInfo| store.history(&image.id).map(|history| layer_sizes(&history)).unwrap_or_default();
    store.list().into_iter().map(|image| (sizes(&image), image)).map(|(sizes, image)| (image, sizes)).collect()
}

pub(crate) async fn save_many(State(backend): State<Backend>, query: Query) -> Reply {
    let names = query.all("names");
    if names.is_empty() {
        return Err(Error::invalid("no image names were given").into());
    }
    save(&backend, &names).await
}

async fn save(backend: &Backend, names: &[String]) -> Reply {
    let archive = backend.engine.images().save(names).await?;
    let body = Body::from_stream(ReaderStream::with_capacity(archive, ARCHIVE_CHUNK));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

pub(crate) async fn load(State(backend): State<Backend>, query: Query, body: Body) -> Reply {
    let quiet = query.flag("quiet");
    let work = move |progress| async move { backend.engine.images().load(reader(body), progress).await };
    // The engine itself reports each name it loaded.
    with_progress(work, quiet, |_names| vec![]).await
}

pub(crate) async fn search() -> ApiError {
    Error::not_implemented("searching a registry is not supported").into()
}

pub(crate) async fn remote(State(backend): State<Backend>, Name(path): Name, headers: HeaderMap) -> Reply {
    let (name, what) = split_suffix(&path)?;
    if what != "json" {
        return Ok(crate::version::page_not_found().await);
    }
    let reference = Reference::parse(name)?.with_default_tag().familiar();
    ok(&distribution(&backend.engine.images().remote_digest(&reference, registry_auth(&headers)?).await?))
}

/// `POST /commit`: the body, if any, replaces parts of the container's config.
pub(crate) async fn commit(
    State(backend): State<Backend>,
    query: Query,
    OptionalJson(body): OptionalJson<Option<Config>>,
) -> Reply {
    let container = query.get("container");
    let info = backend.engine.inspect(container)?;
    let mut config = info.config.clone();
    if let Some(wanted) = body {
        override_config(&mut config, wanted.into_model()?);
    }
    changes::apply(&mut config, &query.all("changes"))?;
    let target = query.nonempty("repo").map(|repo| with_tag(repo, query.get("tag"))).transpose()?;
    let image = NewImage {
        parent: Some(info.image_id.clone()),
        // The engine makes it from the container's writable layer.
        layer: None,
        config,
        created: now(),
        created_by: std::iter::once(&info.path).chain(&info.args).map(String::as_str).collect::<Vec<_>>().join(" "),
        comment: query.get("comment").to_owned(),
        author: query.get("author").to_owned(),
    };
    let id = backend.engine.commit(container, image, target.as_deref(), query.flag_or("pause", true)).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({ "Id": id })))
}

fn override_config(config: &mut ContainerConfig, wanted: ContainerConfig) {
    fn replace<T: Default + PartialEq>(present: &mut T, wanted: T) {
        if wanted != T::default() {
            *present = wanted;
        }
    }
    replace(&mut config.user, wanted.user);
    replace(&mut config.exposed_ports, wanted.exposed_ports);
    replace(&mut config.env, wanted.env);
    replace(&mut config.cmd, wanted.cmd);
    replace(&mut config.entrypoint, wanted.entrypoint);
    replace(&mut config.volumes, wanted.volumes);
    replace(&mut config.working_dir, wanted.working_dir);
    replace(&mut config.stop_signal, wanted.stop_signal);
    replace(&mut config.healthcheck, wanted.healthcheck);
    replace(&mut config.on_build, wanted.on_build);
    config.labels.extend(wanted.labels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_slashes() {
        assert_eq!(split_suffix("10.99.0.254:5000/whoami/json").unwrap(), ("10.99.0.254:5000/whoami", "json"));
        assert_eq!(split_suffix("a/b/c/push").unwrap(), ("a/b/c", "push"));
        assert!(split_suffix("json").is_err() && split_suffix("/json").is_err());
    }

    #[test]
    fn references_come_in_two_parameters() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(with_tag("busybox", "1.36").unwrap(), "busybox:1.36");
        assert_eq!(with_tag("r:5000/a/b", "").unwrap(), "r:5000/a/b");
        assert_eq!(with_tag("busybox", &digest).unwrap(), format!("busybox@{digest}"));
        for (repository, tag) in [("UP", "x"), ("busybox", "-x"), ("busybox", "a b"), ("", ""), ("é", "1")] {
            assert!(with_tag(repository, tag).is_err(), "{repository}:{tag}");
        }
        assert!(with_tag(&"n".repeat(10_000), "").is_err());
    }
}
