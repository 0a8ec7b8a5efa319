//! `stack deploy`: makes what is missing, changes what differs, leaves the rest alone.

use super::{by_name, converge, dependencies, files, objects, remove, same, stack_name};
use crate::client::{Payload, query, segment};
use crate::cmd::{registry, service};
use crate::flags::stack::Deploy;
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::anyhow;
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;
use skep_compose::{FileObject, IMAGE_LABEL, Service, Stack};
use std::collections::BTreeMap;

type Answer = hyper::Response<hyper::body::Incoming>;

/// How often a service that changes under our hands is written.
const UPDATE_ATTEMPTS: usize = 10;
/// What the daemon says of a version that is not the present one.
const OUT_OF_SEQUENCE: &str = "update out of sequence";
/// Networks that every node has by itself.
const NODE_LOCAL: [&str; 4] = ["bridge", "default", "host", "none"];

pub(super) async fn deploy(client: &Client, flags: &Deploy) -> Outcome {
    let name = stack_name(&flags.stack)?;
    if !matches!(flags.resolve_image.as_str(), "always" | "changed" | "never") {
        return Err(anyhow!("Invalid option {} for flag --resolve-image", flags.resolve_image).into());
    }
    let stack = files::load(&flags.files, true)?.to_stack(name, &files::Disk).map_err(anyhow::Error::from)?;
    if flags.prune {
        prune(client, name, &stack).await?;
    }
    check_external(client, &stack).await?;
    make_networks(client, name, &stack).await?;
    file_objects(client, "secret", &stack.secrets).await?;
    file_objects(client, "config", &stack.configs).await?;
    services(client, flags, name, &stack).await?;
    if flags.detach { Ok(()) } else { converge::stack(client, name, flags.quiet).await }
}

async fn prune(client: &Client, name: &str, stack: &Stack) -> Outcome {
    let present = by_name(objects::list(client, "services", name, &[]).await?);
    let old: Vec<(String, Value)> =
        present.into_iter().filter(|(name, _)| !stack.services.iter().any(|service| service.name == *name)).collect();
    if remove::remove_all(client, "service", &old).await {
        return Err(anyhow!("failed to prune the stack's services").into());
    }
    Ok(())
}

async fn check_external(client: &Client, stack: &Stack) -> Outcome {
    for network in stack.external_networks.iter().filter(|name| !NODE_LOCAL.contains(&name.as_str())) {
        let scope = match client.get(&format!("/networks/{}", segment(network))).await {
            Ok(found) => text(&found["Scope"]),
            Err(Failure::Api(error)) if error.status == 404 => {
                let text = "You need to create a swarm-scoped network before the stack can be deployed";
                return Err(
                    anyhow!("network \"{network}\" is declared as external, but could not be found. {text}").into()
                );
            }
            Err(failure) => return Err(failure),
        };
        if scope != "swarm" {
            let text = format!("network \"{network}\" is declared as external, but it is not in the right scope");
            return Err(anyhow!("{text}: \"{scope}\" instead of \"swarm\"").into());
        }
    }
    Ok(())
}

async fn make_networks(client: &Client, name: &str, stack: &Stack) -> Outcome {
    let present = by_name(objects::list(client, "networks", name, &[]).await?);
    for (network, body) in stack.networks.iter().filter(|(network, _)| !present.contains_key(network)) {
        println!("Creating network {network}");
        let mut body = body.clone();
        body["Name"] = network.clone().into();
        let made = client.post("/networks/create", body).await;
        explain(made, || format!("failed to create network {network}"))?;
    }
    Ok(())
}

/// Creates secrets or configs, and gives those that are there their labels and content.
async fn file_objects(client: &Client, kind: &str, wanted: &[FileObject]) -> Outcome {
    for object in wanted {
        let path = format!("/{kind}s/{}", segment(&object.name));
        match client.get(&path).await {
            Ok(present) if present["Spec"]["Name"] == object.name.as_str() => {
                let same = same::normal(&present["Spec"]) == same::normal(&object.body);
                // What a secret holds cannot be read, so only the daemon can compare it; where
                // it differs, the services that use it are restarted.
                if kind == "secret" || !same {
                    if !same && kind == "config" {
                        println!("Updating config {}", object.name);
                    }
                    let version = present["Version"]["Index"].to_string();
                    let id = text(&present["ID"]);
                    let path = format!("/{kind}s/{id}/update{}", query(&[("version", &version)]));
                    let updated = client.post(&path, object.body.clone()).await;
                    explain(updated, || format!("failed to update {kind} {}", object.name))?;
                }
                continue;
            }
            // A prefix of another one's id is no such object.
            Ok(_) => {}
            Err(Failure::Api(error)) if error.status == 404 => {}
            Err(failure) => return Err(failure),
        }
        println!("Creating {kind} {}", object.name);
        let made = client.post(&format!("/{kind}s/create"), object.body.clone()).await;
        explain(made, || format!("failed to create {kind} {}", object.name))?;
    }
    Ok(())
}

