//! Clients that nobody here wrote and that are no docker command line: docker-compose and
//! the SDK for Python, both as Debian ships them.

use crate::Scenario;
use crate::compose::{Project, SHOP};
use anyhow::{Result, ensure};
use skep_conformance::client::success;
use skep_conformance::{Host, wait};

/// Scenarios that bring their own client.
pub(crate) const SCENARIOS: &[Scenario] = &[("compose_v1", compose_v1), ("sdk_for_python", sdk_for_python)];

fn compose_v1(host: &mut Host) -> Result<()> {
    let project = Project::new(host, SHOP)?;
    let compose = |args: &[&str]| project.other(args);

    compose(&["up", "-d", "--build"])?;
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8085/"))?;
    let listed = compose(&["ps"])?;
    ensure!(listed.contains("shop_web_1") && listed.contains("0.0.0.0:8085->80/tcp"), "{listed}");
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
    project.write(&SHOP.replace("COLOUR: blue", "COLOUR: green"))?;
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
    project.nothing_is_left()
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
