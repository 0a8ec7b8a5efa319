//! `run` and `exec`: one command, in a new container of a service or in one that is there.

use super::body::{self, Purpose};
use super::{Context, images, labels, make, order, up};
use crate::cmd::process;
use crate::flags::compose::{Exec, Making, Run};
use crate::flags::container::{self as container_flags, CreateFlags};
use crate::{Failure, Outcome, parse, terminal};
use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;

/// Random bytes in the name of a one-off container.
const SLUG_BYTES: usize = 6;

pub(super) async fn exec(context: &Context<'_>, flags: Exec) -> Outcome {
    let one = context.one(&flags.words[0], flags.index).await?;
    if !one.runs() {
        return Err(anyhow!("service \"{}\" is not running", flags.words[0]).into());
    }
    let tty = !flags.no_tty && !flags.detach && terminal::input_is_terminal() && terminal::output_is_terminal();
    let words = std::iter::once(one.id).chain(flags.words.into_iter().skip(1)).collect();
    let flags = container_flags::Exec {
        detach: flags.detach,
        detach_keys: String::new(),
        env: flags.env,
        env_file: Vec::new(),
        interactive: !flags.detach,
        privileged: flags.privileged,
        tty,
        user: flags.user,
        workdir: flags.workdir,
        words,
    };
    process::exec(context.client, flags).await
}

pub(super) async fn run(context: &Context<'_>, flags: Run) -> Outcome {
    let key = &flags.words[0];
    let service = context.service(key).with_context(|| format!("no such service: {key}"))?;
    let making = Making {
        build: flags.build,
        pull: flags.pull.clone(),
        quiet_pull: flags.quiet_pull,
        remove_orphans: flags.remove_orphans,
        ..Making::default()
    };
    let image_ids = images::ensure(context, &[service], &making).await?;
    if flags.no_deps || service.depends_on.is_empty() {
        make::networks(context).await?;
        make::volumes(context).await?;
    } else {
        start_needed(context, key, making).await?;
        super::waiting::dependencies(context, &service.depends_on).await?;
    }
    let slug = slug()?;
    let name = flags.name.clone().unwrap_or_else(|| format!("{}-{key}-run-{slug}", context.name()));
    let image_id = image_ids.get(key).map(String::as_str).unwrap_or_default();
    let seen = context.seen().await?;
    let mut body = body::build(service, &make::origin(context)?, Purpose::OneOff(&slug), image_id, &seen)?;
    let tty = !flags.no_tty && !flags.detach && terminal::input_is_terminal() && terminal::output_is_terminal();
    change(&mut body, &flags, tty)?;
    let id = make::create(context.client, &name, body, service).await?;
    if flags.detach {
        context.client.post(&format!("/containers/{id}/start"), Value::Null).await?;
        println!("{id}");
        return Ok(());
    }
    let attached = container_flags::Run {
        detach: false,
        rm: flags.rm,
        detach_keys: String::new(),
        sig_proxy: true,
        create: CreateFlags { interactive: flags.interactive, tty, ..CreateFlags::default() },
    };
    let ended = process::run_attached(context.client, &attached, &id).await;
    if flags.rm && matches!(ended, Err(Failure::Api(_))) {
        // One that never started removes itself never; another's removal is as good.
        let _ = context.client.delete(&format!("/containers/{id}?v=1&force=1")).await;
    }
    ended
}

/// Brings what the service depends on about, and starts it.
async fn start_needed(context: &Context<'_>, key: &str, making: Making) -> Outcome {
    let mut needed = order::select(context.services(), &[key.to_owned()], true)?;
    needed.remove(key);
    let options = up::Options { named: needed.iter().cloned().collect(), making, ..up::Options::default() };
    let chosen: BTreeSet<String> = up::bring_about(context, &options).await?;
    up::start_services(context, &chosen, true).await
}

