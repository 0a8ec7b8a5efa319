//! `run`, `create`, `start`, `exec`, `attach`: verbs that connect a terminal to a process.

use super::{create as create_body, registry};
use crate::client::{ApiError, query, segment};
use crate::flags::container::{Attach, Create, CreateFlags, Exec, Run, Start};
use crate::stream;
use crate::terminal::{self, RawMode};
use crate::{Client, Failure, Outcome, parse};
use anyhow::{Context, anyhow};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// Exit codes of a container that could not be started, as in docker.
const CANNOT_RUN: i32 = 125;
const CANNOT_INVOKE: i32 = 126;
const NOT_FOUND: i32 = 127;

pub(crate) async fn create(client: &Client, flags: Create) -> Outcome {
    let body = create_body::body(&flags.create, false, flags.rm)?;
    println!("{}", create_container(client, &flags.create, body).await?);
    Ok(())
}

pub(crate) async fn run(client: &Client, flags: Run) -> Outcome {
    let attach = !flags.detach;
    if attach && flags.create.tty && flags.create.interactive && !terminal::input_is_terminal() {
        return Err(anyhow!("the input device is not a TTY").into());
    }
    let started = async {
        let body = create_body::body(&flags.create, attach, flags.rm)?;
        let id = create_container(client, &flags.create, body).await?;
        if flags.detach {
            client.post(&format!("/containers/{id}/start"), Value::Null).await?;
            println!("{id}");
            return Ok(());
        }
        run_attached(client, &flags, &id).await
    };
    match started.await {
        Err(Failure::Api(error)) => {
            eprintln!("skep: {error}.\nSee 'skep run --help'.");
            Err(Failure::Code(start_error_code(&error)))
        }
        Err(Failure::Other(error)) => {
            eprintln!("skep: {error:#}");
            Err(Failure::Code(CANNOT_RUN))
        }
        other => other,
    }
}

fn start_error_code(error: &ApiError) -> i32 {
    let text = &error.message;
    if text.contains("executable file not found") || text.contains("no such file or directory: unknown") {
        NOT_FOUND
    } else if text.contains("permission denied") || text.contains("is a directory") {
        CANNOT_INVOKE
    } else {
        CANNOT_RUN
    }
}

/// Starts a created container with its streams connected, and ends as it ends.
pub(crate) async fn run_attached(client: &Client, flags: &Run, id: &str) -> Outcome {
    let create = &flags.create;
    let wants = |name: &str| {
        if create.attach.is_empty() || create.attach.iter().any(|a| a.eq_ignore_ascii_case(name)) { "1" } else { "" }
    };
    let stdin = if create.interactive { wants("stdin") } else { "" };
    let attach = query(&[
        ("stream", "1"),
        ("stdin", stdin),
        ("stdout", wants("stdout")),
        ("stderr", wants("stderr")),
        ("detachKeys", &flags.detach_keys),
    ]);
    let (stream, multiplexed) = client.hijack(&format!("/containers/{id}/attach{attach}"), Value::Null).await?;
    let condition = if flags.rm { "removed" } else { "next-exit" };
    let wait = client
        .send(
            http::Method::POST,
            &format!("/containers/{id}/wait?condition={condition}"),
            &[],
            crate::client::Payload::Empty,
        )
        .await?;
    client.post(&format!("/containers/{id}/start"), Value::Null).await?;

    let raw = if create.tty && create.interactive { RawMode::enter() } else { None };
    let resize = create.tty.then(|| stream::follow_size(client.clone(), format!("/containers/{id}")));
    let signals = (flags.sig_proxy && !create.tty).then(|| stream::forward_signals(client.clone(), id.to_owned()));
    let copied = stream::connect(stream, multiplexed, !stdin.is_empty()).await;
    for task in [resize, signals].into_iter().flatten() {
        task.abort();
    }
    drop(raw);
    copied?;
    let bytes = wait.into_body().collect().await.map_err(anyhow::Error::from)?.to_bytes();
    exit_with(&serde_json::from_slice(&bytes).context("the answer to wait")?)
}

fn exit_with(wait: &Value) -> Outcome {
    if let Some(message) = wait["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
        return Err(anyhow!("{message}").into());
    }
    match wait["StatusCode"].as_i64() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Code(i32::try_from(code).unwrap_or(CANNOT_RUN))),
        None => Err(anyhow!("the daemon did not say how the container ended").into()),
    }
}

async fn create_container(client: &Client, flags: &CreateFlags, body: Value) -> Outcome<String> {
    if !matches!(flags.pull.as_str(), "always" | "missing" | "never") {
        return Err(anyhow!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.pull
        )
        .into());
    }
    let image = flags.words[0].clone();
    let pull = || registry::pull_to_stderr(client, &image, &flags.platform, flags.quiet);
    if flags.pull == "always" {
        pull().await?;
    }
    let path = format!("/containers/create{}", query(&[("name", &flags.name), ("platform", &flags.platform)]));
    let created = match client.post(&path, body.clone()).await {
        Err(Failure::Api(ApiError { status: 404, message }))
            if flags.pull == "missing" && message.contains("No such image") =>
        {
            eprintln!("Unable to find image '{}' locally", registry::with_tag(&image));
            pull().await?;
            client.post(&path, body).await?
        }
        other => other?,
    };
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("WARNING: {warning}");
    }
    let id = created["Id"].as_str().context("the daemon gave no container id")?.to_owned();
    if let Some(path) = &flags.cidfile {
        std::fs::write(path, &id).with_context(|| path.clone())?;
    }
    Ok(id)
}

