//! Clients that nobody here wrote and that are no docker command line: docker-compose and
//! the SDK for Python, both as Debian ships them.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::client::{environment, success};
use skep_conformance::{Host, wait};
use std::fs;
use std::process::Command;

/// Scenarios that bring their own client.
pub(crate) const SCENARIOS: &[Scenario] = &[("compose_v1", compose_v1), ("sdk_for_python", sdk_for_python)];

const PROJECT: &str = r#"
version: "3.8"
services:
  web:
    build: CONTEXT
    image: whoami
    ports: ["8085:80"]
    depends_on: [store]
  store:
    image: busybox
    command: ["sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    environment: {COLOUR: blue}
    volumes: ["data:/data", "./notes:/notes:ro"]
    networks: {default: {aliases: [shelf]}}
volumes:
  data: {}
"#;

fn compose_v1(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let folder = host.scratch().join("project");
    fs::create_dir_all(folder.join("notes"))?;
    fs::write(folder.join("notes/one"), "from the host\n")?;
    let context = environment("SKEP_TEST_WHOAMI_CONTEXT");
    fs::write(folder.join("docker-compose.yml"), PROJECT.replace("CONTEXT", &context.to_string_lossy()))?;
    let compose = |args: &[&str]| -> Result<String> {
        let mut command = Command::new("/usr/bin/docker-compose");
        command.args(args).current_dir(&folder).env("DOCKER_HOST", format!("unix://{}", host.socket()));
        success(&command.output()?).with_context(|| args.join(" "))
    };

    compose(&["up", "-d", "--build"])?;
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8085/"))?;
    let listed = compose(&["ps"])?;
    ensure!(listed.contains("project_web_1") && listed.contains("0.0.0.0:8085->80/tcp"), "{listed}");
    wait::until("the log", || {
        let log = compose(&["logs", "--no-color", "store"])?;
        ensure!(log.contains("store_1") && log.contains("started"), "{log}");
        Ok(())
    })?;
    let seen = compose(&["exec", "-T", "store", "sh", "-c", "echo $COLOUR; cat /notes/one; nslookup shelf"])?;
    ensure!(seen.starts_with("blue\nfrom the host\n") && seen.contains("Name:"), "{seen}");
    compose(&["exec", "-T", "store", "sh", "-c", "echo kept > /data/file"])?;

    // What did not change stays as it is; what did is replaced and keeps its volume.
    let before = compose(&["ps", "-q", "store"])?;
    compose(&["up", "-d"])?;
    ensure!(compose(&["ps", "-q", "store"])? == before, "an unchanged container was replaced");
    let file = folder.join("docker-compose.yml");
    fs::write(&file, fs::read_to_string(&file)?.replace("COLOUR: blue", "COLOUR: green"))?;
    compose(&["up", "-d"])?;
    ensure!(compose(&["ps", "-q", "store"])? != before, "a changed container stayed");
    ensure!(compose(&["exec", "-T", "store", "sh", "-c", "echo $COLOUR; cat /data/file"])? == "green\nkept");

    compose(&["up", "-d", "--scale", "store=3"])?;
    ensure!(compose(&["ps", "-q", "store"])?.lines().count() == 3, "three of store");
    compose(&["restart", "-t", "5", "web"])?;
    wait::until("an answer after the restart", || host.who_answers("http://127.0.0.1:8085/"))?;
    ensure!(compose(&["run", "--rm", "-T", "store", "echo", "once"])?.ends_with("once"), "run gives the output");
    compose(&["stop"])?;
    compose(&["start"])?;
    compose(&["down", "--volumes", "-t", "5"])?;
    for (args, left) in [
        (["ps", "-aq"].as_slice(), ""),
        (&["volume", "ls", "-q"], ""),
        (&["network", "ls", "-q", "--filter", "name=project"], ""),
    ] {
        ensure!(host.ok(args)? == left, "{args:?} after down");
    }
    Ok(())
}

fn sdk_for_python(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    host.import_busybox()?;
    let mut command = host.inside(&["/usr/bin/python3", "-c", include_str!("sdk/script.py")]);
    command.env("DOCKER_HOST", format!("unix://{}", host.socket()));
    let said = success(&command.output()?)?;
    ensure!(said.ends_with("all is well"), "{said}");
    Ok(())
}