/// The service's body as this one run wants it.
fn change(body: &mut Value, flags: &Run, tty: bool) -> anyhow::Result<()> {
    let (interactive, attached) = (flags.interactive && !flags.detach, !flags.detach);
    for (field, value) in [
        ("Tty", tty.into()),
        ("OpenStdin", interactive.into()),
        ("StdinOnce", interactive.into()),
        ("AttachStdin", interactive.into()),
        ("AttachStdout", attached.into()),
        ("AttachStderr", attached.into()),
    ] {
        body[field] = value;
    }
    if let Some(entrypoint) = &flags.entrypoint {
        body["Entrypoint"] = parse_words(entrypoint)?;
        body["Cmd"] = json!([]);
    }
    if flags.words.len() > 1 {
        body["Cmd"] = flags.words[1..].into();
    }
    if let Some(user) = &flags.user {
        body["User"] = user.clone().into();
    }
    if let Some(folder) = &flags.workdir {
        body["WorkingDir"] = folder.clone().into();
    }
    extend(&mut body["Env"], parse::environment(&flags.env, &[])?);
    let given: Vec<(String, String)> = flags
        .label
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let given: Vec<(&str, String)> = given.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    labels::add(body, &given);
    let host = &mut body["HostConfig"];
    host["AutoRemove"] = flags.rm.into();
    host["RestartPolicy"] = json!({"Name": "no"});
    extend(&mut host["CapAdd"], flags.cap_add.clone());
    extend(&mut host["CapDrop"], flags.cap_drop.clone());
    let (binds, anonymous): (Vec<String>, Vec<String>) =
        flags.volume.iter().cloned().partition(|text| text.contains(':'));
    extend(&mut host["Binds"], absolute(binds)?);
    for target in anonymous {
        if let Value::Array(mounts) = &mut host["Mounts"] {
            mounts.push(json!({"Type": "volume", "Target": target}));
        }
    }
    publish(body, flags)?;
    if !flags.use_aliases {
        let endpoints = body["NetworkingConfig"]["EndpointsConfig"].as_object_mut();
        for (_, endpoint) in endpoints.into_iter().flatten() {
            endpoint["Aliases"] = json!([]);
        }
    }
    Ok(())
}

/// The service's ports only where they are asked for, and those of this run.
fn publish(body: &mut Value, flags: &Run) -> anyhow::Result<()> {
    if !flags.service_ports {
        body["HostConfig"]["PortBindings"] = json!({});
    }
    for text in &flags.publish {
        for port in parse::publish(text)? {
            let binding = json!({"HostIp": port.host_ip, "HostPort": port.host_port});
            body["ExposedPorts"][&port.container] = json!({});
            let bindings = &mut body["HostConfig"]["PortBindings"][&port.container];
            match bindings {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
    }
    Ok(())
}

/// A line as a shell would split it.
fn parse_words(line: &str) -> anyhow::Result<Value> {
    let words = shlex::split(line).ok_or_else(|| anyhow!("--entrypoint: a quote is opened and never closed"))?;
    Ok(words.into())
}

/// `./here:/there` begins in this folder.
fn absolute(binds: Vec<String>) -> anyhow::Result<Vec<String>> {
    let here = std::env::current_dir().context("the working directory is gone")?;
    let one = |bind: String| match bind.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => format!("{}:{rest}", here.join(source).display()),
        _ => bind,
    };
    Ok(binds.into_iter().map(one).collect())
}

fn extend(list: &mut Value, more: Vec<String>) {
    let items = more.into_iter().map(Value::from);
    match list {
        Value::Array(list) => list.extend(items),
        other => *other = items.collect(),
    }
}

/// Random letters for a name.
fn slug() -> anyhow::Result<String> {
    let mut bytes = [0; SLUG_BYTES];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Skep, Verb, compose};
    use clap::Parser as _;

    fn flags(words: &[&str]) -> Run {
        let words = ["skep", "compose", "run"].iter().chain(words);
        match Skep::try_parse_from(words).unwrap().verb {
            Verb::Compose(flags) => match flags.verb {
                compose::Verb::Run(flags) => *flags,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn changed(words: &[&str]) -> Value {
        let mut body = json!({"Cmd": ["serve"], "Entrypoint": ["/e"], "Env": ["A=b"], "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostPort": "80"}]}, "RestartPolicy": {"Name": "always"}, "Mounts": []},
            "NetworkingConfig": {"EndpointsConfig": {"n": {"Aliases": ["web"]}}}});
        change(&mut body, &flags(words), false).unwrap();
        body
    }

    #[test]
    fn a_run_publishes_nothing_and_answers_to_no_name() {
        let body = changed(&["--rm", "web", "echo", "-n", "hi"]);
        assert_eq!(body["Cmd"], json!(["echo", "-n", "hi"]));
        assert_eq!(body["HostConfig"]["PortBindings"], json!({}));
        assert_eq!(
            (&body["HostConfig"]["AutoRemove"], &body["HostConfig"]["RestartPolicy"]),
            (&json!(true), &json!({"Name": "no"}))
        );
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["n"]["Aliases"], json!([]));
    }

    #[test]
    fn flags_add_to_the_service() {
        let body =
            changed(&["-P", "--use-aliases", "-e", "C=d", "-p", "8080:90", "-v", "/x", "--entrypoint", "sh -c", "web"]);
        assert_eq!(
            (&body["Env"], &body["Entrypoint"], &body["Cmd"]),
            (&json!(["A=b", "C=d"]), &json!(["sh", "-c"]), &json!([]))
        );
        let ports = &body["HostConfig"]["PortBindings"];
        assert_eq!((&ports["80/tcp"][0]["HostPort"], &ports["90/tcp"][0]["HostPort"]), (&json!("80"), &json!("8080")));
        assert_eq!(body["HostConfig"]["Mounts"][0]["Target"], "/x");
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["n"]["Aliases"], json!(["web"]));
    }
}