pub(crate) async fn start(client: &Client, flags: &Start) -> Outcome {
    if !flags.attach && !flags.interactive {
        return super::for_each(&flags.names, |name| async move {
            client.post(&format!("/containers/{}/start", segment(name)), Value::Null).await?;
            Ok(Some(name.to_owned()))
        })
        .await;
    }
    let [name] = flags.names.as_slice() else {
        return Err(anyhow!("you cannot start and attach multiple containers at once").into());
    };
    let seen = client.get(&format!("/containers/{}/json", segment(name))).await?;
    let (id, tty) = (seen["Id"].as_str().unwrap_or(name).to_owned(), seen["Config"]["Tty"] == true);
    let stdin = if flags.interactive { "1" } else { "" };
    let attach = query(&[("stream", "1"), ("stdin", stdin), ("stdout", "1"), ("stderr", "1")]);
    let (stream, multiplexed) = client.hijack(&format!("/containers/{id}/attach{attach}"), Value::Null).await?;
    client.post(&format!("/containers/{id}/start"), Value::Null).await?;
    let raw = if tty && flags.interactive { RawMode::enter() } else { None };
    let resize = tty.then(|| stream::follow_size(client.clone(), format!("/containers/{id}")));
    let copied = stream::connect(stream, multiplexed, flags.interactive).await;
    if let Some(resize) = resize {
        resize.abort();
    }
    drop(raw);
    copied?;
    exit_with(&client.post(&format!("/containers/{id}/wait"), Value::Null).await?)
}

pub(crate) async fn attach(client: &Client, flags: &Attach) -> Outcome {
    let seen = client.get(&format!("/containers/{}/json", segment(&flags.container))).await?;
    if seen["State"]["Running"] != true {
        return Err(anyhow!("You cannot attach to a stopped container, start it first").into());
    }
    let id = seen["Id"].as_str().unwrap_or(&flags.container).to_owned();
    let tty = seen["Config"]["Tty"] == true;
    let with_input = !flags.no_stdin && seen["Config"]["OpenStdin"] == true;
    let attach = query(&[
        ("stream", "1"),
        ("stdin", if with_input { "1" } else { "" }),
        ("stdout", "1"),
        ("stderr", "1"),
        ("detachKeys", &flags.detach_keys),
    ]);
    let (stream, multiplexed) = client.hijack(&format!("/containers/{id}/attach{attach}"), Value::Null).await?;
    let raw = if tty && with_input { RawMode::enter() } else { None };
    let resize = tty.then(|| stream::follow_size(client.clone(), format!("/containers/{id}")));
    let signals = (flags.sig_proxy && !tty).then(|| stream::forward_signals(client.clone(), id.clone()));
    let copied = stream::connect(stream, multiplexed, with_input).await;
    for task in [resize, signals].into_iter().flatten() {
        task.abort();
    }
    drop(raw);
    copied?;
    let after = client.get(&format!("/containers/{id}/json")).await?;
    match after["State"]["ExitCode"].as_i64() {
        Some(code) if code != 0 && after["State"]["Running"] != true => {
            Err(Failure::Code(i32::try_from(code).unwrap_or(CANNOT_RUN)))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn exec(client: &Client, flags: Exec) -> Outcome {
    if flags.tty && flags.interactive && !terminal::input_is_terminal() {
        return Err(anyhow!("the input device is not a TTY").into());
    }
    let mut body = json!({
        "Cmd": flags.words[1..],
        "Env": parse::environment(&flags.env, &flags.env_file)?,
        "User": flags.user,
        "WorkingDir": flags.workdir,
        "Tty": flags.tty,
        "Privileged": flags.privileged,
        "AttachStdin": flags.interactive && !flags.detach,
        "AttachStdout": !flags.detach,
        "AttachStderr": !flags.detach,
        "DetachKeys": flags.detach_keys,
    });
    let size = terminal::size().filter(|_| flags.tty);
    if let Some((height, width)) = size {
        body["ConsoleSize"] = json!([height, width]);
    }
    let created = client.post(&format!("/containers/{}/exec", segment(&flags.words[0])), body).await?;
    let id = created["Id"].as_str().context("the daemon gave no exec id")?.to_owned();
    let mut start = json!({"Detach": flags.detach, "Tty": flags.tty});
    if let Some((height, width)) = size {
        start["ConsoleSize"] = json!([height, width]);
    }
    if flags.detach {
        client.post(&format!("/exec/{id}/start"), start).await?;
        return Ok(());
    }
    let (stream, multiplexed) = client.hijack(&format!("/exec/{id}/start"), start).await?;
    let raw = if flags.tty && flags.interactive { RawMode::enter() } else { None };
    let resize = flags.tty.then(|| stream::follow_size(client.clone(), format!("/exec/{id}")));
    let copied = stream::connect(stream, multiplexed, flags.interactive).await;
    if let Some(resize) = resize {
        resize.abort();
    }
    drop(raw);
    copied?;
    let seen = client.get(&format!("/exec/{id}/json")).await?;
    match seen["ExitCode"].as_i64() {
        Some(0) | None => Ok(()),
        Some(code) => Err(Failure::Code(i32::try_from(code).unwrap_or(CANNOT_RUN))),
    }
}
