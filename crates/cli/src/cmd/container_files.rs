//! `diff`, `export` and `commit`. Copying is in `copy`.

use crate::client::{query, segment};
use crate::flags::container_files::{Commit, Diff, Export};
use crate::format::text;
use crate::{Client, Outcome, stream};
use anyhow::{Context, anyhow};
use serde_json::Value;

pub(crate) async fn diff(client: &Client, flags: &Diff) -> Outcome {
    let answer = client.get(&format!("/containers/{}/changes", segment(&flags.container))).await?;
    for change in answer.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => "C",
            Some(1) => "A",
            _ => "D",
        };
        println!("{kind} {}", text(&change["Path"]));
    }
    Ok(())
}

pub(crate) async fn export(client: &Client, flags: &Export) -> Outcome {
    if flags.output.is_none() && crate::terminal::output_is_terminal() {
        return Err(anyhow!("cowardly refusing to save to a terminal. Use the -o flag or redirect").into());
    }
    let answer = stream::get_stream(client, &format!("/containers/{}/export", segment(&flags.container))).await?;
    let Some(path) = &flags.output else {
        return stream::download(answer, tokio::io::stdout()).await.map(drop);
    };
    // A download that breaks off must not look like an archive.
    let partial = format!("{path}.partial");
    let file = tokio::fs::File::create(&partial).await.with_context(|| partial.clone())?;
    stream::download(answer, file).await?;
    Ok(tokio::fs::rename(&partial, path).await?)
}

pub(crate) async fn commit(client: &Client, flags: &Commit) -> Outcome {
    let reference = flags.reference.as_deref().unwrap_or_default();
    let (repository, tag) = match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, ""),
    };
    let mut options = query(&[
        ("container", &flags.container),
        ("repo", repository),
        ("tag", tag),
        ("comment", &flags.message),
        ("author", &flags.author),
        ("pause", if flags.pause { "1" } else { "0" }),
    ]);
    for change in &flags.change {
        options.push_str(&query(&[("changes", change)]).replacen('?', "&", 1));
    }
    println!("{}", text(&client.post(&format!("/commit{options}"), Value::Null).await?["Id"]));
    Ok(())
}