async fn services(client: &Client, flags: &Deploy, name: &str, stack: &Stack) -> Outcome {
    let present = by_name(objects::list(client, "services", name, &[]).await?);
    let networks = network_ids(client).await?;
    for wanted in &stack.services {
        let mut spec = wanted.spec.clone();
        fill_ids(client, &mut spec, "Secrets", "Secret").await?;
        fill_ids(client, &mut spec, "Configs", "Config").await?;
        let old = present.get(&wanted.name);
        let auth = if flags.with_registry_auth { registry::credentials(&wanted.image) } else { None };
        resolve_image(client, flags, wanted, old, &mut spec).await?;
        if let Some(old) = old {
            spec["TaskTemplate"]["ForceUpdate"] = old["Spec"]["TaskTemplate"]["ForceUpdate"].clone();
            if same::specs(&old["Spec"], &same::with_network_ids(&spec, &networks)) {
                println!("Service {} (id: {}) is up to date", wanted.name, text(&old["ID"]));
                continue;
            }
        }
        dependencies::wait(client, wanted, &stack.services, flags.quiet).await?;
        send(client, wanted, old, spec, auth).await?;
    }
    Ok(())
}

async fn send(client: &Client, wanted: &Service, old: Option<&Value>, spec: Value, auth: Option<String>) -> Outcome {
    let headers: Vec<(&str, String)> = auth.into_iter().map(|auth| ("X-Registry-Auth", auth)).collect();
    let answer = match old {
        Some(old) => {
            println!("Updating service {} (id: {})", wanted.name, text(&old["ID"]));
            let sent = update(client, old, spec, &headers).await;
            explain(sent, || format!("failed to update service {}", wanted.name))?
        }
        None => {
            println!("Creating service {}", wanted.name);
            let sent = client.send(Method::POST, "/services/create", &headers, Payload::Json(spec)).await;
            explain(sent, || format!("failed to create service {}", wanted.name))?
        }
    };
    let bytes = answer.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    service::warn(&answer);
    Ok(())
}

/// Asks again when the service changed since it was read: a rolling update notes its progress
/// in it. What the file says wins either way.
async fn update(client: &Client, old: &Value, mut spec: Value, headers: &[(&str, String)]) -> Outcome<Answer> {
    let id = text(&old["ID"]);
    let mut version = old["Version"]["Index"].to_string();
    for _ in 1..UPDATE_ATTEMPTS {
        let path = format!("/services/{id}/update{}", query(&[("version", &version)]));
        match client.send(Method::POST, &path, headers, Payload::Json(spec.clone())).await {
            Err(Failure::Api(error)) if error.message.contains(OUT_OF_SEQUENCE) => {
                let present = client.get(&format!("/services/{id}")).await?;
                version = present["Version"]["Index"].to_string();
                spec["TaskTemplate"]["ForceUpdate"] = present["Spec"]["TaskTemplate"]["ForceUpdate"].clone();
            }
            other => return other,
        }
    }
    let path = format!("/services/{id}/update{}", query(&[("version", &version)]));
    client.send(Method::POST, &path, headers, Payload::Json(spec)).await
}

/// Pins the image to the digest its registry knows, or keeps the one an earlier deploy found.
async fn resolve_image(
    client: &Client,
    flags: &Deploy,
    wanted: &Service,
    old: Option<&Value>,
    spec: &mut Value,
) -> Outcome {
    let unchanged = old.filter(|old| old["Spec"]["Labels"][IMAGE_LABEL] == wanted.image.as_str());
    match (flags.resolve_image.as_str(), unchanged) {
        ("changed" | "never", Some(old)) => {
            let image = &old["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"];
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = image.clone();
            let platforms = &old["Spec"]["TaskTemplate"]["Placement"]["Platforms"];
            if platforms.is_array() {
                spec["TaskTemplate"]["Placement"]["Platforms"] = platforms.clone();
            }
            Ok(())
        }
        ("never", None) => {
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = registry::with_tag(&wanted.image).into();
            Ok(())
        }
        _ => service::pin(client, spec).await,
    }
}

/// Puts ids beside the names of secrets or configs.
async fn fill_ids(client: &Client, spec: &mut Value, field: &str, kind: &str) -> Outcome {
    let (name_field, id_field) = (format!("{kind}Name"), format!("{kind}ID"));
    let word = kind.to_lowercase();
    let references = spec["TaskTemplate"]["ContainerSpec"][field].as_array_mut();
    for reference in references.into_iter().flatten() {
        let name = text(&reference[&name_field]);
        let found = client.get(&format!("/{word}s/{}", segment(&name))).await;
        match found {
            Ok(found) if found["Spec"]["Name"] == name.as_str() => reference[&id_field] = found["ID"].clone(),
            Ok(_) => return Err(anyhow!("{word} not found: {name}").into()),
            Err(Failure::Api(error)) if error.status == 404 => {
                return Err(anyhow!("{word} not found: {name}").into());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

async fn network_ids(client: &Client) -> Outcome<BTreeMap<String, String>> {
    let answer = client.get("/networks").await?;
    let swarm = answer.as_array().into_iter().flatten().filter(|network| network["Scope"] == "swarm");
    Ok(swarm.map(|network| (text(&network["Name"]), text(&network["Id"]))).collect())
}

/// Says what was being done when the daemon refused.
fn explain<T>(result: Outcome<T>, doing: impl FnOnce() -> String) -> Outcome<T> {
    result.map_err(|failure| match failure {
        Failure::Api(error) => Failure::Other(anyhow::Error::from(error).context(doing())),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ApiError;

    #[test]
    fn a_refusal_says_what_was_being_done() {
        let refused: Outcome = Err(ApiError { status: 400, message: "no".into() }.into());
        let said = explain(refused, || "failed to create service a".into()).unwrap_err().to_string();
        assert_eq!(said, "failed to create service a: Error response from daemon: no");
    }
}
