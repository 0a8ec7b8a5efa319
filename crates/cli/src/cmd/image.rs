//! Verbs on images.

use super::{inspect_kind, registry};
use crate::client::{Payload, filters, query, segment};
use crate::flags::image::{History, Image, Images, Import, Load, Rmi, Save, Tag};
use crate::format::{Listing, text};
use crate::{Client, Outcome, human, stream};
use anyhow::{Context, anyhow};
use chrono::Utc;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncRead;

pub(crate) async fn dispatch(client: &Client, verb: Image) -> Outcome {
    match verb {
        Image::Build(flags) => super::build::build(client, *flags).await,
        Image::History(flags) => history(client, &flags).await,
        Image::Import(flags) => import(client, flags).await,
        Image::Inspect(flags) => inspect_kind(client, &flags.names, &flags.format, "/images/{}/json").await,
        Image::Load(flags) => load(client, &flags).await,
        Image::Ls(flags) => list(client, &flags).await,
        Image::Prune(flags) => {
            let warning = if flags.all {
                "This will remove all images without at least one container associated to them."
            } else {
                "This will remove all dangling images."
            };
            super::system::prune_kind(client, "images", &flags, warning).await
        }
        Image::Pull(flags) => registry::pull(client, &flags).await,
        Image::Push(flags) => registry::push(client, &flags).await,
        Image::Rm(flags) => remove(client, &flags).await,
        Image::Save(flags) => save(client, &flags).await,
        Image::Tag(flags) => tag(client, &flags).await,
    }
}

pub(crate) async fn list(client: &Client, flags: &Images) -> Outcome {
    let mut given = flags.list.filter.clone();
    given.extend(flags.repository.iter().map(|name| format!("reference={name}")));
    let options = query(&[("all", if flags.all { "1" } else { "" }), ("filters", &filters(&given)?)]);
    let answer = client.get(&format!("/images/json{options}")).await?;
    let rows = answer.as_array().into_iter().flatten().flat_map(|image| rows(image, flags)).collect();
    let mut columns = vec![
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
    ];
    if flags.digests {
        columns.insert(2, ("Digest", "DIGEST"));
    }
    Listing { columns: &columns, rows, id: "ID" }.print(&flags.list.format, flags.list.quiet)
}

/// A row for each name of an image, or one without.
fn rows(image: &Value, flags: &Images) -> Vec<Value> {
    let id = text(&image["Id"]);
    let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let (tags, digests) = (words(&image["RepoTags"]), words(&image["RepoDigests"]));
    let digest_of = |repository: &str| {
        digests.iter().find_map(|d| d.strip_prefix(repository)?.strip_prefix('@')).unwrap_or("<none>").to_owned()
    };
    let row = |repository: &str, tag: &str| {
        json!({
            "ID": if flags.list.no_trunc { id.clone() } else { human::short_id(&id) },
            "Repository": repository,
            "Tag": tag,
            "Digest": digest_of(repository),
            "CreatedSince": human::ago_seconds(image["Created"].as_i64().unwrap_or(0), Utc::now()),
            "CreatedAt": image["Created"],
            "Size": human::size(image["Size"].as_f64().unwrap_or(0.0)),
        })
    };
    let named: Vec<Value> = tags
        .iter()
        .filter(|t| *t != "<none>:<none>")
        .filter_map(|t| t.rsplit_once(':'))
        .map(|(r, t)| row(r, t))
        .collect();
    if named.is_empty() {
        let repository = digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
        return vec![row(repository, "<none>")];
    }
    named
}

pub(crate) async fn history(client: &Client, flags: &History) -> Outcome {
    let answer = client.get(&format!("/images/{}/history", segment(&flags.image))).await?;
    let now = Utc::now();
    let shorten = |text: String, width| {
        if flags.no_trunc { text } else { human::ellipsis(&text.replace(['\t', '\n'], " "), width) }
    };
    let rows = answer.as_array().into_iter().flatten().map(|entry| {
        let (id, created) = (text(&entry["Id"]), entry["Created"].as_i64().unwrap_or(0));
        let size = entry["Size"].as_f64().unwrap_or(0.0);
        json!({
            "ID": if flags.no_trunc || id == "<missing>" { id } else { human::short_id(&id) },
            "CreatedSince": if flags.human { human::ago_seconds(created, now) } else { created.to_string() },
            "CreatedBy": shorten(text(&entry["CreatedBy"]), 45),
            "Size": if flags.human { human::size(size) } else { size.to_string() },
            "Comment": entry["Comment"],
        })
    });
    let columns = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    Listing { columns: &columns, rows: rows.collect(), id: "ID" }.print(&flags.format, flags.quiet)
}

pub(crate) async fn import(client: &Client, flags: Import) -> Outcome {
    let reader = open_input(Some(flags.file.as_str()).filter(|f| *f != "-")).await?;
    let (repository, tag) = match &flags.reference {
        Some(reference) => {
            let last = reference.rsplit('/').next().unwrap_or(reference);
            if last.contains(':') {
                reference.rsplit_once(':').map(|(r, t)| (r.to_owned(), t.to_owned())).unwrap_or_default()
            } else {
                (reference.clone(), String::new())
            }
        }
        None => Default::default(),
    };
    let mut options = query(&[
        ("fromSrc", "-"),
        ("repo", &repository),
        ("tag", &tag),
        ("message", &flags.message),
        ("platform", &flags.platform),
    ]);
    for change in &flags.change {
        options.push_str(&query(&[("changes", change)]).replacen('?', "&", 1));
    }
    let payload = Payload::Stream { reader, content_type: "application/x-tar" };
    let answer = client.send(Method::POST, &format!("/images/create{options}"), &[], payload).await?;
    stream::json_lines(answer, |line| {
        stream::progress_error(&line)?;
        println!("{}", text(&line["status"]));
        Ok(())
    })
    .await
}

pub(crate) async fn load(client: &Client, flags: &Load) -> Outcome {
    let reader = open_input(flags.input.as_deref()).await?;
    let options = query(&[("quiet", if flags.quiet { "1" } else { "0" })]);
    let payload = Payload::Stream { reader, content_type: "application/x-tar" };
    let answer = client.send(Method::POST, &format!("/images/load{options}"), &[], payload).await?;
    let mut progress = registry::Progress::new(flags.quiet, false);
    stream::json_lines(answer, |line| match line["stream"].as_str() {
        Some(text) => {
            print!("{text}");
            Ok(())
        }
        None => progress.show(&line),
    })
    .await
}

async fn open_input(path: Option<&str>) -> anyhow::Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
    Ok(match path {
        Some(path) => Box::new(tokio::fs::File::open(path).await.with_context(|| format!("open {path}"))?),
        None if crate::terminal::input_is_terminal() => {
            return Err(anyhow!("requested load from stdin, but stdin is empty"));
        }
        None => Box::new(tokio::io::stdin()),
    })
}

pub(crate) async fn save(client: &Client, flags: &Save) -> Outcome {
    if flags.output.is_none() && crate::terminal::output_is_terminal() {
        return Err(anyhow!("cowardly refusing to save to a terminal. Use the -o flag or redirect").into());
    }
    let names: Vec<String> = flags.images.iter().map(|name| query(&[("names", name)]).replacen('?', "", 1)).collect();
    let answer = stream::get_stream(client, &format!("/images/get?{}", names.join("&"))).await?;
    match &flags.output {
        None => stream::download(answer, tokio::io::stdout()).await.map(drop),
        Some(path) => {
            // A download that breaks off must not look like an archive.
            let partial = format!("{path}.partial");
            let file = tokio::fs::File::create(&partial).await.with_context(|| partial.clone())?;
            stream::download(answer, file).await?;
            Ok(tokio::fs::rename(&partial, path).await?)
        }
    }
}

pub(crate) async fn remove(client: &Client, flags: &Rmi) -> Outcome {
    let one = |on: bool| if on { "1" } else { "" };
    super::for_each(&flags.images, |name| async move {
        let options = query(&[("force", one(flags.force)), ("noprune", one(flags.no_prune))]);
        let answer = client.delete(&format!("/images/{}{options}", segment(name))).await?;
        let lines = answer.as_array().into_iter().flatten().flat_map(|entry| {
            ["Untagged", "Deleted"]
                .into_iter()
                .filter_map(|kind| entry[kind].as_str().map(|what| format!("{kind}: {what}")))
        });
        let lines: Vec<String> = lines.collect();
        Ok((!lines.is_empty()).then(|| lines.join("\n")))
    })
    .await
}

pub(crate) async fn tag(client: &Client, flags: &Tag) -> Outcome {
    let (repository, tag) = match flags.target.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (flags.target.as_str(), ""),
    };
    let options = query(&[("repo", repository), ("tag", tag)]);
    client.post(&format!("/images/{}/tag{options}", segment(&flags.source)), Value::Null).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn flags(words: &[&str]) -> Images {
        let words = ["skep", "images"].iter().chain(words);
        match crate::flags::Skep::try_parse_from(words).unwrap().verb {
            crate::flags::Verb::Images(flags) => flags,
            _ => panic!("images"),
        }
    }

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "127.0.0.1:5000/b:2"], "RepoDigests": ["a@sha256:99"], "Size": 1000, "Created": 1});
        let found = rows(&image, &flags(&[]));
        assert_eq!(found.len(), 2);
        assert_eq!((&found[1]["Repository"], &found[1]["Tag"]), (&json!("127.0.0.1:5000/b"), &json!("2")));
        assert_eq!(found[0]["Digest"], "sha256:99");
        let nameless = json!({"Id": "sha256:0123456789abcdef", "RepoTags": []});
        assert_eq!(rows(&nameless, &flags(&[]))[0]["Repository"], "<none>");
    }
}
